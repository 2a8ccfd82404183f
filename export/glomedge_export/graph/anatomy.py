"""A converted network taken apart: pixels | front | body from ``scaled`` to ``features`` | head | output.

Everything is read off the graph and nothing off the names of layers, so that it does not matter which Keras wrote the
file and in which form. What the graph does not show is said by the user (``Choices``); ``missing`` lists what that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import onnx
from onnx import TensorProto, helper

from glomedge.errors import ModelError, UsageError
from glomedge.model.scaling import Scaling
from glomedge.model.spec import InputScaling
from glomedge_export.graph import surgery
from glomedge_export.graph.front import Front, read_front
from glomedge_export.graph.head import LinearHead, Output, last_feature_map, read_linear_head, read_output

PositiveClass = Literal[0, 1]
GIVEN_SCALINGS: tuple[InputScaling, ...] = tuple(name for name in get_args(InputScaling) if name != "affine")


@dataclass(frozen=True)
class Choices:
    """What the user says about a model, because its file does not.

    Attributes:
        input_scaling: applied to the pixels where the model does not scale them itself.
        logits: the output has no activation and is a logit.
        positive_class: which of two outputs is *globally sclerotic*.
    """

    input_scaling: InputScaling | None = None
    logits: bool = False
    positive_class: PositiveClass | None = None


@dataclass(frozen=True)
class Outside:
    """Both ends of a network, as the graph shows them; enough to know what must be said.

    Attributes:
        front: what is done to the pixels.
        output: what the last layer is.
    """

    front: Front
    output: Output


@dataclass(frozen=True)
class Anatomy:
    """A whole network, with everything settled.

    Attributes:
        front: where the network proper begins.
        output: what the last layer is.
        scaling: of the pixels, found or given.
        scaling_found: whether the model itself applies it.
        head: the head as one layer; None where there is no exact map.
        positive: which output is *globally sclerotic*.
    """

    front: Front
    output: Output
    scaling: Scaling
    scaling_found: bool
    head: LinearHead | None
    positive: int


def read_outside(model: onnx.ModelProto, outputs: int) -> Outside:
    """Front and output of a graph or of its skeleton (``whole.skeleton``).

    Raises:
        ModelError: what is done to the pixels, or the output, is nothing that a model file can carry.
    """
    return Outside(read_front(model), read_output(model, outputs))


def missing(outside: Outside, choices: Choices) -> list[str]:
    """What must be said and was not: an option with its choices each.

    Raises:
        UsageError: something was said that the model contradicts.
    """
    wanted = []
    found = outside.front.known
    if found is None and choices.input_scaling is None:
        names = "none" if outside.front.whole_numbers else f"{', '.join(GIVEN_SCALINGS[:-1])} or {GIVEN_SCALINGS[-1]}"
        wanted.append(f"--input-scaling {names} (the model shows none; 'none': pixels 0..255 as they are)")
    if outside.front.whole_numbers and found is None and choices.input_scaling not in (None, "none"):
        raise UsageError(
            f"The model takes whole numbers as pixels, so what --input-scaling {choices.input_scaling} gives would be "
            "rounded before it. Give --input-scaling none, or save the model with an input of floats."
        )
    if found is not None and choices.input_scaling is not None:
        inside = outside.front.behind_resizing or found
        raise UsageError(
            f"The model scales its pixels itself ({inside.name}), so --input-scaling {choices.input_scaling} would be "
            "applied on top of that. Omit --input-scaling."
        )
    if outside.output.kind == "linear" and not choices.logits:
        wanted.append("--logits (the last layer has no activation: say so if it gives logits)")
    if outside.output.kind != "linear" and choices.logits:
        raise UsageError(f"The last layer ends in {outside.output.kind}, so its output is no logit. Omit --logits.")
    if outside.output.count == 2 and choices.positive_class is None:
        wanted.append("--positive-class 0 or 1 (which output is globally sclerotic)")
    if outside.output.count == 1 and choices.positive_class == 0:
        raise UsageError(
            "The model gives one number, which glomedge takes as that of globally sclerotic. --positive-class 0 is "
            "for models with two outputs: omit it, or train the model with the labels exchanged."
        )
    return wanted


def read(model: onnx.ModelProto, outputs: int, choices: Choices) -> Anatomy:
    """Take a whole graph apart (``missing`` has said that nothing is).

    Args:
        model: of ``whole.whole``.
        outputs: numbers that the model gives for each crop.
        choices: what the user said.
    """
    outside = read_outside(model, outputs)
    found = outside.front.known
    scaling = found if found is not None else Scaling.named(choices.input_scaling or "none")
    positive = choices.positive_class if outputs == 2 and choices.positive_class is not None else outputs - 1
    head = read_linear_head(model, outside.output)
    return Anatomy(outside.front, outside.output, scaling, found is not None, head, positive)


def body(model: onnx.ModelProto, anatomy: Anatomy) -> onnx.ModelProto:
    """The network between front and head: ``scaled`` ``[N, 3, side, side]`` -> ``features`` ``[N, C, h, w]``.

    Without an exact map the outputs are ``features`` (the last feature map) and ``logits`` ``[N, count]``.

    Raises:
        ModelError: there is no feature map between pixels and logit.
    """
    source = model.graph.input[0]
    side_px = source.type.tensor_type.shape.dim[1].dim_value
    result = surgery.copy(model)
    nodes = list(result.graph.node)
    begun, front = _begun(nodes, source.name, anatomy.front)
    head = anatomy.head
    if head is not None:
        ended, outputs = _ended_in_features([*begun, *front], head)
    else:
        features = last_feature_map(model, anatomy.output.logits)
        if features is None:
            raise ModelError(
                "There is no feature map between the pixels and the answer of this model. glomedge takes image "
                "networks of convolutions: export such a one."
            )
        ended = [_renamed(node, {features: "features", anatomy.output.logits: "logits"}) for node in [*begun, *front]]
        outputs = ["features", "logits"]
    surgery.replace_nodes(result, ended)
    del result.graph.input[:], result.graph.output[:], result.graph.value_info[:]
    shape: list[str | int] = ["N", 3, side_px, side_px]
    result.graph.input.append(helper.make_tensor_value_info("scaled", TensorProto.FLOAT, shape))
    for name in outputs:
        result.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    result = surgery.prune(result)
    shapes = surgery.static_shapes(onnx.shape_inference.infer_shapes(result, data_prop=True))
    del result.graph.output[:]
    for name in outputs:
        known = ["N", *shapes.get(name, ())[1:]]
        result.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, known))
    return result


def _begun(
    nodes: Sequence[onnx.NodeProto], pixels: str, front: Front
) -> tuple[list[onnx.NodeProto], list[onnx.NodeProto]]:
    """Nodes that make of ``scaled`` what the network reads, and the network's own nodes reading it."""
    # Pixels without a scaling stay in the layout of the input; so do the sizes that some nodes ask of it.
    last = "scaled.nhwc"
    begun = [helper.make_node("Transpose", ["scaled"], [last], name=last, perm=[0, 2, 3, 1])]
    names = {pixels: last, front.tensor: last if front.channels_last else "scaled"}
    return begun, [_renamed(node, names) for node in nodes if front.tensor not in node.output]


def _ended_in_features(nodes: list[onnx.NodeProto], head: LinearHead) -> tuple[list[onnx.NodeProto], list[str]]:
    features = head.features
    if not head.channels_last:
        return [_renamed(node, {features: "features"}) for node in nodes], ["features"]
    for node in nodes:
        if features in node.output and node.op_type == "Transpose":
            return [_renamed(other, {node.input[0]: "features"}) for other in nodes], ["features"]
    turned = helper.make_node("Transpose", [features], ["features"], name="features", perm=[0, 3, 1, 2])
    return [*nodes, turned], ["features"]


def _renamed(node: onnx.NodeProto, names: dict[str, str]) -> onnx.NodeProto:
    twin = onnx.NodeProto.FromString(node.SerializeToString())
    twin.input[:] = [names.get(name, name) for name in twin.input]
    twin.output[:] = [names.get(name, name) for name in twin.output]
    return twin
