"""The next night: what a recalibrated file keeps of its site's scores, and what ``infer`` says of a night's."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from glomedge.cases.names import CaseFinder
from glomedge.cli import app
from glomedge.engine.options import EngineOptions
from glomedge.files.writing import sha256_of
from glomedge.imaging.images import ALLOWED_SUFFIXES
from glomedge.model.crop_digests import pack
from glomedge.model.file import read_model_file
from glomedge.model.site import recalibration
from glomedge.model.site_calibration import SiteCalibration, SiteScores
from glomedge.pipeline.inputs import scan
from glomedge.runs import site_scores
from glomedge.runs.folder import Options, infer_folder
from glomedge.runs.outcome import Outcome
from glomedge.runs.recalibrate import RecalibrateOptions, Recalibration, recalibrate_models
from glomedge.runs.site_scores import reference_crops
from helpers.builders import build_tiny_model
from helpers.sites import site_calibration, training_provenance, write_labels, write_site

CPU = EngineOptions(provider="cpu")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    """A site of 200 crops, of which 40 are labelled, and a model for it."""
    truth = write_site(tmp_path / "crops", 200, cases=8)
    write_labels(tmp_path / "labels.csv", dict(list(truth.items())[:40]))
    build_tiny_model(tmp_path / "model.onnx", recipe="plain", bias=-2.0)
    return tmp_path


def recalibrated(work: Path, **changed: Any) -> Recalibration:
    options = RecalibrateOptions(
        (work / "model.onnx",), work / "labels.csv", work / "crops", "North Lab", work / "north.onnx", engine=CPU
    )
    made = recalibrate_models(replace(options, **changed))
    assert made is not None
    return made[0]


def night(work: Path, *, redder: int = 0, **changed: Any) -> Outcome:
    """A run over 120 other crops, each redder than drawn."""
    folder = work / f"night-{redder}"
    if not folder.exists():
        write_site(folder, 120, cases=8, seed=77)
        for path in folder.glob("*.png"):
            pixels = cv2.imread(str(path))
            assert pixels is not None
            pixels[..., 2] = np.clip(pixels[..., 2].astype(int) + redder, 0, 255)
            cv2.imwrite(str(path), pixels)
    options = Options(folder=folder, model=work / "north.onnx", output=work / "out", engine=CPU, site="North Lab")
    outcome = infer_folder(replace(options, **{"overwrite": True, **changed}))
    assert outcome.complete
    return outcome


def test_the_scores_of_the_whole_folder_are_kept_in_the_file(work: Path) -> None:
    made = recalibrated(work)
    assert made.site.crops == 40
    kept = made.site.scores
    assert kept is not None
    assert (kept.crops, len(kept.biopsies)) == (200, 8)
    assert read_model_file(made.path).spec.site == made.site
    text = kept.model_dump_json()
    assert "S-10" not in text  # nobody's biopsy is named
    assert len(text) < 1000
    assert any("Scores of 200 crops of 8 biopsies" in one for one in recalibration(made.spec))
    # They are those of infer.
    outcome = night(work, folder=work / "crops")
    assert outcome.drift is not None
    assert outcome.drift["deciles"] == pytest.approx(kept.deciles, abs=0.02)  # the journal rounds


def test_a_night_like_the_site_is_compared_and_nothing_noted(work: Path) -> None:
    recalibrated(work)
    outcome = night(work)
    assert outcome.drift is not None
    assert outcome.drift["compared"] is True
    assert outcome.drift["found"] is False
    assert outcome.drift["p_value"] > 0.01
    assert (outcome.drift["crops"], outcome.drift["biopsies"], outcome.drift["reference_biopsies"]) == (120, 8, 8)
    assert not any("these scores differ" in note for note in outcome.notes)
    record = json.loads((work / "out" / "run.json").read_text("utf-8"))
    assert record["drift"] == json.loads(json.dumps(outcome.drift))


def test_a_night_from_another_scanner_is_noted_on_screen_in_the_record_and_in_the_report(work: Path) -> None:
    recalibrated(work)
    outcome = night(work, redder=45)
    assert outcome.drift is not None
    assert outcome.drift["found"] is True
    (note,) = [note for note in outcome.notes if "these scores differ" in note]
    assert "recalibrated on for North Lab (p = 0.0" in note
    assert "in at most 1 of 100 runs" in note
    record = json.loads((work / "out" / "run.json").read_text("utf-8"))
    assert note in record["notes"]
    assert record["drift"]["p_value"] <= record["drift"]["alarm_at_or_below"] == 0.01
    assert record["drift"]["not_called"] > record["drift"]["reference_not_called"]
    assert "these scores differ from those" in (work / "out" / "report.html").read_text("utf-8")
    asked = ["infer", str(work / "night-45"), "-m", str(work / "north.onnx"), "--site", "North Lab", "-p", "cpu"]
    shown = CliRunner().invoke(app, [*asked, "-o", str(work / "again"), "--no-report"])
    assert shown.exit_code == 0, shown.output
    assert f"Note: {note}" in shown.output


def test_a_night_that_is_not_the_sites_or_too_small_is_not_compared(work: Path) -> None:
    recalibrated(work)
    assert night(work, redder=45, site=None).drift is None
    few = work / "few"
    write_site(few, 90, cases=8, seed=5)
    outcome = night(work, folder=few)
    assert outcome.drift is not None
    assert outcome.drift["compared"] is False
    assert "90 crops in 8 biopsies" in outcome.drift["why"]
    eight = night(work, tta=8)
    assert eight.drift is not None
    assert "8 views" in eight.drift["why"]


def test_a_file_without_scores_still_reads_and_says_why_it_does_not_compare(work: Path) -> None:
    older = site_calibration().model_dump(exclude={"scores"})
    assert SiteCalibration.model_validate(older).scores is None
    # A site of two crops a biopsy keeps none.
    truth = write_site(work / "small", 40, cases=20)
    write_labels(work / "labels.csv", truth)
    made = recalibrated(work, images=work / "small")
    assert made.site.scores is None
    assert any("scores of the site are not kept" in note for note in made.notes)
    outcome = night(work)
    assert outcome.drift is not None
    assert "keeps no scores" in outcome.drift["why"]


def test_crops_of_the_training_are_no_part_of_the_sites_scores(work: Path) -> None:
    seen = [path for path in (work / "crops").glob("*.png") if int(path.stem[-24:], 16) >= 100]
    training = training_provenance(crop_digests=pack(sha256_of(path) for path in seen))
    build_tiny_model(work / "model.onnx", recipe="plain", bias=-2.0, training=training)
    kept = recalibrated(work).site.scores
    assert kept is not None
    assert kept.crops == 100


def test_a_folder_of_nothing_but_the_chosen_crops_does_not_stand_for_the_site(work: Path) -> None:
    inputs = scan(work / "crops", ALLOWED_SUFFIXES).inputs
    finder = CaseFinder([one.key for one in inputs], None)
    assert reference_crops(inputs, finder, [27.7] * 30) == []  # 30 crops stand for 830
    assert sorted(one.key for one in reference_crops(inputs, finder, [6.7] * 30)) == [one.key for one in inputs]


def test_a_large_folder_is_not_scored_to_its_end(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(site_scores, "MAX_CROPS", 130)
    inputs = scan(work / "crops", ALLOWED_SUFFIXES).inputs
    finder = CaseFinder([one.key for one in inputs], None)
    taken = reference_crops(inputs, finder, [1.0] * 30)
    assert len(taken) == 125  # five whole biopsies of 25
    assert len({finder.case_of(one.key).case for one in taken}) == 5


def test_scores_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(ValueError, match="deciles"):
        SiteScores(crops=1, deciles=(float("nan"),) * 11, biopsies=((0.0, 0.0),))
