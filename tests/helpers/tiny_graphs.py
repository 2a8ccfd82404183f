"""A small ONNX network with every trait of the converted ResNet50V2."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper


def tiny_backbone(seed: int = 0) -> onnx.ModelProto:
    """A network with every trait of the converted ResNet50V2, small enough to run in milliseconds.

    ``scaled`` float32 ``[N, 3, 224, 224]`` -> conv1 (7x7, stride 2, no bias) -> zero Pad -> MaxPool 3x3 ->
    Mul + Add + Relu -> [shortcut conv] + [conv 1x1, Relu, conv 3x3 stride 8 with bias] -> Add -> Mul + Add + Relu ->
    1x1 conv -> Relu -> ``features`` ``[N, 2048, 7, 7]``. conv1 gives mostly negative values near the border, so that
    a pool that pads with -inf instead of 0 is found out.
    """
    rng = np.random.default_rng(seed)
    values: dict[str, npt.NDArray[np.generic]] = {
        "conv1.weight": rng.normal(-0.002, 0.01, (8, 3, 7, 7)).astype(np.float32),
        "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64),
        "zero": np.zeros((), np.float32),
        "short.weight": rng.normal(0, 0.2, (16, 8, 8, 8)).astype(np.float32) / 8,
        "a.weight": rng.normal(0, 0.4, (8, 8, 1, 1)).astype(np.float32),
        "b.weight": rng.normal(0, 0.2, (16, 8, 3, 3)).astype(np.float32),
        "b.bias": rng.normal(0, 0.2, 16).astype(np.float32),
        "c.weight": rng.normal(0, 0.25, (2048, 16, 1, 1)).astype(np.float32),
        "two": np.full((), 2, np.float32),
        "half": np.full((), 0.5, np.float32),
    }
    for name, channels in (("bn1", 8), ("bn2", 16)):
        values[f"{name}.mul"] = rng.uniform(0.3, 1.5, (1, channels, 1, 1)).astype(np.float32)
        values[f"{name}.add"] = rng.normal(0, 0.4, (1, channels, 1, 1)).astype(np.float32)
    node = helper.make_node
    nodes = [
        node("Conv", ["scaled", "conv1.weight"], ["conv1_conv"], "conv1_conv", strides=[2, 2], pads=[3] * 4),
        node("Pad", ["conv1_conv", "pads", "zero"], ["pool1_pad"], "pool1_pad"),
        node("MaxPool", ["pool1_pad"], ["pool1_pool"], "pool1_pool", kernel_shape=[3, 3], strides=[2, 2]),
        node("Mul", ["pool1_pool", "bn1.mul"], ["bn1"], "bn1"),
        node("Add", ["bn1", "bn1.add"], ["bn1.sum"], "bn1.sum"),
        node("Relu", ["bn1.sum"], ["relu1"], "relu1"),
        node("Conv", ["relu1", "short.weight"], ["short"], "short", strides=[8, 8]),
        node("Conv", ["relu1", "a.weight"], ["a"], "a"),
        node("Relu", ["a"], ["relu_a"], "relu_a"),
        node("Conv", ["relu_a", "b.weight", "b.bias"], ["b"], "b", strides=[8, 8], pads=[1] * 4),
        node("Add", ["short", "b"], ["sum"], "sum"),
        node("Mul", ["sum", "bn2.mul"], ["bn2"], "bn2"),
        node("Add", ["bn2", "bn2.add"], ["bn2.sum"], "bn2.sum"),
        node("Relu", ["bn2.sum"], ["relu2"], "relu2"),
        # Constants for constant folding to find.
        node("Mul", ["two", "half"], ["one"], "one"),
        node("Identity", ["c.weight"], ["c.same"], "c.same"),
        node("Mul", ["c.same", "one"], ["c.scaled"], "c.scaled"),
        node("Conv", ["relu2", "c.scaled"], ["c"], "c"),
        node("Relu", ["c"], ["features"], "features"),
    ]
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("scaled", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 2048, 7, 7])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
