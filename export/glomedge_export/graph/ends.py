"""Both ends of the graph: uint8 pixels in front, probability and activation map behind.

Global average pooling and the dense layer are both linear, so applying the dense layer to each position of the feature
map first and averaging afterwards is exact; that is class activation mapping (Zhou et al., CVPR 2016) with the bias
kept. Where the layers behind the feature map are not linear, there is no such map, and the logit stays as it was.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper

from glomedge.errors import ModelError
from glomedge.model.scaling import Scaling
from glomedge.model.spec import InputScaling
from glomedge_export.graph import surgery


def tensor_info(name: str, dtype: int, shape: list[str | int]) -> onnx.ValueInfoProto:
    """An input or output of a graph."""
    return helper.make_tensor_value_info(name, dtype, shape)


def attach_front(model: onnx.ModelProto, input_scaling: InputScaling | Scaling) -> onnx.ModelProto:
    """Put uint8 RGB NHWC input and its scaling before a body whose input is ``scaled`` ``[N, 3, side, side]``.

    What is exact is absorbed into the weights of the first convolution: the RGB -> BGR flip (a permutation) and the
    factor of each channel. The subtraction stays: folded into the bias it would be wrong at the zero-padded border.
    """
    scaling = input_scaling if isinstance(input_scaling, Scaling) else Scaling.named(input_scaling)
    model = surgery.copy(model)
    side_px = model.graph.input[0].type.tensor_type.shape.dim[2].dim_value
    nodes = list(model.graph.node)
    # Cast first: TensorRT takes a uint8 input into a Cast and into nothing else.
    front = [helper.make_node("Cast", ["images"], ["images.float"], name="images.float", to=TensorProto.FLOAT)]
    if _absorbed(model, scaling):
        _, mean = scaling.factors_and_means()
        front += _shifted(model, mean[::-1] if scaling.affine.channel_order == "BGR" else mean)
    else:
        front += _spelt_out(model, scaling)
    surgery.replace_nodes(model, [*front, *nodes])
    del model.graph.input[:]
    model.graph.input.append(tensor_info("images", TensorProto.UINT8, ["N", side_px, side_px, 3]))
    return model


def _absorbed(model: onnx.ModelProto, scaling: Scaling) -> bool:
    """Whether order and factors went into the weights of the first convolution (in place)."""
    known, readers = surgery.constants(model), surgery.consumers(model)
    first = readers.get("scaled", [])
    plain = len(first) == 1 and first[0].op_type == "Conv" and surgery.attribute(first[0], "group", 1) == 1
    # A weight that another layer reads as well, or that is no constant, must stay as it is.
    if not plain or first[0].input[1] not in known or len(readers[first[0].input[1]]) != 1:
        return False
    if not all(scaling.affine.scale):
        return False
    factors, _ = scaling.factors_and_means()
    weight = known[first[0].input[1]] * factors.reshape(1, 3, 1, 1)
    if scaling.affine.channel_order == "BGR":
        weight = weight[:, ::-1]
    surgery.add_constant(model, first[0].input[1], weight.astype(np.float32))
    return True


def _shifted(model: onnx.ModelProto, mean_rgb: npt.NDArray[np.float64]) -> list[onnx.NodeProto]:
    if not mean_rgb.any():
        return [_planes("scaled")]
    surgery.add_constant(model, "images.mean", mean_rgb.astype(np.float32).reshape(1, 3, 1, 1))
    subtract = helper.make_node("Sub", ["images.nchw", "images.mean"], ["scaled"], name="scaled")
    return [_planes("images.nchw"), subtract]


def _planes(name: str) -> onnx.NodeProto:
    return helper.make_node("Transpose", ["images.float"], [name], name=name, perm=[0, 3, 1, 2])


def _spelt_out(model: onnx.ModelProto, scaling: Scaling) -> list[onnx.NodeProto]:
    """The scaling as operators, for a network that does not begin with one plain convolution."""
    nodes, source = [_planes("images.nchw")], "images.nchw"
    if scaling.affine.channel_order == "BGR":
        surgery.add_constant(model, "images.order", np.asarray([2, 1, 0], np.int64))
        nodes.append(helper.make_node("Gather", [source, "images.order"], ["images.bgr"], name="images.bgr", axis=1))
        source = "images.bgr"
    for name, values in (("images.scale", scaling.affine.scale), ("images.offset", scaling.affine.offset)):
        surgery.add_constant(model, name, np.asarray(values, np.float32).reshape(1, 3, 1, 1))
    nodes.append(helper.make_node("Mul", [source, "images.scale"], ["images.scaled"], name="images.scaled"))
    nodes.append(helper.make_node("Add", ["images.scaled", "images.offset"], ["scaled"], name="scaled"))
    return nodes


def attach_head(
    model: onnx.ModelProto, kernel: npt.NDArray[np.float32], bias: npt.NDArray[np.float32], temperature: float
) -> onnx.ModelProto:
    """Put the dense layer as a 1x1 convolution behind ``features``, and the two outputs behind that.

    Args:
        model: body with output ``features`` ``[N, C, cells, cells]``.
        kernel: ``[C, 1]`` of the dense layer.
        bias: ``[1]`` of the dense layer.
        temperature: probability is sigmoid(logit / temperature).

    Raises:
        ModelError: the feature map is not square.
    """
    model = surgery.copy(model)
    sizes = [dim.dim_value for dim in model.graph.output[0].type.tensor_type.shape.dim]
    if len(sizes) != 4 or sizes[1] != len(kernel) or sizes[2] != sizes[3] or not sizes[2]:
        raise ModelError(
            f"The feature map of this model has the shape {sizes[1:]} and its dense layer {len(kernel)} inputs: no "
            "square map comes of that. Export a network for square pictures."
        )
    surgery.add_constant(model, "head.weight", kernel.reshape(1, -1, 1, 1).astype(np.float32))
    surgery.add_constant(model, "head.bias", bias.reshape(1).astype(np.float32))
    surgery.add_constant(model, "head.axis", np.asarray([1], np.int64))
    nodes = [
        helper.make_node("Conv", ["features", "head.weight", "head.bias"], ["head"], name="head", kernel_shape=[1, 1]),
        helper.make_node("Squeeze", ["head", "head.axis"], ["activation"], name="activation"),
        helper.make_node("ReduceMean", ["head"], ["logit.map"], name="logit.map", axes=[2, 3], keepdims=0),
    ]
    nodes += _probability(model, "logit.map", temperature)
    surgery.replace_nodes(model, [*model.graph.node, *nodes])
    del model.graph.output[:]
    model.graph.output.append(tensor_info("probability", TensorProto.FLOAT, ["N", 1]))
    model.graph.output.append(tensor_info("activation", TensorProto.FLOAT, ["N", sizes[2], sizes[2]]))
    return model


def attach_logits(model: onnx.ModelProto, count: int, positive: int, temperature: float) -> onnx.ModelProto:
    """Put the output behind ``logits``, for a network without an exact map.

    Softmax over two numbers is the sigmoid of their difference.

    Args:
        model: body with the outputs ``features`` and ``logits``, whose numbers for each crop are ``count``.
        count: 1 or 2.
        positive: which of two is *globally sclerotic*.
        temperature: probability is sigmoid(logit / temperature).
    """
    model = surgery.copy(model)
    surgery.add_constant(model, "logit.shape", np.asarray([-1, count], np.int64))
    nodes = [helper.make_node("Reshape", ["logits", "logit.shape"], ["logit.flat"], name="logit.flat")]
    logit = "logit.flat"
    if count == 2:
        signs = np.where(np.arange(2) == positive, 1.0, -1.0).astype(np.float32)
        surgery.add_constant(model, "logit.signs", signs.reshape(2, 1))
        logit = "logit.difference"
        nodes.append(helper.make_node("MatMul", ["logit.flat", "logit.signs"], [logit], name=logit))
    nodes += _probability(model, logit, temperature)
    surgery.replace_nodes(model, [*model.graph.node, *nodes])
    del model.graph.output[:]
    model.graph.output.append(tensor_info("probability", TensorProto.FLOAT, ["N", 1]))
    return model


def _probability(model: onnx.ModelProto, logit: str, temperature: float) -> list[onnx.NodeProto]:
    nodes = []
    if temperature != 1.0:
        surgery.add_constant(model, "temperature", np.asarray(temperature, np.float32))
        nodes.append(helper.make_node("Div", [logit, "temperature"], ["logit.calibrated"], name="logit.calibrated"))
        logit = "logit.calibrated"
    return [*nodes, helper.make_node("Sigmoid", [logit], ["probability"], name="probability")]


def with_temperature(model: onnx.ModelProto, temperature: float) -> onnx.ModelProto:
    """A finished graph of temperature 1 with another temperature: the logit is divided, nothing else changes."""
    model = surgery.copy(model)
    (sigmoid,) = [node for node in model.graph.node if node.output[0] == "probability"]
    kept = [node for node in model.graph.node if node.output[0] != "probability"]
    surgery.replace_nodes(model, [*kept, *_probability(model, sigmoid.input[0], temperature)])
    return model
