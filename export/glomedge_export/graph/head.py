"""What a network does behind its last feature map: the kind of its output, and whether the logit is linear in it.

Where the path from a global average pool to the logit holds nothing but additions and multiplications by constants
(Dense layers without activation, Dropout gone, BatchNormalization of the pooled features), it is one kernel and one
bias, however many layers it is written in, and the activation map is exact.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from glomedge.errors import ModelError
from glomedge_export.graph import surgery

OutputKind = Literal["sigmoid", "softmax", "linear"]
_KEEPS_NUMBERS = {"Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Flatten"}
_NO_ACTIVATION = {
    *("MatMul", "Gemm", "Add", "Sub", "Mul", "Div", "Conv", "BatchNormalization"),
    *("GlobalAveragePool", "ReduceMean", "AveragePool"),
}
# Behind these a number is no probability any more, whatever went in; and a size is no number of the answer.
_WEIGHTED = {"MatMul", "Gemm", "Conv", "ConvTranspose", "Shape"}
_PROBABILITIES = {"Sigmoid", "Softmax", "HardSigmoid"}
# What gelu, mish, hard_silu and the like are written out with.
_BENT = {"Erf", "Tanh", "Softplus", "Exp", "Log", "Relu", "Clip", "Min", "Max"}
_TAKEN = (
    "glomedge takes Dense(1, sigmoid), Dense(2, softmax), or a Dense layer of logits without activation (--logits): "
    "put one of these there and save the model again."
)
# With one operand that depends on the pixels.
_LINEAR = {"Add", "Sub", "Mul", "Div", "MatMul", "Gemm", "Neg", *_KEEPS_NUMBERS}


@dataclass(frozen=True)
class Output:
    """How a model says its answer.

    Attributes:
        kind: what the last layer's activation is.
        logits: the tensor before it.
        count: numbers for each crop, 1 or 2.
    """

    kind: OutputKind
    logits: str
    count: int


@dataclass(frozen=True)
class LinearHead:
    """Global average pooling and all that is linear behind it, as one layer.

    Attributes:
        features: the tensor that is pooled, ``[N, C, h, w]``.
        channels_last: whether it is ``[N, h, w, C]`` instead.
        kernel: float32 ``[C, count]``.
        bias: float32 ``[count]``.
    """

    features: str
    channels_last: bool
    kernel: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


def read_output(model: onnx.ModelProto, count: int) -> Output:
    """The kind of the output.

    Args:
        model: constants folded.
        count: numbers that the model gives for each crop.

    Raises:
        ModelError: an activation that gives no probability of one of two classes.
    """
    makers = _makers(model)
    name = model.graph.output[0].name
    while (node := makers.get(name)) is not None and node.op_type in _KEEPS_NUMBERS:
        name = node.input[0]
    if node is not None and node.op_type == "Sigmoid" and count == 1:
        return Output("sigmoid", node.input[0], 1)
    if node is not None and node.op_type == "Softmax" and count == 2:
        return Output("softmax", node.input[0], 2)
    if node is not None and node.op_type in _NO_ACTIVATION:
        _refuse_activations(makers, name)
        return Output("linear", name, count)
    ending = f"{node.op_type} over {count} number{'s' if count > 1 else ''}" if node is not None else "nothing"
    raise ModelError(f"The last layer of this model ends in {ending}. {_TAKEN}")


def _refuse_activations(makers: dict[str, onnx.NodeProto], name: str) -> None:
    """Refuse arithmetic on an activation's answer: the mean of two probabilities, ``1 - p`` or ``gelu`` is no logit."""
    seen, waiting = {name}, [name]
    while waiting:
        node = makers.get(waiting.pop())
        if node is None or node.op_type in _WEIGHTED:
            continue
        if node.op_type in _PROBABILITIES:
            raise ModelError(
                f"The last layer of this model combines probabilities (numbers behind {node.op_type}), and glomedge "
                "needs the logit of one: save a model that ends in one Dense layer."
            )
        if node.op_type in _BENT:
            raise ModelError(f"The last layer of this model ends in an activation with {node.op_type}. {_TAKEN}")
        waiting += [one for one in node.input if one and one not in seen]
        seen.update(node.input)


def read_linear_head(model: onnx.ModelProto, output: Output) -> LinearHead | None:
    """The head as one layer, or None where the logit is not linear in a global average of a feature map."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes, known, makers = surgery.static_shapes(inferred), surgery.constants(model), _makers(model)
    between: list[onnx.NodeProto] = []
    name = output.logits
    while True:
        node = makers.get(name)
        if node is None:
            return None
        pooled = _pooled(node, shapes, known)
        if pooled is not None:
            features, channels_last = pooled
            break
        varying = [one for one in node.input if one and one not in known]
        by_variable = node.op_type == "Div" and node.input[0] in known
        if node.op_type not in _LINEAR or len(varying) != 1 or by_variable:
            return None
        between.append(node)
        name = varying[0]
    channels = shapes[features][3 if channels_last else 1]
    if not isinstance(channels, int):
        return None
    shape = [size for size in shapes.get(name, ())[1:] if isinstance(size, int)]
    if sorted(shape) != [1] * (len(shape) - 1) + [channels]:
        return None
    kernel, bias = _as_one_layer(model, list(reversed(between)), name, output, shape)
    return LinearHead(features, channels_last, kernel, bias)


def _pooled(
    node: onnx.NodeProto, shapes: dict[str, tuple[int | str, ...]], known: dict[str, surgery.Array]
) -> tuple[str, bool] | None:
    """The feature map that a node averages over all its positions, and whether its channels are last."""
    shape = shapes.get(node.input[0], ())
    if len(shape) != 4:
        return None
    if node.op_type == "GlobalAveragePool":
        return node.input[0], False
    if node.op_type == "AveragePool":
        whole = list(shape[2:]) == list(surgery.attribute(node, "kernel_shape"))
        return (node.input[0], False) if whole and not any(surgery.attribute(node, "pads", [0])) else None
    if node.op_type == "ReduceMean":
        axes = surgery.attribute(node, "axes")
        if axes is None and len(node.input) > 1:
            axes = known.get(node.input[1])
        positions = sorted(int(axis) % 4 for axis in axes) if axes is not None else []
        if positions in ([2, 3], [1, 2]):
            return node.input[0], positions == [1, 2]
    return None


def _as_one_layer(
    model: onnx.ModelProto, nodes: list[onnx.NodeProto], start: str, output: Output, shape: list[int]
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Kernel and bias of a linear path, from what it gives for nothing and for each feature alone, in float64."""
    known = surgery.constants(model)
    read = {name for node in nodes for name in node.input if name in known}
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    for node in copies:
        if node.op_type == "Cast":
            node.op_type = "Identity"
            del node.attribute[:]
    wide = [
        numpy_helper.from_array(known[n].astype(np.float64) if known[n].dtype.kind == "f" else known[n], n)
        for n in sorted(read)
    ]
    graph = helper.make_graph(
        copies or [helper.make_node("Identity", [start], [output.logits])],
        "head",
        [helper.make_tensor_value_info(start, onnx.TensorProto.DOUBLE, ["N", *shape])],
        [helper.make_tensor_value_info(output.logits, onnx.TensorProto.DOUBLE, None)],
        wide,
    )
    run = ReferenceEvaluator(
        helper.make_model(graph, opset_imports=list(model.opset_import), ir_version=model.ir_version)
    )
    channels = int(np.prod(shape))
    alone = np.vstack([np.zeros((1, channels)), np.eye(channels)]).reshape(channels + 1, *shape)
    (said,) = run.run(None, {start: alone})
    values = np.asarray(said, np.float64).reshape(channels + 1, output.count)
    return (values[1:] - values[0]).astype(np.float32), values[0].astype(np.float32)


def last_feature_map(model: onnx.ModelProto, logits: str) -> str | None:
    """The last tensor ``[N, C, h, w]`` through which everything that the logit sees passes; None without one."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    shapes = surgery.static_shapes(inferred)
    makers, known = _makers(model), surgery.constants(model)
    order = {node.output[0]: index for index, node in enumerate(model.graph.node)}
    # From the logit backwards, the latest tensor first: where one alone is open, all passes through it.
    open_tensors = {logits}
    while open_tensors:
        name = max(open_tensors, key=lambda one: order.get(one, -1))
        shape = shapes.get(name, ())
        maker = makers.get(name)
        is_map = len(shape) == 4 and shape[2:] != (1, 1) and maker is not None and maker.op_type != "Transpose"
        if len(open_tensors) == 1 and is_map:
            return name
        open_tensors.discard(name)
        if maker is not None and maker.op_type != "Shape":
            open_tensors |= {one for one in maker.input if one and one not in known}
    return None


def _makers(model: onnx.ModelProto) -> dict[str, onnx.NodeProto]:
    return {name: node for node in model.graph.node for name in node.output}
