"""``glomedge doctor`` and ``glomedge warm``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import cv2
import pytest
from typer.testing import CliRunner

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli import app
from glomedge.engine import golden, providers
from glomedge.engine.providers import PROVIDERS
from glomedge.engine.runner import SessionRequest
from glomedge.model.spec import BatchProfile
from glomedge.system.telemetry import ONNXRUNTIME_OPT_OUTS


def test_json_is_one_object_and_exit_0(tiny_model: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        app, ["doctor", "--model", str(tiny_model), "--json", "--cache-dir", str(tmp_path / "cache")]
    )
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["notice"] == RESEARCH_USE_NOTICE
    assert found["healthy"] is True
    assert {report["name"] for report in found["providers"]} == set(PROVIDERS)
    assert found["model"]["precision"] == "fp32"


def test_words_name_each_provider_and_the_notice(tiny_model: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "-m", str(tiny_model), "--cache-dir", str(tmp_path / "cache")])
    assert result.exit_code == 0
    for name in PROVIDERS:
        assert name in result.stdout
    assert "Recommended: --provider" in result.stdout
    assert RESEARCH_USE_NOTICE in result.stdout


def test_it_says_that_telemetry_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ONNXRUNTIME_OPT_OUTS:
        monkeypatch.setenv(name, "1")
    said = " ".join(CliRunner().invoke(app, ["doctor"]).stdout.split())
    assert "telemetry off: onnxruntime (ORT_DISABLE_TELEMETRY=1" in said
    assert "openvino (" in said
    for name in ONNXRUNTIME_OPT_OUTS:
        monkeypatch.setenv(name, "0")
    said = " ".join(CliRunner().invoke(app, ["doctor"]).stdout.split())
    assert "telemetry ON: onnxruntime: on by your own setting ORT_DISABLE_TELEMETRY=0" in said
    found = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert [(state["package"], state["off"]) for state in found["telemetry"]] == [
        ("onnxruntime", False), ("openvino", True), ("ray", True),
    ]  # fmt: skip


def test_a_broken_model_is_exit_1_and_says_why(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_text("this is no model")
    result = CliRunner().invoke(app, ["doctor", "--model", str(path)])
    assert result.exit_code == 1
    assert "not an ONNX file" in " ".join(result.stdout.split())


def test_the_model_of_the_working_folder_is_taken(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["doctor", "--json", "--cache-dir", str(tmp_path / "cache")]
    assert json.loads(CliRunner().invoke(app, arguments).stdout)["model"] is None
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "model.onnx").write_bytes(tiny_model.read_bytes())
    assert json.loads(CliRunner().invoke(app, arguments).stdout)["model"]["problem"] == ""


@pytest.mark.openvino
def test_warm_builds_then_finds(tiny_model: Path, tmp_path: Path) -> None:
    if (reason := PROVIDERS["openvino"].unusable()) is not None:
        pytest.skip(reason)
    arguments = ["warm", str(tiny_model), "--provider", "openvino", "--cache-dir", str(tmp_path / "cache"), "--json"]
    first, second = (json.loads(CliRunner().invoke(app, arguments).stdout) for _ in range(2))
    assert first["provider"] == second["provider"] == "openvino"
    assert any("engine built" in note for note in first["notes"])
    assert "engine taken from the cache" in second["notes"]
    assert second["elapsed_s"] > 0
    assert first["notice"] == RESEARCH_USE_NOTICE


def test_warm_in_words(tiny_model: Path) -> None:
    result = CliRunner().invoke(app, ["warm", str(tiny_model), "--provider", "cpu"])
    assert result.exit_code == 0
    assert "Ready on cpu after" in result.stdout
    assert RESEARCH_USE_NOTICE in result.stdout


@pytest.mark.parametrize(("name", "gpu"), [("openvino", False), ("tensorrt", True)])
def test_warm_and_doctor_open_what_infer_will_open(
    monkeypatch: pytest.MonkeyPatch, tiny_model: Path, tmp_path: Path, name: str, gpu: bool
) -> None:
    """An engine is built for its batch sizes: built for others than infer's, it would be minutes spent for nothing."""
    profiles: list[BatchProfile] = []

    def options(request: SessionRequest) -> Mapping[str, str]:
        profiles.append(request.profile)
        return {}

    entry = providers.onnxruntime_provider(name, "CPUExecutionProvider", options, install="", gpu=gpu)
    monkeypatch.setattr(providers, "PROVIDERS", {name: entry})
    (tmp_path / "crops").mkdir()
    image = golden.draw_crop(1)
    (tmp_path / "crops" / "a.png").write_bytes(cv2.imencode(".png", image)[1].tobytes())
    for arguments in (
        ["warm", str(tiny_model), "--provider", name],
        ["doctor", "--model", str(tiny_model)],
        ["infer", str(tmp_path / "crops"), "-m", str(tiny_model), "--provider", name, "-o", str(tmp_path / "o")],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
    assert len(profiles) >= 3
    assert {(profile.min, profile.opt) for profile in profiles} == {(1, 32 if gpu else 4)}
    assert len(set(profiles)) == 1


def test_warm_takes_a_largest_batch_below_the_usual_one(tiny_model: Path) -> None:
    result = CliRunner().invoke(app, ["warm", str(tiny_model), "--provider", "cpu", "--max-batch", "1"])
    assert result.exit_code == 0, result.output
