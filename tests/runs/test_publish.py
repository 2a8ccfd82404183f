"""What a finished run writes, and what is left when writing it is disturbed."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from glomedge.errors import MissingExtraError, OutputError, UsageError
from glomedge.files.names import unescape_name
from glomedge.imaging import images
from glomedge.model.spec import OperatingPoint
from glomedge.reports import overlay
from glomedge.runs.folder import Options, infer_folder
from helpers.builders import build_tiny_model
from helpers.run_kit import outputs
from helpers.sites import training_provenance


def _table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_folders_whose_names_are_not_utf8(options: Options, tmp_path: Path) -> None:
    here = os.fsencode(tmp_path)
    odd = {name: Path(os.fsdecode(here + b"/\xff" + name.encode())) for name in ("crops", "out", "heat")}
    options.folder.rename(odd["crops"])
    run = replace(
        options, folder=odd["crops"], output=odd["out"], heatmaps=odd["heat"], heatmaps_for="all",
        formats=("csv", "jsonl"),
    )  # fmt: skip
    assert infer_folder(run).exit_code == 2
    record = json.loads((run.output / "run.json").read_text("utf-8"))
    for name, argument in (("crops", "folder"), ("out", "output"), ("heat", "heatmaps")):
        assert unescape_name(record["arguments"][argument]) == bytes(odd[name])
    assert "\\xffcrops" in (run.output / "report.html").read_text("utf-8")
    assert len(list(odd["heat"].rglob("*.heatmap.jpg"))) == 28
    assert infer_folder(replace(run, resume=True)).predicted == 0
    with pytest.raises(UsageError, match=r"\\xffmodel is not UTF-8.*Rename"):
        infer_folder(replace(run, model=Path(os.fsdecode(here + b"/\xffmodel"))))


def test_a_linked_image_named_itself_is_read(options: Options) -> None:
    link = options.folder.parent / "link-1.png"
    link.symlink_to(options.folder / "b" / "case2-5.png")
    outcome = infer_folder(replace(options, folder=link))
    assert (outcome.exit_code, outcome.answered) == (0, 1)


def test_heatmaps_of_an_earlier_run_are_no_crops(options: Options) -> None:
    infer_folder(replace(options, heatmaps=options.folder / "heat", heatmaps_for="all"))
    outcome = infer_folder(options)
    assert outcome.inputs == 30
    assert any(note.startswith("28 heatmaps of an earlier run") for note in outcome.notes)


def test_heatmaps_are_the_same_bytes_for_any_worker_count(options: Options) -> None:
    drawn = []
    before = cv2.getNumThreads()
    for workers in (1, 3):
        run = replace(options, output=options.output / str(workers), heatmaps=options.output / f"heat {workers}")
        infer_folder(replace(run, heatmaps_for="all", workers=workers))
        assert run.heatmaps is not None
        drawn.append({path.name: path.read_bytes() for path in run.heatmaps.rglob("*.*")})
    assert len(drawn[0]) == 28
    assert drawn[0] == drawn[1]
    assert cv2.getNumThreads() == before


def test_a_heatmap_folder_that_cannot_be_written_is_found_first(options: Options) -> None:
    for place in (Path("/dev/full"), options.model / "under a file"):
        with pytest.raises(OutputError, match="--heatmaps"):
            infer_folder(replace(options, heatmaps=place, model=Path("none.onnx")))


def test_heatmaps_that_fail_cost_no_table(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    infer_folder(options)
    expected = outputs(options.output)
    run = replace(options, output=options.output.with_name("second"), heatmaps=options.output / "heat")

    def full(*arguments: object, **options: object) -> bytes:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(overlay, "to_jpeg", full)
        with pytest.raises(OutputError, match=r"No space left.*the report were written; run again with --resume"):
            infer_folder(run)
    assert outputs(run.output) == expected
    assert "The heatmaps are incomplete" in (run.output / "run.json").read_text("utf-8")
    assert run.heatmaps is not None
    assert not list(run.heatmaps.rglob("*.*"))
    outcome = infer_folder(replace(run, resume=True))
    assert (outcome.exit_code, outcome.predicted) == (2, 0)
    assert len(list(run.heatmaps.rglob("*.heatmap.jpg"))) == outcome.counts["positive"] > 0


def test_a_name_too_long_for_a_heatmap_costs_that_heatmap_only(options: Options) -> None:
    donor = options.folder / "b" / "case2-5.png"
    donor.with_name(f"case9-{'1' * 240}.png").write_bytes(donor.read_bytes())
    outcome = infer_folder(replace(options, heatmaps=options.output / "heat", heatmaps_for="all"))
    assert len(list((options.output / "heat").rglob("*.heatmap.jpg"))) == 28
    assert [note for note in outcome.notes if "File name too long" in note]
    assert len(_table(options.output / "predictions.csv")) == 31


def test_a_crop_too_long_for_a_jpeg_costs_its_heatmap_only(options: Options) -> None:
    assert cv2.imwrite(str(options.folder / "case9-1.png"), np.full((65_600, 32, 3), 200, np.uint8))
    outcome = infer_folder(replace(options, heatmaps=options.output / "heat", heatmaps_for="all"))
    assert len(list((options.output / "heat").rglob("*.*"))) == 28
    assert [note for note in outcome.notes if "case9-1.png: A JPEG has at most 65500 pixels a side" in note]


def test_parquet_without_pyarrow_is_refused_before_the_night(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "pyarrow" else find(name))
    with pytest.raises(MissingExtraError, match=r"\[parquet\]"):
        infer_folder(replace(options, formats=("parquet",)))
    assert not options.output.exists()


def test_a_signal_while_files_are_made_leaves_all_to_resume(options: Options) -> None:
    infer_folder(options)
    expected = outputs(options.output)
    (options.output / "predictions.csv").unlink()
    stop = (options.output / ".glomedge" / "predictions.csv.tmp").exists
    outcome = infer_folder(replace(options, resume=True), stop=stop)
    assert (outcome.complete, outcome.answered) == (False, 30)
    assert not (options.output / "predictions.csv").exists()
    assert infer_folder(replace(options, resume=True)).complete
    assert outputs(options.output) == expected


def test_the_review_column_follows_the_band_without_predicting_again(options: Options) -> None:
    for band in ((0.2, 0.8), (0.0, 1.0), (0.4, 0.4)):
        outcome = infer_folder(replace(options, review_band=band, resume=True))
        rows = _table(options.output / "predictions.csv")
        for row in rows:
            inside = "" if not row["probability"] else str(int(band[0] <= float(row["probability"]) <= band[1]))
            assert row["review"] == inside
        assert sum(row["review"] == "1" for row in rows) == outcome.counts["uncertain"]
        assert outcome.predicted == (30 if band == (0.2, 0.8) else 0)


def test_excluded_crops_are_said(options: Options) -> None:
    outcome = infer_folder(replace(options, exclude_flagged=True))
    flagged = outcome.counts["flagged"]
    assert flagged > 0
    assert sum(summary.classified for summary in outcome.cases) == outcome.counts["ok"]
    assert any(note.startswith(f"{flagged} flagged crops were classified but excluded") for note in outcome.notes)
    page = (options.output / "report.html").read_text("utf-8")
    assert page.split('<h2 id="crops">')[1].count("not counted") == flagged
    assert "excluded from the counts per case" in page
    counted = sum(summary.globally_sclerotic for summary in outcome.cases)
    assert f"<li><b>{counted}</b>globally sclerotic</li>" in page
    assert f"<li><b>{flagged}</b>flagged, not counted</li>" in page


def test_a_folder_of_nothing_but_excluded_crops(options: Options) -> None:
    for path in options.folder.rglob("*.png"):
        image = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        if image is not None:
            cv2.imwrite(str(path), image)  # grey: a flag of the file's kind, which excludes as those of quality do
    outcome = infer_folder(replace(options, exclude_flagged=True))
    assert outcome.counts["flagged"] == 28
    assert [summary.classified for summary in outcome.cases] == [0] * len(outcome.cases)
    assert {row["band"] for row in _table(options.output / "cases.csv")} == {""}
    page = (options.output / "report.html").read_text("utf-8")
    assert page.count("nothing classified</span>") == len(outcome.cases)


@pytest.mark.parametrize("what", ["errors only", "one crop"])
def test_links_of_the_report_lead_somewhere(options: Options, what: str) -> None:
    first, *others = [path for path in sorted(options.folder.rglob("*.png")) if path.stat().st_size > 2000]
    for path in others:
        path.unlink()
    if what == "errors only":
        first.write_bytes(b"")
    infer_folder(options)
    page = (options.output / "report.html").read_text("utf-8")
    wanted = set(re.findall(r"href=[\"']?#([\w-]+)", page))
    assert wanted >= {"cases", "review", "crops", "errors", "run"}
    assert wanted <= set(re.findall(r"\bid=[\"']?([\w-]+)", page))


def test_heatmaps_of_other_runs_are_said(options: Options) -> None:
    maps = options.output.parent / "maps"
    first = infer_folder(replace(options, heatmaps=maps, heatmaps_for="all"))
    assert not any("other runs" in note for note in first.notes)
    again = infer_folder(replace(options, heatmaps=maps, heatmaps_for="uncertain", resume=True))
    uncertain = again.counts["uncertain"]
    assert 0 < uncertain < 28
    assert f"{uncertain} heatmaps were written to" in " ".join(again.notes)
    assert any(f"also contains {28 - uncertain} heatmaps of other runs" in note for note in again.notes)
    uncertain_rows = {row["path"] for row in _table(options.output / "predictions.csv") if row["review"] == "1"}
    fresh = infer_folder(
        replace(options, heatmaps=options.output.parent / "fresh", heatmaps_for="uncertain", resume=True)
    )
    assert {
        str(path.relative_to(options.output.parent / "fresh")).removesuffix(".heatmap.jpg")
        for path in (options.output.parent / "fresh").rglob("*.heatmap.jpg")
    } == uncertain_rows
    assert fresh.predicted == 0


def test_sensitivity_and_specificity_hold_at_their_own_threshold_only(options: Options) -> None:
    point = OperatingPoint(true_positive=45, false_negative=5, true_negative=95, false_positive=5)
    build_tiny_model(options.model, operating_point=point, threshold=0.6, training=training_provenance(site="Here"))
    options = replace(options, site="Here")
    for given, known in ((None, True), (0.6, True), (0.5, False)):
        outcome = infer_folder(replace(options, threshold=given))
        assert any(summary.corrected_percent_gs is not None for summary in outcome.cases) is known
        assert any("measured at its threshold 0.6, not at" in note for note in outcome.notes) is not known
    outcome = infer_folder(replace(options, tta=8))
    assert all(summary.corrected_percent_gs is None for summary in outcome.cases)
    assert any("measured on single views, not on the mean over 8" in note for note in outcome.notes)


def test_corrected_percentages_and_bands_are_given_at_the_models_own_site_only(options: Options) -> None:
    point = OperatingPoint(true_positive=45, false_negative=5, true_negative=95, false_positive=5)

    def told(site: str | None) -> tuple[bool, str, str]:
        outcome = infer_folder(replace(options, site=site, overwrite=True))
        known = {
            any(getattr(summary, name) is not None for summary in outcome.cases)
            for name in ("corrected_percent_gs", "corrected_low", "corrected_high", "band")
        }
        assert len(known) == 1
        return known.pop(), " ".join(outcome.notes), (options.output / "report.html").read_text("utf-8")

    build_tiny_model(options.model, operating_point=point)
    known, notes, page = told(None)
    assert not known
    for words in ("Not calibrated here", "stain or scanner", "Label 30 of your crops"):
        assert words in notes
        assert words in page
    with pytest.raises(UsageError, match=r"--site 'Here': this model was never calibrated"):
        told("Here")
    build_tiny_model(options.model, operating_point=point, training=training_provenance(site="Here"))
    known, notes, page = told("Here")
    assert known
    assert "alibrated" not in notes
    known, notes, page = told(None)
    assert not known
    assert "give --site Here;" in notes
    assert "Not calibrated here" not in notes
    with pytest.raises(UsageError, match=r"--site 'There': this model is calibrated for 'Here'"):
        told("There")


def test_files_that_had_no_bytes_are_read_once_they_are_files(options: Options) -> None:
    pipe, large = options.folder / "a" / "case0-90.png", options.folder / "a" / "case0-91.png"
    os.mkfifo(pipe)
    with large.open("wb") as handle:
        handle.truncate(images.MAX_FILE_BYTES + 1)
    assert infer_folder(options).errors == {"not_regular": 1, "too_large": 1, "truncated": 2}
    donor = (options.folder / "b" / "case2-5.png").read_bytes()
    pipe.unlink()
    for path in (pipe, large):
        path.write_bytes(donor)
    outcome = infer_folder(replace(options, resume=True))
    assert (outcome.predicted, outcome.errors) == (2, {"truncated": 2})


def test_the_largest_batch_bounds_the_usual_one(options: Options) -> None:
    infer_folder(options)
    expected = [(row["path"], row["label"]) for row in _table(options.output / "predictions.csv")]
    outcome = infer_folder(replace(options, engine=replace(options.engine, max_batch=3)))
    assert outcome.record["batch_size"] == 3
    assert [(row["path"], row["label"]) for row in _table(options.output / "predictions.csv")] == expected
    with pytest.raises(UsageError, match="--batch-size 8 is more than --max-batch 3"):
        infer_folder(replace(options, engine=replace(options.engine, batch_size=8, max_batch=3)))


def test_bfloat16_that_would_not_be_is_refused(options: Options) -> None:
    with pytest.raises(UsageError, match="--bf16: cpu computes this model in fp32"):
        infer_folder(replace(options, engine=replace(options.engine, bf16=True)))


def test_a_run_in_another_arithmetic_is_not_resumed(options: Options) -> None:
    infer_folder(options)
    with pytest.raises(OutputError, match="bf16: False in the unfinished run, True now"):
        infer_folder(replace(options, resume=True, engine=replace(options.engine, bf16=True)))
