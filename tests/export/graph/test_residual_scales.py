"""int8 residual sums: no pair of uint8 values comes near a half, whatever the order of operations."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper

from glomedge_export.data.export_crops import CalibrationCrops
from glomedge_export.graph import convert, residual_scales, surgery
from glomedge_export.graph.lower import LoweringInputs, lower
from glomedge_export.graph.ranges import Scale

Head = tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]
Crops = npt.NDArray[np.uint8]


def scale(value: float, zero: int = 128) -> Scale:
    return Scale(np.float32(value), np.uint8(zero))


def graph(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    made = {name for node in nodes for name in node.output}
    inputs = sorted({name for node in nodes for name in node.input} - made)
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in inputs]
    return helper.make_model(helper.make_graph(list(nodes), "sums", values, []))


def nearest_to_a_half(first: np.float32, second: np.float32, total: np.float32) -> float:
    """Over all 65,536 pairs, in two orders of operations, in float32."""
    a, b = np.meshgrid(np.arange(-128, 128, dtype=np.float32), np.arange(-128, 128, dtype=np.float32))
    by_ratio = a * np.float32(first / total) + b * np.float32(second / total)
    by_value = (a * first + b * second) / total
    assert by_ratio.dtype == by_value.dtype == np.float32
    return float(min(np.abs(way - np.floor(way) - 0.5).min() for way in (by_ratio, by_value)))


def test_no_pair_comes_near_a_half() -> None:
    rng = np.random.default_rng(0)
    model = graph(helper.make_node("Add", ["a", "b"], ["c"]))
    before, after = [], []
    for _ in range(20):
        drawn = {name: scale(float(rng.uniform(0.2, 1.5))) for name in "abc"}
        kept = residual_scales.without_ties(model, drawn)
        assert kept["c"] == drawn["c"]
        for name in "ab":
            assert 1 <= kept[name].scale / drawn[name].scale < 1 + 1 / residual_scales.LEAST_PARTS
            assert kept[name].zero_point == drawn[name].zero_point
        before.append(nearest_to_a_half(*(drawn[name].scale for name in "abc")))
        after.append(nearest_to_a_half(*(kept[name].scale for name in "abc")))
    assert min(after) > 0.8 / (2 * residual_scales.PARTS)
    assert np.median(before) < 1e-4  # the error of float32 is of this size


def test_chain_pool_and_relu() -> None:
    model = graph(
        helper.make_node("Add", ["a", "b"], ["y1"]),
        helper.make_node("MaxPool", ["y1"], ["pooled"]),
        helper.make_node("Add", ["pooled", "c"], ["y2"]),
        helper.make_node("Relu", ["y2"], ["out"]),
    )
    drawn = {"a": scale(0.31), "b": scale(0.23), "y1": scale(0.41, 3), "pooled": scale(0.41, 3), "c": scale(0.2)}
    drawn["out"] = scale(0.47, 0)  # the sum itself is not quantised, its Relu is
    kept = residual_scales.without_ties(model, drawn, frozenset({"MaxPool"}))
    assert kept["y1"] == kept["pooled"], "what only moves numbers keeps the scale of its input"
    assert kept["y1"].scale > drawn["y1"].scale
    assert nearest_to_a_half(kept["pooled"].scale, kept["c"].scale, kept["out"].scale) > 5e-4
    assert nearest_to_a_half(kept["a"].scale, kept["b"].scale, kept["y1"].scale) > 5e-4


@pytest.mark.parametrize("tiny", ["a", "b"])
def test_a_term_far_smaller_than_the_sum_keeps_its_grid(tiny: str) -> None:
    model = graph(helper.make_node("Add", ["a", "b"], ["c"]))
    drawn = {"a": scale(0.5), "b": scale(0.5), "c": scale(0.6)} | {tiny: scale(0.001)}
    kept = residual_scales.without_ties(model, drawn)
    assert kept[tiny] == drawn[tiny]


def test_a_term_of_two_sums_and_a_sum_that_is_not_quantised() -> None:
    model = graph(
        helper.make_node("Add", ["a", "b"], ["c"]),
        helper.make_node("Add", ["a", "d"], ["e"]),
        helper.make_node("Add", ["a", "b"], ["float"]),
    )
    drawn = {name: scale(0.3 + 0.01 * index) for index, name in enumerate("abcde")}
    kept = residual_scales.without_ties(model, drawn)
    assert nearest_to_a_half(kept["a"].scale, kept["d"].scale, kept["e"].scale) > 5e-4
    assert kept.keys() == drawn.keys()


def test_in_the_file(backbone: onnx.ModelProto, tiny_head: Head, crops_nhwc: Crops) -> None:
    fp32 = convert.assemble(backbone, "resnet", *tiny_head).model
    calibration = CalibrationCrops(crops_nhwc, tuple(f"{i}.png" for i in range(len(crops_nhwc))), 2)
    model = lower(fp32, "int8", "onnxruntime", LoweringInputs(crops_nhwc, calibration, "minmax")).model
    known = surgery.constants(model)
    sums = [node for node in model.graph.node if node.op_type == "Add"]
    assert sums
    for node in sums:
        first, second = (np.float32(known[f"{name.removesuffix('.dq')}.scale"]) for name in node.input)
        assert nearest_to_a_half(first, second, np.float32(known[f"{node.output[0]}.scale"])) > 5e-4
