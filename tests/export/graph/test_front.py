"""Where the pixelwise part of a network ends, on graphs written by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from glomedge.errors import ModelError
from glomedge.model.scaling import Scaling
from glomedge.model.spec import Affine
from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.graph import ends, int8, surgery
from glomedge_export.graph.anatomy import Anatomy, body
from glomedge_export.graph.front import Front, probe, read_front
from glomedge_export.graph.head import Output

ort = import_onnxruntime()
node = helper.make_node
WEIGHT = np.random.default_rng(0).normal(0, 0.1, (4, 3, 3, 3)).astype(np.float32)


def network(nodes: list[onnx.NodeProto], constants: dict[str, Any], side_px: int = 32) -> onnx.ModelProto:
    """``pixels`` ``[N, side, side, 3]`` -> ``y``; ``w`` is a 3 x 3 convolution's weight."""
    values = {"w": WEIGHT, **{name: np.asarray(value) for name, value in constants.items()}}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["N", side_px, side_px, 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    return surgery.prune(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))


def test_the_probe_holds_every_value_of_every_channel() -> None:
    pixels = probe(32).reshape(-1, 3)
    assert all(set(pixels[:, channel]) == set(range(256)) for channel in range(3))
    assert len(np.unique(pixels, axis=0)) > 900


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-3, 3).filter(lambda x: abs(x) > 0.01), min_size=3, max_size=3),
    st.lists(st.floats(-200, 200), min_size=3, max_size=3),
    st.booleans(),
)
def test_any_factor_and_summand_is_read_back(scale: list[float], offset: list[float], turned: bool) -> None:
    order = [node("Gather", ["pixels", "bgr"], ["turned"], axis=3)] if turned else []
    model = network(
        [
            *order,
            node("Mul", ["turned" if turned else "pixels", "scale"], ["a"]),
            node("Transpose", ["a"], ["b"], perm=[0, 3, 1, 2]),
            node("Sub", ["b", "minus"], ["c"]),
            node("Conv", ["c", "w"], ["y"]),
        ],
        {
            "bgr": np.array([2, 1, 0]),
            "scale": np.array(scale, np.float32),
            "minus": -np.array(offset, np.float32).reshape(1, 3, 1, 1),
        },
    )
    front = read_front(model)
    assert (front.tensor, front.channels_last) == ("c", False)
    assert front.scaling is not None
    assert front.scaling.affine.channel_order == ("BGR" if turned else "RGB")
    np.testing.assert_allclose(front.scaling.affine.scale, np.asarray(scale, np.float32), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(front.scaling.affine.offset, np.asarray(offset, np.float32), rtol=1e-4, atol=2e-3)


CHANNELS_FIRST = node("Transpose", ["pixels"], ["planes"], perm=[0, 3, 1, 2])


def test_a_network_that_reads_the_pixels_twice_has_no_front() -> None:
    """Raw and scaled at once: neither alone is what the network sees."""
    model = network(
        [
            CHANNELS_FIRST,
            node("Mul", ["planes", "half"], ["halved"]),
            node("Conv", ["halved", "w"], ["one"]),
            node("Conv", ["planes", "w"], ["two"]),
            node("Add", ["one", "two"], ["y"]),
        ],
        {"half": np.array(0.5, np.float32)},
    )
    assert read_front(model) == Front("planes", False, None)


@pytest.mark.parametrize("last", [
    node("Sub", ["pixels", "picture"], ["a"]),
    node("Relu", ["pixels"], ["a"]),
    node("Pad", ["pixels", "pads"], ["a"]),
    node("Slice", ["pixels", "begin", "end", "rows"], ["a"]),
])  # fmt: skip
def test_what_differs_from_pixel_to_pixel_or_is_a_layer_ends_the_front(last: onnx.NodeProto) -> None:
    model = network(
        [last, node("Transpose", ["a"], ["b"], perm=[0, 3, 1, 2]), node("Conv", ["b", "w"], ["y"])],
        {
            "picture": np.random.default_rng(1).random((32, 32, 3)).astype(np.float32),
            "pads": np.array([0, 1, 1, 0, 0, 1, 1, 0]),
            "begin": np.array([2]),
            "end": np.array([9]),
            "rows": np.array([1]),
        },
    )
    assert read_front(model) == Front("pixels", True, None)


def test_clipping_to_the_range_of_pixels_changes_nothing_and_a_power_is_refused() -> None:
    clipped = [node("Clip", ["pixels", "low", "high"], ["a"]), node("Div", ["a", "high"], ["b"])]
    powered = [*clipped[:1], node("Pow", ["a", "gamma"], ["b"])]
    rest = [node("Transpose", ["b"], ["c"], perm=[0, 3, 1, 2]), node("Conv", ["c", "w"], ["y"])]
    values = {"low": np.float32(0), "high": np.float32(255), "gamma": np.float32(1.1)}
    front = read_front(network([*clipped, *rest], values))
    assert front.scaling is not None
    assert front.scaling.name == "unit"
    with pytest.raises(ModelError, match="is not a factor and a summand"):
        read_front(network([*powered, *rest], values))


@pytest.mark.parametrize("affine", [
    Affine(scale=(0.1, 0.2, 0.3), offset=(-1.0, 2.0, 0.5)),
    Affine(channel_order="BGR", scale=(1.0, 2.0, 0.5), offset=(3.0, -4.0, 1.0)),
])  # fmt: skip
@pytest.mark.parametrize("branches", [1, 2])
def test_body_and_front_put_together_again_say_the_same(affine: Affine, branches: int) -> None:
    """One convolution takes the factors into its weights; before two, the scaling is spelt out."""
    turn = node("Gather", ["pixels", "order"], ["turned"], axis=-1)
    nodes = [
        turn,
        node("Mul", ["turned", "scale"], ["a"]),
        node("Add", ["a", "offset"], ["b"]),
        node("Transpose", ["b"], ["c"], perm=[0, 3, 1, 2]),
        node("Conv", ["c", "w"], ["one"], pads=[1] * 4),
        *([node("Conv", ["c", "w"], ["two"]), node("ReduceMax", ["two"], ["m"], axes=[2, 3])] if branches == 2 else []),
        node("Add", ["one", "m"], ["map"]) if branches == 2 else node("Relu", ["one"], ["map"]),
        node("GlobalMaxPool", ["map"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("MatMul", ["flat", "dense"], ["y"]),
    ]
    model = network(
        nodes,
        {
            "order": np.array([2, 1, 0] if affine.channel_order == "BGR" else [0, 1, 2]),
            "scale": np.array(affine.scale, np.float32),
            "offset": np.array(affine.offset, np.float32),
            "dense": np.random.default_rng(3).normal(0, 0.003, (4, 1)).astype(np.float32),
        },
    )
    front = read_front(model)
    assert front.scaling is not None
    assert front.scaling.name == "affine"
    anatomy = Anatomy(front, Output("sigmoid", "y", 1), front.scaling, True, None, 0)
    inside = body(model, anatomy)
    assert [output.name for output in inside.graph.output] == ["features", "logits"]
    finished = ends.attach_logits(ends.attach_front(inside, front.scaling), 1, 0, 1.0)
    assert ("Mul" in surgery.op_counts(finished)) == (branches == 2)
    assert (int8.reads_uint8(finished) is not None) == (branches == 1)
    images = np.random.default_rng(5).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    (probability,) = _run(finished, {"images": images})
    (logit,) = _run(model, {"pixels": images.astype(np.float32)})
    assert np.ptp(probability) > 1e-3
    np.testing.assert_allclose(probability, 1 / (1 + np.exp(-logit)), atol=1e-5)


def _run(model: onnx.ModelProto, feed: dict[str, npt.NDArray[Any]]) -> list[npt.NDArray[np.float32]]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return [np.asarray(value) for value in session.run(None, feed)]


def test_means_far_apart_are_not_read_as_one_zero_point() -> None:
    """One zero point stands for three means only where all are near: else the pixels stay floating point."""
    inside = helper.make_model(
        helper.make_graph(
            [node("Conv", ["scaled", "w"], ["features"], "c")],
            "g",
            [helper.make_tensor_value_info("scaled", TensorProto.FLOAT, ["N", 3, 32, 32])],
            [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", 4, 30, 30])],
            [numpy_helper.from_array(WEIGHT, "w")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    for offsets, zero_point in (((-120.0, -110.0, -115.0), 115), ((0.0, 0.0, 0.0), 0), ((-200.0, -20.0, -110.0), None)):
        model = ends.attach_front(inside, Scaling.of(Affine(scale=(1.0, 1.0, 1.0), offset=offsets)))
        found = int8.reads_uint8(model)
        assert (None if found is None else int(found.zero_point)) == zero_point
