"""Where the cells of a map look: the graph's answer against what the graph does to a ramp of brightness."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from glomedge.model.spec import MapPlacement
from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.graph.ends import attach_front, attach_head
from glomedge_export.graph.placement import placement
from helpers.tiny_graphs import tiny_backbone

SIDE_PX = 224
node = helper.make_node


def graph_of(nodes: list[onnx.NodeProto], values: dict[str, Any], cells: int | None = None) -> onnx.ModelProto:
    """``images`` as one grey channel ``x0`` ``[N, 1, side, side]``, then ``nodes``; ``last`` becomes ``activation``."""
    front = [
        node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        node("Transpose", ["floats"], ["planes"], perm=[0, 3, 1, 2]),
        node("Conv", ["planes", "grey"], ["x0"]),
    ]
    values = values | {"grey": np.full((1, 3, 1, 1), 1 / 3, np.float32), "axis": np.array([1], np.int64)}
    graph = helper.make_graph(
        [*front, *nodes, node("Squeeze", ["last", "axis"], ["activation"])],
        "placement",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["N", SIDE_PX, SIDE_PX, 3])],
        [helper.make_tensor_value_info("activation", TensorProto.FLOAT, ["N", cells, cells])],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def mean_kernel(size: int) -> npt.NDArray[np.float32]:
    return np.full((1, 1, size, size), 1 / size**2, np.float32)


def measured(model: onnx.ModelProto) -> dict[int, float]:
    """For each cell that no padding touches: the column it looks at, which is its answer to a ramp of brightness."""
    session = import_onnxruntime().InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    ramp = np.broadcast_to(np.arange(SIDE_PX, dtype=np.uint8)[:, None], (1, SIDE_PX, SIDE_PX, 3))
    flat = np.full((1, SIDE_PX, SIDE_PX, 3), 100, np.uint8)
    seen, whole = (session.run(["activation"], {"images": np.ascontiguousarray(image)})[0][0] for image in (ramp, flat))
    middle = len(whole) // 2
    return {i: float(seen[middle, i]) for i in range(len(whole)) if abs(whole[middle, i] - 100) < 1e-3}


LAYERS = st.lists(
    st.tuples(
        st.sampled_from(["Conv", "AveragePool", "Pad", "Relu"]),
        st.integers(1, 5),  # kernel
        st.integers(1, 2),  # stride
        st.integers(1, 2),  # dilation
        st.integers(0, 3),  # padding before
        st.integers(0, 3),  # padding after
    ),
    min_size=1,
    max_size=5,
)


@given(LAYERS)
def test_any_stack_of_layers(layers: list[tuple[str, int, int, int, int, int]]) -> None:
    nodes, values, size_px = [], {}, SIDE_PX
    for index, (kind, kernel, stride, dilation, before, after) in enumerate(layers):
        source, target, pads = f"x{index}", f"x{index + 1}", [before, before, after, after]
        if kind == "Conv":
            values[f"w{index}"] = mean_kernel(kernel)
            nodes.append(
                node("Conv", [source, f"w{index}"], [target], strides=[stride] * 2, dilations=[dilation] * 2, pads=pads)
            )
        elif kind == "AveragePool":
            pads = [min(pad, kernel - 1) for pad in pads]
            nodes.append(
                node(
                    "AveragePool", [source], [target], kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=pads,
                    count_include_pad=1,
                )
            )  # fmt: skip
        elif kind == "Pad":
            values[f"p{index}"] = np.array([0, 0, before, before, 0, 0, after, after], np.int64)
            nodes.append(node("Pad", [source, f"p{index}"], [target]))
        else:
            nodes.append(node("Relu", [source], [target]))
        reach = (kernel - 1) * dilation + 1 if kind == "Conv" else kernel if kind == "AveragePool" else 1
        size_px = (size_px + (pads[0] + pads[2] if kind != "Relu" else 0) - reach) // stride + 1
        assume(size_px >= 12)
    nodes.append(node("Identity", [f"x{len(layers)}"], ["last"]))
    model = graph_of(nodes, values)
    found = placement(model)
    assert found is not None
    places = measured(model)
    assert len(places) >= 2
    for cell, column in places.items():
        assert column == pytest.approx(found.first_px + found.pitch_px * cell, abs=1e-2)


def test_the_traits_of_resnet50v2() -> None:
    # The stand-in's main branch looks at 32 i, as the network; its shortcut, 8 x 8 without padding, looks elsewhere.
    body = tiny_backbone()
    model = attach_head(attach_front(body, "resnet"), np.ones((2048, 1), np.float32), np.zeros(1, np.float32), 1.0)
    assert placement(model) is None
    for part in model.graph.node:
        if part.name == "sum":
            part.input[:] = ["b", "b"]
        if part.name == "c":
            part.input[1] = "c.weight"  # export has folded what stands before it
    assert placement(model) == MapPlacement(first_px=0.0, pitch_px=32.0)


def test_branches_that_agree_and_a_gate_of_one_number_a_channel() -> None:
    nodes = [
        node("Conv", ["x0", "three"], ["wide"], strides=[2, 2], pads=[1] * 4),
        node("MaxPool", ["x0"], ["narrow"], kernel_shape=[1, 1], strides=[2, 2]),
        node("Add", ["wide", "narrow"], ["both"]),
        node("GlobalAveragePool", ["both"], ["pooled"]),
        node("Conv", ["pooled", "one"], ["gate"]),
        node("Sigmoid", ["gate"], ["open"]),
        node("Mul", ["both", "open"], ["last"]),
    ]
    model = graph_of(nodes, {"three": mean_kernel(3), "one": mean_kernel(1)})
    assert placement(model) == MapPlacement(first_px=0.0, pitch_px=2.0)


@pytest.mark.parametrize(
    "nodes",
    [
        [
            node("Conv", ["x0", "three"], ["wide"], strides=[2, 2], pads=[1] * 4),
            node("AveragePool", ["x0"], ["half"], kernel_shape=[2, 2], strides=[2, 2]),
            node("Add", ["wide", "half"], ["last"]),
        ],
        [node("Conv", ["x0", "three"], ["last"], strides=[2, 2], auto_pad="SAME_UPPER")],
        [node("Conv", ["x0", "three"], ["last"], strides=[2, 1])],
        [node("DepthToSpace", ["x0"], ["last"], blocksize=1)],
        [node("DepthToSpace", ["x0"], ["y"], blocksize=1), node("Relu", ["y"], ["last"])],
        [node("GlobalAveragePool", ["x0"], ["last"])],
    ],
    ids=["branches apart", "padding not said", "axes apart", "not known", "behind what is not known", "no map"],
)
def test_what_has_no_one_place_is_none(nodes: list[onnx.NodeProto]) -> None:
    assert placement(graph_of(nodes, {"three": mean_kernel(3)})) is None


def test_padding_before_the_transpose_and_another_order_of_channels() -> None:
    model = graph_of([node("Identity", ["x0"], ["last"])], {"p": np.array([0, 2, 2, 0, 0, 1, 1, 0], np.int64)})
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 1, 0], np.int64), "order"))
    for part in model.graph.node:
        if part.op_type == "Transpose":
            part.input[:] = ["padded"]
        if part.op_type == "Conv":
            part.input[0] = "bgr"
    model.graph.node.insert(1, node("Pad", ["floats", "p"], ["padded"]))
    model.graph.node.insert(3, node("Gather", ["planes", "order"], ["bgr"], axis=1))
    found = placement(model)
    assert found == MapPlacement(first_px=-2.0, pitch_px=1.0)
    places = measured(model)
    assert places[10] == pytest.approx(8.0, abs=1e-3)
