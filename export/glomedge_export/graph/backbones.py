"""Which network of ``keras.applications`` a graph is, by all its convolutions.

``KNOWN`` is printed by ``tests/tools/backbone_table.py``, which builds every network of ``keras.applications`` and
converts it like any model.
"""

from __future__ import annotations

import hashlib

import onnx

from glomedge_export.graph import surgery

OTHER = "other"
# First 16 hexadecimal digits of ``convolutions_sha256``.
KNOWN: dict[str, str] = {}


def convolutions_sha256(model: onnx.ModelProto) -> str:
    """SHA-256 of weight shape, stride and group of every convolution, sorted: branches have no order of their own.

    The weights may be constants or the inputs of a skeleton (``whole.skeleton``).
    """
    shapes = surgery.static_shapes(onnx.shape_inference.infer_shapes(model))
    lines = sorted(
        f"{list(shapes.get(node.input[1], ()))} {list(surgery.attribute(node, 'strides', [1, 1]))} "
        f"{surgery.attribute(node, 'group', 1)}"
        for node in model.graph.node
        if node.op_type == "Conv"
    )
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def backbone_name(model: onnx.ModelProto) -> str:
    """The network's name in ``keras.applications``, in lower case, or ``other``."""
    return KNOWN.get(convolutions_sha256(model)[:16], OTHER)
