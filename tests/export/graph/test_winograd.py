"""Winograd's filtering as a graph: the same sums as the direct convolution, for every size, border and bias."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.graph import surgery, winograd

ort = import_onnxruntime()

Floats = npt.NDArray[np.float32]


def network(
    sides_px: tuple[int, int] = (14, 14),
    channels: tuple[int, int] = (64, 80),
    *,
    bias: bool = True,
    relu: bool = True,
    seed: int = 0,
    static: bool = True,
    weight: Floats | None = None,
    **attributes: Any,
) -> onnx.ModelProto:
    """``x`` float32 ``[N, channels[0], H, W]`` -> 3x3 convolution, Relu -> 1x1 convolution -> ``y``."""
    rng = np.random.default_rng(seed)
    incoming, outgoing = channels
    if weight is None:
        weight = (rng.normal(size=(outgoing, incoming, 3, 3)) / np.sqrt(9 * incoming)).astype(np.float32)
    values = {"w": weight, "b": rng.normal(size=outgoing).astype(np.float32)}
    values["last"] = (rng.normal(size=(16, outgoing, 1, 1)) / np.sqrt(outgoing)).astype(np.float32)
    inputs = ["x", "w", "b"] if bias else ["x", "w"]
    nodes = [helper.make_node("Conv", inputs, ["conv"], "conv", **{"pads": [1, 1, 1, 1], **attributes})]
    if relu:
        nodes.append(helper.make_node("Relu", ["conv"], ["relu"], "relu"))
    nodes.append(helper.make_node("Conv", ["relu" if relu else "conv", "last"], ["y"], "y"))
    sides: list[int | str] = list(sides_px) if static else ["H", "W"]
    made = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", incoming, *sides])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 16, None, None])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def on_onnxruntime(model: onnx.ModelProto, x: Floats) -> Floats:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"x": x})[0])


def pixels(model: onnx.ModelProto, count: int, seed: int = 1) -> Floats:
    sides = [side for side in surgery.static_shapes(model)["x"][1:] if isinstance(side, int)]
    return np.random.default_rng(seed).normal(0.5, 1.0, (count, *sides)).astype(np.float32)


@pytest.mark.parametrize("sides_px", [(14, 14), (7, 7), (28, 12), (5, 8), (8, 5), (2, 2), (1, 1), (3, 2)])
@pytest.mark.parametrize("count", [1, 3])
def test_the_answer_is_that_of_the_direct_convolution(sides_px: tuple[int, int], count: int) -> None:
    model = network(sides_px)
    tiled = winograd.rewrite(model)
    x = pixels(model, count)
    expected = on_onnxruntime(model, x)
    answer = on_onnxruntime(tiled, x)
    assert answer.shape == expected.shape == (count, 16, *sides_px)
    np.testing.assert_allclose(answer, expected, rtol=0, atol=2e-5)
    assert "DepthToSpace" not in surgery.op_counts(tiled)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("relu", [False, True])
def test_bias_and_relu(bias: bool, relu: bool) -> None:
    model = network((6, 7), bias=bias, relu=relu)
    x = pixels(model, 2)
    tiled = winograd.rewrite(model)
    np.testing.assert_allclose(on_onnxruntime(tiled, x), on_onnxruntime(model, x), rtol=0, atol=2e-5)
    assert surgery.op_counts(tiled).get("Relu", 0) == (4 if relu else 0)


def test_by_the_letter_of_the_standard() -> None:
    """Not only as onnxruntime fuses it: ONNX' own reference says the same of a picture with an odd side."""
    model = network((5, 6))
    x = pixels(model, 1)
    expected = np.asarray(ReferenceEvaluator(model).run(None, {"x": x})[0])
    answer = np.asarray(ReferenceEvaluator(winograd.rewrite(model)).run(None, {"x": x})[0])
    np.testing.assert_allclose(answer, expected, rtol=0, atol=2e-5)


def test_every_tap_reaches_its_place() -> None:
    """One tap at a time copies the picture, shifted by one pixel at most; the border brings in zeros, no more."""
    x = pixels(network((6, 5), (64, 64)), 1)
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    for down in range(3):
        for across in range(3):
            weight = np.zeros((64, 64, 3, 3), np.float32)
            weight[np.arange(64), np.arange(64), down, across] = 1
            model = network((6, 5), (64, 64), bias=False, relu=False, weight=weight)
            last = surgery.constants(model)["last"][:, :, 0, 0]
            shifted = padded[:, :, down : down + 6, across : across + 5]
            expected = np.einsum("kc,nchw->nkhw", last, shifted)
            np.testing.assert_allclose(on_onnxruntime(winograd.rewrite(model), x), expected, rtol=0, atol=2e-5)


def test_four_ninths_of_the_products() -> None:
    """What it is for: 16 products for each four outputs instead of 36. The depthwise ones are sums in disguise."""
    model = network((14, 14), (64, 64))
    constants = surgery.constants(winograd.rewrite(model))
    pointwise = [value for name, value in constants.items() if ".winograd.weight" in name]
    assert [value.shape for value in pointwise] == [(64, 64, 1, 1)] * 16
    tiles = 7 * 7
    assert 9 * tiles * sum(value.size for value in pointwise) == 4 * (14 * 14 * 9 * 64 * 64)


@pytest.mark.parametrize(
    "what",
    [
        {"strides": [2, 2]},
        {"pads": [0, 0, 0, 0]},
        {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
        {"channels": (32, 64)},
        {"channels": (64, 72)},
        {"static": False},
        {"weight": np.ones((64, 64, 5, 5), np.float32), "channels": (64, 64), "pads": [2, 2, 2, 2]},
        {"weight": np.ones((64, 1, 3, 3), np.float32), "channels": (64, 64), "group": 64},
    ],
    ids=str,
)
def test_other_convolutions_stay(what: dict[str, Any]) -> None:
    model = network(**what)
    assert surgery.op_counts(winograd.rewrite(model)) == surgery.op_counts(model)


def test_the_argument_is_not_changed_and_nothing_is_left_behind() -> None:
    model = network()
    before = model.SerializeToString()
    tiled = winograd.rewrite(model)
    assert model.SerializeToString() == before
    read = {name for node in tiled.graph.node for name in node.input}
    assert {tensor.name for tensor in tiled.graph.initializer} <= read
    onnx.checker.check_model(tiled, full_check=True)


def test_a_result_that_others_read_keeps_its_relu_apart() -> None:
    model = network()
    model.graph.output.append(helper.make_tensor_value_info("conv", TensorProto.FLOAT, ["N", 80, 14, 14]))
    tiled = winograd.rewrite(model)
    x = pixels(model, 1)
    np.testing.assert_allclose(on_onnxruntime(tiled, x), on_onnxruntime(model, x), rtol=0, atol=2e-5)
    assert [node.op_type for node in tiled.graph.node if "relu" in node.output] == ["Relu"]


def test_onnxruntime_adds_inside_of_its_convolutions(tmp_path: Path) -> None:
    """What the form of the graph is for. Sums of two sums stay (two for each layer), and the first of each column."""
    model = network((14, 14), (64, 64))
    # A residual connection behind it, as in the network: its sum must be absorbed as well.
    model.graph.node.append(helper.make_node("Conv", ["relu", "back"], ["branch"], "branch"))
    model.graph.node.append(helper.make_node("Conv", ["x", "back"], ["shortcut"], "shortcut"))
    model.graph.node.append(helper.make_node("Add", ["branch", "shortcut"], ["sum"], "sum"))
    model.graph.node.append(helper.make_node("Relu", ["sum"], ["z"], "z"))
    model.graph.initializer.append(numpy_helper.from_array(np.ones((64, 64, 1, 1), np.float32), "back"))
    model.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, ["N", 64, 14, 14]))
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")
    ort.InferenceSession(winograd.rewrite(model).SerializeToString(), options, providers=["CPUExecutionProvider"])
    optimised = onnx.load(tmp_path / "optimised.onnx")
    if not any(node.domain == "com.microsoft.nchwc" for node in optimised.graph.node):
        pytest.skip("onnxruntime has no blocked layout for this processor")
    assert surgery.op_counts(winograd.rewrite(model))["Add"] == 4 * 4 + 2 * 4 + 1
    assert surgery.op_counts(optimised).get("Add", 0) <= 2
    # Shapes kept by name: an addition of tensors whose sizes it cannot compare is done on reshaped copies.
    assert surgery.op_counts(optimised)["Reshape"] == 2
