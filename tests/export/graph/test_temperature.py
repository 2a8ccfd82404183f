"""What export writes as the temperature is what loading reads from the graph, in every precision."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from glomedge.model.graph import TEMPERATURE, read_graph_facts
from glomedge_export.graph import convert, float16
from helpers.tiny_graphs import tiny_backbone


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("temperature", [1.0, 0.798154, 1.7])
def test_the_graph_says_its_temperature(tmp_path: Path, temperature: float, precision: str) -> None:
    kernel = np.random.default_rng(3).normal(0, 0.02, (2048, 1)).astype(np.float32)
    model = convert.assemble(tiny_backbone(), "resnet", kernel, np.zeros(1, np.float32), temperature).model
    model = float16.to_fp16(model) if precision == "fp16" else model
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    assert read_graph_facts(path).temperature == pytest.approx(temperature, rel=1e-7)
    assert [tensor.name for tensor in model.graph.initializer].count(TEMPERATURE) == (temperature != 1.0)
    # The other way in which ONNX may hold the number.
    for tensor in model.graph.initializer:
        if tensor.name == TEMPERATURE:
            tensor.CopyFrom(onnx.helper.make_tensor(TEMPERATURE, onnx.TensorProto.FLOAT, [], [temperature]))
            assert tensor.float_data
    path.write_bytes(model.SerializeToString())
    assert read_graph_facts(path).temperature == pytest.approx(temperature, rel=1e-7)
