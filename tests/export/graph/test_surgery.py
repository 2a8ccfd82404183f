"""Each surgical step: what it does to the operator counts, and that the answer stays the same."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from glomedge.errors import ModelError
from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.graph import surgery

ort = import_onnxruntime()


def run(model: onnx.ModelProto, *, optimise: bool = False) -> npt.NDArray[np.float32]:
    options = ort.SessionOptions()
    if not optimise:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    # Bright, as preprocessed pixels are: conv1 is then negative nearly everywhere.
    pixels = np.random.default_rng(1).normal(60, 50, (3, 3, 224, 224)).astype(np.float32)
    return np.asarray(session.run(None, {"scaled": pixels})[0])


def test_fold_constants_removes_constant_nodes_and_identity(backbone: onnx.ModelProto) -> None:
    folded = surgery.fold_constants(backbone)
    before, after = surgery.op_counts(backbone), surgery.op_counts(folded)
    assert before["Identity"] == 1
    assert "Identity" not in after
    assert after["Mul"] == before["Mul"] - 2
    np.testing.assert_array_equal(run(folded), run(backbone))
    onnx.checker.check_model(folded, full_check=True)


def test_fold_constants_keeps_randomness_and_large_results() -> None:
    big = helper.make_node("Expand", ["one", "shape"], ["big"])
    random = helper.make_node("RandomNormal", [], ["noise"], shape=[2])
    reduced = helper.make_node("ReduceSum", ["big"], ["sum"], keepdims=0)
    total = helper.make_node("Add", ["noise", "sum"], ["y"])
    model = helper.make_model(
        helper.make_graph(
            [big, random, reduced, total],
            "g",
            [],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])],
            [
                numpy_helper.from_array(np.float32(1), "one"),
                numpy_helper.from_array(np.array([5000, 5000], np.int64), "shape"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    assert surgery.op_counts(surgery.fold_constants(model)) == surgery.op_counts(model)


def test_batchnorm_from_mul_add_is_bit_exact(backbone: onnx.ModelProto) -> None:
    merged = surgery.batchnorm_from_mul_add(surgery.fold_constants(backbone))
    counts = surgery.op_counts(merged)
    assert counts["BatchNormalization"] == 2
    assert "Mul" not in counts
    assert counts["Add"] == 1  # the residual sum is not per channel and stays
    np.testing.assert_array_equal(run(merged), run(backbone))


@pytest.mark.parametrize("other", ["second reader", "graph output", "not per channel"])
def test_batchnorm_from_mul_add_leaves_other_pairs(other: str) -> None:
    shape = [1, 4, 1, 1] if other != "not per channel" else [1, 1, 4, 4]
    constant = numpy_helper.from_array(np.ones(shape, np.float32), "c")
    nodes = [helper.make_node("Mul", ["x", "c"], ["m"]), helper.make_node("Add", ["m", "c"], ["y"])]
    outputs = ["y"]
    if other == "second reader":
        nodes.append(helper.make_node("Relu", ["m"], ["z"]))
        outputs.append("z")
    if other == "graph output":
        outputs.append("m")
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 4, 4])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 4, 4, 4]) for name in outputs],
            [constant],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    assert "BatchNormalization" not in surgery.op_counts(surgery.batchnorm_from_mul_add(model))


def test_depthwise_from_batchnorm_is_equal(backbone: onnx.ModelProto) -> None:
    merged = surgery.batchnorm_from_mul_add(backbone)
    depthwise = surgery.depthwise_from_batchnorm(merged)
    assert "BatchNormalization" not in surgery.op_counts(depthwise)
    assert surgery.op_counts(depthwise)["Conv"] == surgery.op_counts(merged)["Conv"] + 2
    np.testing.assert_allclose(run(depthwise), run(merged), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("optimise", [False, True])
def test_border_max_is_exact_where_the_usual_fusion_is_wrong(backbone: onnx.ModelProto, optimise: bool) -> None:
    reference = run(backbone)
    bordered = surgery.border_max(backbone)
    counts = surgery.op_counts(bordered)
    assert "Pad" not in counts
    assert counts["Max"] == 1
    np.testing.assert_allclose(run(bordered, optimise=optimise), reference, rtol=1e-5, atol=1e-5)
    # What Pad_Fusion makes of it: the zero padding becomes the pool's own, which counts as -inf.
    fused = surgery.copy(backbone)
    for node in fused.graph.node:
        if node.op_type == "MaxPool":
            node.input[0] = "conv1_conv"
            node.attribute.append(helper.make_attribute("pads", [1, 1, 1, 1]))
    assert np.abs(run(surgery.prune(fused)) - reference).max() > 1e-2


@pytest.mark.parametrize(
    ("size", "kernel", "stride", "pads"), [(9, 3, 2, 1), (8, 3, 2, 1), (7, 2, 1, 1), (10, 3, 3, 2)]
)
def test_border_max_for_other_sizes(size: int, kernel: int, stride: int, pads: int) -> None:
    """Against a naive pool over a really padded array."""
    x = -np.random.default_rng(size).uniform(0.1, 1, (2, 3, size, size)).astype(np.float32)
    padded = np.pad(x, ((0, 0), (0, 0), (pads, pads), (pads, pads)))
    count = (size + 2 * pads - kernel) // stride + 1
    expected = np.empty((2, 3, count, count), np.float32)
    for row in range(count):
        for column in range(count):
            window = padded[:, :, row * stride : row * stride + kernel, column * stride : column * stride + kernel]
            expected[:, :, row, column] = window.max((2, 3))
    model = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Pad", ["x", "pads", "zero"], ["p"]),
                helper.make_node("MaxPool", ["p"], ["y"], kernel_shape=[kernel] * 2, strides=[stride] * 2),
            ],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3, size, size])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3, count, count])],
            [
                numpy_helper.from_array(np.array([0, 0, pads, pads] * 2, np.int64), "pads"),
                numpy_helper.from_array(np.float32(0), "zero"),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    bordered = surgery.border_max(model)
    assert "Pad" not in surgery.op_counts(bordered)
    session = ort.InferenceSession(bordered.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_array_equal(session.run(None, {"x": x})[0], expected)


def test_border_max_needs_a_static_size(backbone: onnx.ModelProto) -> None:
    for info in (backbone.graph.input[0], backbone.graph.output[0]):
        for index in (2, 3):
            info.type.tensor_type.shape.dim[index].dim_param = f"{info.name}{index}"
    with pytest.raises(ModelError, match="not static"):
        surgery.border_max(backbone)


def test_multiply_adds_counts_by_hand(backbone: onnx.ModelProto) -> None:
    by_hand = (
        112 * 112 * 8 * 3 * 49  # conv1
        + 7 * 7 * 16 * 8 * 64  # shortcut
        + 56 * 56 * 8 * 8  # a
        + 7 * 7 * 16 * 8 * 9  # b
        + 7 * 7 * 2048 * 16  # c
    )
    assert surgery.multiply_adds(surgery.fold_constants(backbone)) == by_hand


def test_peak_activation_bytes_grows_with_the_batch(backbone: onnx.ModelProto) -> None:
    one, four = (surgery.peak_activation_bytes(backbone, batch) for batch in (1, 4))
    # At the worst moment the scaled pixels and conv1's result are alive, float32.
    assert one == 4 * (3 * 224 * 224 + 8 * 112 * 112)
    assert four == 4 * one


def test_steps_do_not_change_their_argument(backbone: onnx.ModelProto) -> None:
    before = backbone.SerializeToString()
    surgery.apply(
        backbone,
        [("fold", surgery.fold_constants), ("norm", surgery.batchnorm_from_mul_add), ("border", surgery.border_max)],
    )
    assert backbone.SerializeToString() == before


def test_prune_drops_what_nobody_reads(backbone: onnx.ModelProto) -> None:
    cluttered = surgery.copy(backbone)
    surgery.add_constant(cluttered, "stray", np.zeros(3, np.float32))
    cluttered.graph.node.append(helper.make_node("Relu", ["relu1"], ["unread"]))
    pruned = surgery.prune(cluttered)
    assert surgery.op_counts(pruned) == surgery.op_counts(backbone)
    assert "stray" not in surgery.constants(pruned)
