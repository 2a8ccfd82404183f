"""The surgery for other networks: exact where it acts, and it acts nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.graph import folding, surgery

ort = import_onnxruntime()


def graph(nodes: list[onnx.NodeProto], constants: dict[str, npt.NDArray[Any]]) -> onnx.ModelProto:
    """``x`` ``[N, 4, 9, 9]`` -> ``y``."""
    return helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 4, 9, 9])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(value, name) for name, value in constants.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def answer(model: onnx.ModelProto) -> npt.NDArray[np.float32]:
    pixels = np.random.default_rng(1).normal(-0.5, 1, (2, 4, 9, 9)).astype(np.float32)
    session = ort.InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"], disabled_optimizers=["Pad_Fusion"]
    )
    return np.asarray(session.run(None, {"x": pixels})[0])


PADS = np.array([0, 0, 0, 1, 0, 0, 1, 2], np.int64)
WEIGHT = np.random.default_rng(0).normal(0, 1, (4, 1, 3, 3)).astype(np.float32)


def test_uneven_zero_padding_goes_into_the_convolution() -> None:
    model = graph(
        [
            helper.make_node("Pad", ["x", "pads"], ["padded"]),
            helper.make_node("Conv", ["padded", "w"], ["y"], group=4, strides=[2, 2], pads=[1, 0, 0, 0]),
        ],
        {"pads": PADS, "w": WEIGHT},
    )
    merged = folding.padding_into_convolutions(model)
    assert surgery.op_counts(merged) == {"Conv": 1}
    assert surgery.attribute(merged.graph.node[0], "pads") == [1, 1, 1, 2]
    np.testing.assert_allclose(answer(merged), answer(model), rtol=1e-6, atol=1e-6)


def test_padding_that_something_else_reads_or_that_is_not_zero_stays() -> None:
    shared = graph(
        [
            helper.make_node("Pad", ["x", "pads"], ["padded"]),
            helper.make_node("Conv", ["padded", "w"], ["c"], group=4),
            helper.make_node("ReduceMax", ["padded"], ["m"], axes=[2, 3]),
            helper.make_node("Add", ["c", "m"], ["y"]),
        ],
        {"pads": PADS, "w": WEIGHT},
    )
    ones = graph(
        [
            helper.make_node("Pad", ["x", "pads", "one"], ["padded"]),
            helper.make_node("Conv", ["padded", "w"], ["y"], group=4),
        ],
        {"pads": PADS, "one": np.array(1, np.float32), "w": WEIGHT},
    )
    for model in (shared, ones):
        assert surgery.op_counts(folding.padding_into_convolutions(model)) == surgery.op_counts(model)


@pytest.mark.parametrize("before", ["Relu", "Clip", "LeakyRelu"])
def test_padding_goes_into_a_max_pool_only_behind_what_is_never_negative(before: str) -> None:
    inputs = ["x", "zero", "six"] if before == "Clip" else ["x"]
    model = graph(
        [
            helper.make_node(before, inputs, ["a"]),
            helper.make_node("Pad", ["a", "pads"], ["padded"]),
            helper.make_node("MaxPool", ["padded"], ["y"], kernel_shape=[3, 3], strides=[2, 2]),
        ],
        {"pads": PADS, "zero": np.array(0, np.float32), "six": np.array(6, np.float32)},
    )
    merged = folding.padding_into_pools(model)
    assert ("Pad" in surgery.op_counts(merged)) == (before == "LeakyRelu")
    np.testing.assert_array_equal(answer(merged), answer(model))


def statistics() -> dict[str, npt.NDArray[np.float32]]:
    rng = np.random.default_rng(2)
    values = {
        "g": rng.uniform(0.5, 2, 4),
        "b": rng.normal(0, 1, 4),
        "m": rng.normal(0, 1, 4),
        "v": rng.uniform(1e-9, 3, 4),
    }
    return {name: value.astype(np.float32) for name, value in values.items()}


def test_batch_norm_goes_into_a_depthwise_convolution() -> None:
    model = graph(
        [
            helper.make_node("Conv", ["x", "w"], ["c"], group=4),
            helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["y"], epsilon=1e-3),
        ],
        {"w": WEIGHT, **statistics()},
    )
    merged = folding.batchnorm_into_convolutions(model)
    assert surgery.op_counts(merged) == {"Conv": 1}
    np.testing.assert_allclose(answer(merged), answer(model), rtol=1e-5, atol=1e-5)


def test_batch_norm_as_factor_and_summand() -> None:
    model = graph(
        [helper.make_node("BatchNormalization", ["x", "g", "b", "m", "v"], ["y"], epsilon=1e-3)], statistics()
    )
    plain = folding.plain_batchnorm(model)
    known = surgery.constants(plain)
    scale, _, mean, variance = (known[name] for name in plain.graph.node[0].input[1:])
    assert not mean.any()
    assert (variance == 1).all()
    assert scale.std() > 0
    np.testing.assert_allclose(answer(plain), answer(model), rtol=1e-5, atol=1e-5)
    assert folding.plain_batchnorm(plain) == plain
