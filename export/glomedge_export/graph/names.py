"""Names of nodes and tensors that a person can read, made of those that tf2onnx made of Keras' layers."""

from __future__ import annotations

import re

import onnx

from glomedge_export.graph import surgery

# What TensorFlow calls operations inside a layer: the layer is the part before them.
_INSIDE = re.compile(
    r"^(convolution|depthwise|separable_conv2d|batchnorm|BiasAdd|Relu6?|Sigmoid|Softmax|Tanh|MatMul|Mean|Max|AvgPool|"
    r"MaxPool2?d?|Pad|concat|Cast|add|mul|sub|truediv|Mul|Add|Sub|Shape|Reshape|strided_slice)(_\d+)*$"
)
_KEPT = ("features", "logits", "scaled", "scaled.nhwc")
# Names of our own front and head, which a layer may have as well.
_OURS = ("images", "head", "logit", "activation", "probability", "temperature")


def named_by_layer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every node, its output and its weights named after the layer that a person knows, as far as it shows.

    ``functional_1/resnet50v2_1/conv2_block1_1_conv_1/convolution:0`` becomes ``conv2_block1_1_conv``. What shows no
    layer is named after its operator; equal names are numbered. ``features``, ``logits`` and ``scaled`` stay.
    """
    model = surgery.copy(model)
    weights = {tensor.name for tensor in model.graph.initializer}
    renamed: dict[str, str] = {}
    taken: set[str] = {*_KEPT, *_OURS}

    def unique(base: str) -> str:
        name, count = base, 1
        while name in taken:
            count += 1
            name = f"{base}.{count}"
        taken.add(name)
        return name

    for node in model.graph.node:
        # A convolution that swallowed its BatchNormalization is known by its weight, anything else by its result.
        mentions = [*node.input[1:2], node.output[0]] if node.op_type == "Conv" else [node.output[0]]
        found = [layer for layer in map(_layer_of, mentions) if layer is not None]
        base = unique(found[0] if found else node.op_type.lower())
        node.name = base
        for position, output in enumerate(node.output):
            if output not in _KEPT:
                renamed[output] = base if position == 0 else f"{base}.output{position}"
        for position, name in enumerate(node.input[1:], 1):
            if name in weights and name not in renamed:
                renamed[name] = unique(f"{base}.{('input', 'weight', 'bias')[min(position, 2)]}")
    for node in model.graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = renamed.get(tensor.name, tensor.name)
    return model


def _layer_of(tensor: str) -> str | None:
    """The layer in a name of tf2onnx, without the number that Keras 3 appends to every layer it calls."""
    parts = tensor.split("/")[:-1]
    while parts and _INSIDE.match(parts[-1]):
        parts.pop()
    if not parts:
        return None
    return re.sub(r"[^A-Za-z0-9_.-]", "_", re.sub(r"_1$", "", parts[-1]))
