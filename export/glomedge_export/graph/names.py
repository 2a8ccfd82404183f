"""Names of nodes and tensors that a person can read, made of those that tf2onnx made of Keras' layers."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Iterable

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


def name_by_layer(model: onnx.ModelProto) -> onnx.ModelProto:
    """Every node, its output and its weights named after the layer that a person knows, as far as it shows.

    ``functional_1/resnet50v2_1/conv2_block1_1_conv_1/convolution:0`` becomes ``conv2_block1_1_conv``. What shows no
    layer is named after its operator; equal names are numbered. ``features``, ``logits`` and ``scaled`` stay.
    """

    def layer_of(node: onnx.NodeProto) -> str | None:
        # A convolution that swallowed its BatchNormalization is known by its weight, anything else by its result.
        mentions = [*node.input[1:2], node.output[0]] if node.op_type == "Conv" else [node.output[0]]
        return next((layer for layer in map(_layer_in, mentions) if layer is not None), None)

    return _named(model, layer_of)


def name_by_known_layers(model: onnx.ModelProto, layer_names: Iterable[str]) -> onnx.ModelProto:
    """The same for a network whose layers are known: names that tf2onnx made up are traced through the weights.

    The nameless stride pools of the shortcuts are numbered, because Keras numbers them differently in every process.
    """
    layers, pools = set(layer_names), itertools.count(1)

    def layer_of(node: onnx.NodeProto) -> str | None:
        mentions = [*node.input[1:], node.name] if node.op_type == "Conv" else [node.output[0], node.name]
        found = _known_layer_in(mentions, layers)
        if node.op_type == "MaxPool" and (found is None or found.startswith("max_pooling2d")):
            return f"shortcut_pool{next(pools)}"
        return found

    return _named(model, layer_of)


def _named(model: onnx.ModelProto, layer_of: Callable[[onnx.NodeProto], str | None]) -> onnx.ModelProto:
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
        node.name = base = unique(layer_of(node) or node.op_type.lower())
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


def _layer_in(tensor: str) -> str | None:
    """The layer in a name of tf2onnx, without the number that Keras 3 appends to every layer it calls."""
    parts = tensor.split("/")[:-1]
    while parts and _INSIDE.match(parts[-1]):
        parts.pop()
    if not parts:
        return None
    return re.sub(r"[^A-Za-z0-9_.-]", "_", re.sub(r"_1$", "", parts[-1]))


def _known_layer_in(names: list[str], layers: set[str]) -> str | None:
    """The Keras layer that one of these tf2onnx names mentions (``x/conv2_block1_1_conv_1/...``)."""
    for name in names:
        for part in name.split("/"):
            for candidate in (part, re.sub(r"(_\d+)$", "", part)):
                if candidate in layers:
                    return candidate
    return None
