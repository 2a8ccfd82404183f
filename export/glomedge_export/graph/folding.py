"""More exact surgery, for networks other than ours: padding and BatchNormalization that tf2onnx leaves by themselves.

Like ``surgery``: every function takes a ``ModelProto`` and returns another one. None of them finds anything in the
converted ResNet50V2.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from glomedge_export.graph import surgery

_NEVER_NEGATIVE = {"Relu", "Sigmoid"}


def padding_into_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """A zero ``Pad`` of height and width that only a ``Conv`` reads -> that convolution's own padding."""
    model = surgery.copy(model)
    known, readers = surgery.constants(model), surgery.consumers(model)
    outputs = {output.name for output in model.graph.output}
    gone: dict[str, tuple[str, surgery.Array]] = {}
    for node in model.graph.node:
        pads = surgery.zero_padding(node, known)
        after = readers.get(node.output[0], [])
        plain = bool(after) and all(
            one.op_type == "Conv"
            and one.input[0] == node.output[0]
            and surgery.attribute(one, "auto_pad", b"NOTSET") in (b"NOTSET", b"VALID")
            for one in after
        )
        if pads is not None and plain and node.output[0] not in outputs:
            gone[node.output[0]] = (node.input[0], pads)
    kept = []
    for node in model.graph.node:
        if node.output[0] in gone:
            continue
        if node.op_type == "Conv" and node.input[0] in gone:
            source, pads = gone[node.input[0]]
            own = np.asarray(surgery.attribute(node, "pads", [0] * 4)).reshape(2, 2)
            node.input[0] = source
            rest = [item for item in node.attribute if item.name not in ("pads", "auto_pad")]
            del node.attribute[:]
            node.attribute.extend([*rest, helper.make_attribute("pads", (own + pads).reshape(-1).tolist())])
        kept.append(node)
    surgery.replace_nodes(model, kept)
    return surgery.prune(model)


def padding_into_pools(model: onnx.ModelProto) -> onnx.ModelProto:
    """A zero ``Pad`` between something never negative and a ``MaxPool`` -> the pool's own padding.

    A pool pads with the lowest number there is, and a zero changes no maximum of numbers that are not negative. (Every
    window holds at least one of them: the padding must be narrower than the window.)
    """
    model = surgery.copy(model)
    known, readers = surgery.constants(model), surgery.consumers(model)
    makers = {name: node for node in model.graph.node for name in node.output}
    gone: dict[str, tuple[str, surgery.Array]] = {}
    for node in model.graph.node:
        pads = surgery.zero_padding(node, known)
        after = readers.get(node.output[0], [])
        if pads is None or len(after) != 1 or after[0].op_type != "MaxPool":
            continue
        pool = after[0]
        kernel = np.asarray(surgery.attribute(pool, "kernel_shape"))
        unpadded = not any(surgery.attribute(pool, "pads", [0])) and not surgery.attribute(pool, "ceil_mode", 0)
        if unpadded and (pads < kernel).all() and _never_negative(makers.get(node.input[0]), known):
            gone[node.output[0]] = (node.input[0], pads)
    kept = []
    for node in model.graph.node:
        if node.output[0] in gone:
            continue
        if node.op_type == "MaxPool" and node.input[0] in gone:
            node.input[0], pads = gone[node.input[0]]
            rest = [item for item in node.attribute if item.name not in ("pads", "auto_pad")]
            del node.attribute[:]
            node.attribute.extend([*rest, helper.make_attribute("pads", pads.reshape(-1).tolist())])
        kept.append(node)
    surgery.replace_nodes(model, kept)
    return surgery.prune(model)


def _never_negative(node: onnx.NodeProto | None, known: dict[str, surgery.Array]) -> bool:
    if node is None:
        return False
    if node.op_type == "Clip" and len(node.input) > 1 and node.input[1] in known:
        return bool((known[node.input[1]] >= 0).all())
    return node.op_type in _NEVER_NEGATIVE


def batchnorm_into_convolutions(model: onnx.ModelProto) -> onnx.ModelProto:
    """``BatchNormalization`` behind a ``Conv`` that nothing else reads -> weight and bias of that convolution.

    tf2onnx does so itself, but not behind depthwise convolutions.
    """
    model = surgery.copy(model)
    known, readers = surgery.constants(model), surgery.consumers(model)
    outputs = {output.name for output in model.graph.output}
    convolutions = {node.output[0]: node for node in model.graph.node if node.op_type == "Conv"}
    kept = []
    for node in model.graph.node:
        conv = convolutions.get(node.input[0]) if node.op_type == "BatchNormalization" else None
        alone = conv is not None and len(readers[conv.output[0]]) == 1 and conv.output[0] not in outputs
        if conv is None or not alone or conv.input[1] not in known or not all(n in known for n in node.input[1:5]):
            kept.append(node)
            continue
        gamma, beta, mean, variance = (known[name].astype(np.float64) for name in node.input[1:5])
        scale = gamma / np.sqrt(variance + surgery.attribute(node, "epsilon", 1e-5))
        weight = known[conv.input[1]].astype(np.float64) * scale.reshape(-1, 1, 1, 1)
        bias = known[conv.input[2]].astype(np.float64) if len(conv.input) > 2 else np.zeros(len(scale))
        base = node.output[0]
        names = [
            surgery.add_constant(model, f"{base}.weight", weight.astype(np.float32)),
            surgery.add_constant(model, f"{base}.bias", ((bias - mean) * scale + beta).astype(np.float32)),
        ]
        conv.input[:] = [conv.input[0], *names]
        conv.output[0] = base
    surgery.replace_nodes(model, kept)
    return surgery.prune(model)


def plain_batchnorm(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every ``BatchNormalization`` as one factor and one summand: mean 0, variance 1, epsilon 0.

    That is the form of ``surgery.batchnorm_from_mul_add``; in float16 a variance may be too small or too large.
    """
    model = surgery.copy(model)
    known = surgery.constants(model)
    for node in model.graph.node:
        if node.op_type != "BatchNormalization" or not all(name in known for name in node.input[1:5]):
            continue
        gamma, beta, mean, variance = (known[name].astype(np.float64) for name in node.input[1:5])
        epsilon = surgery.attribute(node, "epsilon", 1e-5)
        if epsilon == 0.0 and not mean.any() and (variance == 1.0).all():
            continue
        scale = gamma / np.sqrt(variance + epsilon)
        values = {
            "scale": scale,
            "shift": beta - mean * scale,
            "mean": np.zeros(len(scale)),
            "variance": np.ones(len(scale)),
        }
        base = node.output[0]
        names = [surgery.add_constant(model, f"{base}.{key}", v.astype(np.float32)) for key, v in values.items()]
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("epsilon", 0.0))
        node.input[:] = [node.input[0], *names]
    return surgery.prune(model)
