"""``glomedge recalibrate`` on the command line."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from glomedge.cli import app
from glomedge.model.file import read_model_file
from glomedge.model.site import why_uncorrected
from helpers.builders import build_tiny_model
from helpers.sites import write_site


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_site(tmp_path / "crops")
    for name in ("model.onnx", "model.int8.onnx"):
        build_tiny_model(tmp_path / name, recipe="plain", weights_sha256="a" * 64)
    return tmp_path


def run(*arguments: str) -> str:
    options = ["--images", "crops", "--site", "North Lab", "--provider", "cpu"]
    result = CliRunner().invoke(app, ["recalibrate", *arguments, *options])
    assert result.exit_code == 0, result.output
    return result.output


def test_one_model(work: Path) -> None:
    said = run("model.onnx", "crops/public.csv", "-o", "north.onnx")
    spec = read_model_file(work / "north.onnx").spec
    assert spec.site is not None
    assert f"slope {spec.site.slope:.3f}, offset {spec.site.offset:+.3f}" in said
    assert "60 labelled crops" in said
    assert "north.card.md" in said
    assert "Research use only" in said
    shown = CliRunner().invoke(app, ["info", "north.onnx"]).output
    assert "recalibrated for North Lab" in " ".join(shown.split())


def test_the_printed_command_can_be_pasted_into_a_shell(work: Path) -> None:
    asked = ["recalibrate", "model.onnx", "crops/public.csv", "-o", "o'neill (1).onnx", "--images", "crops"]
    result = CliRunner().invoke(app, [*asked, "--site", "St Mary's", "--provider", "cpu"])
    assert result.exit_code == 0, result.output
    (line,) = [line for line in result.output.splitlines() if line.startswith("Use it with: ")]
    words = shlex.split(line.removeprefix("Use it with: "))
    assert words == ["glomedge", "infer", "DIR", "-m", "o'neill (1).onnx", "--site", "St Mary's"]
    spec = read_model_file(work / "o'neill (1).onnx").spec
    assert shlex.split(why_uncorrected(spec).rpartition("give ")[2].partition(";")[0]) == ["--site", "St Mary's"]


def test_several_models_in_one_call_as_json(work: Path) -> None:
    made = json.loads(run("model.onnx", "model.int8.onnx", "crops/public.csv", "-o", "models", "--json"))
    assert [Path(one["path"]).name for one in made] == ["model.North-Lab.onnx", "model.int8.North-Lab.onnx"]
    for one in made:
        assert read_model_file(Path(one["path"])).sha256 == one["sha256"]
        point, site = one["operating_point"], one["site"]
        assert point["true_positive"] + point["false_negative"] == site["positive"]
        assert sum(one["labelled_crops_after"].values()) == site["crops"] == 60
        assert "Research use only" in one["notice"]
