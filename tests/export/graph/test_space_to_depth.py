"""The first convolution over blocks of pixels: the same bits, whatever kernel, padding and side."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.data.export_crops import CalibrationCrops
from glomedge_export.graph import convert, int8, ranges, space_to_depth, surgery
from glomedge_export.graph.lower import LoweringInputs, lower
from glomedge_export.graph.run import OnnxRunner

Head = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
Crops = npt.NDArray[np.uint8]


def stem(
    kernel: tuple[int, int], pads: list[int], sides: tuple[int, int], strides: tuple[int, int] = (2, 2)
) -> onnx.ModelProto:
    """uint8 pixels -> Transpose -> DequantizeLinear -> Conv -> QuantizeLinear, weights drawn."""
    rng = np.random.default_rng(0)
    values = {
        "zero": np.asarray(117, np.uint8),
        "one": np.asarray(1, np.float32),
        "weight.q": rng.integers(-63, 64, (16, 3, *kernel)).astype(np.int8),
        "weight.scale": np.asarray(0.01, np.float32),
        "out.scale": np.asarray(0.9, np.float32),
        "out.zero": np.asarray(128, np.uint8),
    }
    nodes = [
        helper.make_node("Transpose", ["images"], ["nchw"], perm=[0, 3, 1, 2]),
        helper.make_node("DequantizeLinear", ["nchw", "one", "zero"], ["real"]),
        helper.make_node("DequantizeLinear", ["weight.q", "weight.scale"], ["weight"]),
        helper.make_node("Conv", ["real", "weight"], ["y"], kernel_shape=kernel, strides=strides, pads=pads),
        helper.make_node("QuantizeLinear", ["y", "out.scale", "out.zero"], ["y.q"]),
    ]
    graph = helper.make_graph(
        nodes,
        "stem",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", *sides, 3])],
        [helper.make_tensor_value_info("y.q", TensorProto.UINT8, ["N", 16, "rows", "columns"])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def answers(model: onnx.ModelProto, images: Crops) -> npt.NDArray[np.uint8]:
    session = import_onnxruntime().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"images": images})[0], np.uint8)


def convolution(model: onnx.ModelProto) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == "Conv")


@settings(max_examples=60, deadline=None)
@given(
    kernel=st.tuples(st.integers(1, 8), st.integers(1, 8)),
    pads=st.lists(st.integers(0, 4), min_size=4, max_size=4),
    sides=st.tuples(st.integers(4, 12), st.integers(4, 12)).map(lambda both: (2 * both[0], 2 * both[1])),
)
def test_same_bits(kernel: tuple[int, int], pads: list[int], sides: tuple[int, int]) -> None:
    model = stem(kernel, pads, sides)
    blocks = space_to_depth.rewrite(model)
    onnx.checker.check_model(blocks)
    images = np.random.default_rng(1).integers(0, 256, (3, *sides, 3), np.uint8)
    expected = answers(model, images)
    assert np.ptp(expected.astype(int)) > 30
    np.testing.assert_array_equal(answers(blocks, images), expected)


def test_network_has_it_and_answers_alike(backbone: onnx.ModelProto, tiny_head: Head, crops_nhwc: Crops) -> None:
    fp32 = convert.assemble(backbone, "resnet", *tiny_head).model
    calibration = CalibrationCrops(crops_nhwc, tuple(f"{i}.png" for i in range(len(crops_nhwc))), 2)
    in_file = lower(fp32, "int8", "onnxruntime", LoweringInputs(crops_nhwc, calibration, "minmax")).model
    first = convolution(in_file)
    assert list(surgery.attribute(first, "strides")) == [1, 1]
    assert surgery.attribute(first, "kernel_shape") == [4, 4]  # of 7 x 7
    prepared = int8.prepare_int8(fp32, "onnxruntime")
    seen = ranges.observe(prepared, int8.quantised_tensors(prepared, "onnxruntime"), crops_nhwc)
    means = ranges.channel_means(prepared, crops_nhwc)
    plain = int8.to_int8(prepared, "onnxruntime", int8.ActivationStatistics(seen, "minmax", means), 7)
    assert list(surgery.attribute(convolution(plain), "strides")) == [2, 2]
    here, there = (OnnxRunner(model.SerializeToString())(crops_nhwc) for model in (in_file, plain))
    np.testing.assert_array_equal(here[0], there[0])
    np.testing.assert_array_equal(here[1], there[1])


@pytest.mark.parametrize(
    ("kernel", "sides", "strides"), [((3, 3), (16, 16), (1, 1)), ((7, 7), (15, 16), (2, 2)), ((7, 7), (16, 15), (2, 2))]
)
def test_other_first_convolutions_stay(
    kernel: tuple[int, int], sides: tuple[int, int], strides: tuple[int, int]
) -> None:
    model = stem(kernel, [1, 1, 1, 1], sides, strides)
    assert space_to_depth.rewrite(model) == model
