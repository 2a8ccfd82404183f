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
KNOWN: dict[str, str] = {
    "d788fd079ec6808c": "convnexttiny",
    "848e22eec70c26ca": "densenet121",
    "fd3b893f9cd86073": "densenet169",
    "9473bd1ea133ac80": "densenet201",
    "ab79bf181d84a212": "efficientnetb0",
    "c65eff20ad52c3f7": "efficientnetb1",
    "c52aa44ec8d4aa52": "efficientnetb2",
    "88e48eeb58c2529e": "efficientnetb3",
    "b236c175ecc2ccd6": "efficientnetb4",
    "95f4f2900610068a": "efficientnetb5",
    "e94dc863ee8749e6": "efficientnetv2b0",
    "cca6fe68782517ba": "efficientnetv2b1",
    "82c69323bf16d7a4": "efficientnetv2b2",
    "1b7363ee9967179e": "efficientnetv2b3",
    "31938181abae7d71": "efficientnetv2m",
    "2e47296c267d1bd4": "efficientnetv2s",
    "7b62726f0fa972cb": "inceptionresnetv2",
    "bee21ff006ef3285": "inceptionv3",
    "96bd553b82c8d321": "mobilenet",
    "7d86e8ee89f8f108": "mobilenetv2",
    "30bddd5407c1b1bd": "mobilenetv3large",
    "29b904c0a202f46e": "mobilenetv3small",
    "739811b5a73fcf55": "nasnetmobile",
    "91c6a2c325c7c2ae": "resnet101",
    "8b3c309247f31fa5": "resnet101v2",
    "87550b33f123113a": "resnet152",
    "2d30dfb335640d43": "resnet152v2",
    "e5106759e1403eae": "resnet50",
    "346a1331b4661cab": "resnet50v2",
    "6108f707dfc5b3bf": "vgg16",
    "40aa1e9ce530bce8": "vgg19",
    "2c54dbbfab7ae75f": "xception",
}


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
