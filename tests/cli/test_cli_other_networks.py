"""The commands that take any model, on networks of another side and without a map."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from glomedge.cli import app
from helpers.other_networks import NETWORKS, SOURCE
from helpers.run_kit import write_crops


@pytest.fixture(params=["299 px", "224 px without a map"])
def model(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    NETWORKS[request.param].build(tmp_path / "model.onnx", source=SOURCE)
    return tmp_path / "model.onnx"


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, result.output
    return result.output


def test_warm_and_doctor(model: Path) -> None:
    assert json.loads(run("warm", str(model), "--provider", "cpu", "--json"))["provider"] == "cpu"
    assert "self-test passed" in run("doctor", "--model", str(model), "--provider", "cpu").replace("\n", " ")


def test_info(model: Path) -> None:
    said = json.loads(run("info", str(model), "--json"))["said"]
    flat = " ".join(run("info", str(model)).split())
    for sentence in said.values():
        assert sentence
        assert sentence in flat
    assert "Not trained by glomedge: exported from a Keras 2 file, read by tf_keras 2.21.0" in flat
    assert "Not known of this model: its decision threshold (0.5 is assumed)" in flat


def test_bench(model: Path, tmp_path: Path) -> None:
    write_crops(tmp_path / "crops", 8, broken=0)
    run(
        "bench", "--model", str(model), "--provider", "cpu", "--batch-size", "1,2", "--duration", "0.1",
        "--scenario", "offline", "--images", str(tmp_path / "crops"), "--output", str(tmp_path / "out"),
    )  # fmt: skip
    record = json.loads((tmp_path / "out" / "bench.json").read_text("utf-8"))
    assert not record["failures"]
    (configuration,) = record["configurations"]
    assert configuration["end_to_end"]["crops"] == 8
    assert configuration["end_to_end"]["stages_ms"]["infer"] > 0
    assert configuration["cold_start"]["first_s"] > 0
    assert configuration["parity"]["passed"]
