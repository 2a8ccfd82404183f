"""The table of a model at another centre, on a small drawn one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.accuracy import other_centre
from benchmarks.lib.common import set_results_directory
from glomedge.files.writing import sha256_of
from glomedge.model.crop_digests import pack
from helpers.builders import build_tiny_model
from helpers.sites import training_provenance, write_site

LABELS = 30


@pytest.fixture
def centre(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """116 crops of 10 biopsies and a model whose offset is wrong there, with the script's arguments set."""
    write_site(tmp_path / "centre", 116, cases=10)
    build_tiny_model(tmp_path / "model.onnx", recipe="plain", bias=-4.0)
    arguments = ["--model", str(tmp_path / "model.onnx"), "--data", str(tmp_path / "centre"), "--quick"]
    arguments += ["--results", str(tmp_path / "results"), "--source", "drawn"]
    monkeypatch.setattr(sys, "argv", ["other_centre", *arguments])
    return tmp_path


def result(work: Path) -> dict[str, Any]:
    try:
        other_centre.main()
    finally:
        set_results_directory(None)
    found: dict[str, Any] = json.loads((work / "results" / "other_centre.json").read_text("utf-8"))
    return found


def test_the_table_is_that_of_the_commands(centre: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = result(centre)
    assert "by the commands" in capsys.readouterr().err  # they agreed, or the script would have ended
    before = found["as_it_is"]
    assert before["sensitivity"] < 0.2
    assert before["auroc"] > 0.95
    assert len(before["biopsies"]) == 10
    errors = [abs(one["called"] - one["percent_gs"]) for one in before["biopsies"].values()]
    assert before["percent_gs_mean_error"] == pytest.approx(np.mean(errors))
    assert before["percent_gs_worst_error"] == pytest.approx(max(errors))
    assert len(found["seeds"]) == 3
    for seed in found["seeds"]:
        assert seed["refused"] is None
        assert seed["before"]["crops"] == seed["after"]["crops"] == 116 - LABELS
        assert seed["after"]["accuracy"] > seed["before"]["accuracy"]
        assert seed["before"]["intervals_printed"] == 0  # this model has no counts of its own
        assert seed["after"]["intervals_printed"] > 0
    page = (centre / "results" / "other_centre.md").read_text("utf-8")
    assert "median accuracy at least 0.92: met" in page
    assert "Data: drawn." in page
    assert str(centre) not in page


def test_a_difference_from_the_commands_ends_the_script(centre: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = other_centre.one_seed

    def wrong(*arguments: Any) -> dict[str, Any]:
        one = real(*arguments)
        one["after"]["accuracy"] -= 0.1
        return one

    monkeypatch.setattr(other_centre, "one_seed", wrong)
    with pytest.raises(SystemExit, match="not those of the product"):
        result(centre)


def test_a_model_that_has_seen_a_crop_of_the_centre_is_refused(centre: Path) -> None:
    seen = pack([sha256_of(min((centre / "centre").glob("*.png")))])
    build_tiny_model(centre / "model.onnx", recipe="plain", training=training_provenance(crop_digests=seen))
    with pytest.raises(SystemExit, match="trained on 1 of these crops"):
        result(centre)


def test_labels_that_cannot_carry_a_recalibration_are_counted_as_refused(
    centre: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [*sys.argv, "--labels", "10"])
    found = result(centre)
    assert all("too few to recalibrate" in seed["refused"] for seed in found["seeds"])
    assert "3 of them refused" in (centre / "results" / "other_centre.md").read_text("utf-8")
