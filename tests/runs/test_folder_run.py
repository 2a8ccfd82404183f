"""``glomedge infer`` on a folder: one row for each input, and the same rows whatever the batches and workers."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.engine.options import EngineOptions
from glomedge.errors import UsageError
from glomedge.files.names import restore
from glomedge.imaging import enhance, images
from glomedge.results.tables import columns
from glomedge.runs.folder import Options, infer_folder
from helpers.builders import tiny_logit
from helpers.run_kit import outputs, table


def test_every_input_has_one_row_and_the_right_answer(options: Options) -> None:
    outcome = infer_folder(options)
    rows = table(options.output)
    expected = sorted(
        (str(path.relative_to(options.folder)) for path in options.folder.rglob("*.png")), key=os.fsencode
    )
    assert [row["path"] for row in rows] == expected
    assert outcome.exit_code == 2
    assert outcome.errors == {"truncated": 2}
    for row in rows:
        path = options.folder / row["path"]
        assert row["notice"] == RESEARCH_USE_NOTICE
        assert row["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert row["provider"] == "cpu"
        assert row["case"] == path.name.split("-")[0]
        if row["status"] == "error:truncated":
            assert (row["probability"], row["label"], row["class_name"]) == ("", "", "")
            assert row["message"]
            continue
        enhanced = enhance.enhance(images.decode(path.read_bytes()).pixels_hwc, "seed")
        probability = 1.0 / (1.0 + np.exp(-tiny_logit(enhanced[None])[0]))
        assert float(row["probability"]) == pytest.approx(probability, abs=1e-5)
        assert int(row["label"]) == (float(row["probability"]) >= 0.5)
        assert row["class_name"] == ("globally sclerotic" if row["label"] == "1" else "non-globally sclerotic")
    spread = [float(row["probability"]) for row in rows if row["probability"]]
    assert max(spread) - min(spread) > 0.3


def test_crops_pooled_for_want_of_a_biopsy_are_said(options: Options) -> None:
    assert not any("do not identify a biopsy" in note for note in infer_folder(options).notes)
    flat = options.folder.parent / "flat"
    flat.mkdir()
    for number, path in enumerate(sorted(options.folder.rglob("*.png"))):
        shutil.copy(path, flat / path.name if number else flat / "loose.png")
    run = replace(options, folder=flat, output=options.output.with_name("flat-out"), case_pattern=r"(?P<case>loose)")
    outcome = infer_folder(run)
    total = len(list(flat.iterdir())) - 1
    assert outcome.biopsies_found["counts"] == {"pattern": 1, "unknown": total}
    (warning,) = outcome.biopsies_found["warnings"]
    assert f"does not match {total} of {total + 1} names: case0-12.png" in warning
    assert [note for note in outcome.notes if note.startswith(f"The names of {total} crops do not identify a biopsy")]
    assert "do not identify a biopsy" in (run.output / "run.json").read_text("utf-8")


@pytest.mark.parametrize("batch", [1, 7, 32])
@pytest.mark.parametrize("workers", [1, 4])
def test_batch_and_workers_change_nothing(options: Options, batch: int, workers: int) -> None:
    every = ("csv", "jsonl", *(["parquet"] if importlib.util.find_spec("pyarrow") else []))
    options = replace(options, formats=every)
    infer_folder(replace(options, workers=2, engine=replace(options.engine, batch_size=4)))
    first, expected = table(options.output), outputs(options.output)
    infer_folder(replace(options, workers=workers, engine=replace(options.engine, batch_size=batch)))
    second = table(options.output)
    for one, other in zip(first, second, strict=True):
        assert {k: v for k, v in one.items() if k != "probability"} == {
            k: v for k, v in other.items() if k != "probability"
        }
        if one["probability"]:
            assert float(one["probability"]) == pytest.approx(float(other["probability"]), abs=1e-5)
    infer_folder(replace(options, workers=workers, engine=replace(options.engine, batch_size=4)))
    assert outputs(options.output) == expected
    assert set(expected) == {*(f"predictions.{name}" for name in every), "cases.csv"}


def test_all_formats_hold_the_same_rows(options: Options) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    infer_folder(replace(options, formats=("jsonl", "parquet"), tta=8))
    text = table(options.output)
    lines = [json.loads(line) for line in (options.output / "predictions.jsonl").read_text("utf-8").splitlines()]
    columnar = parquet.read_table(options.output / "predictions.parquet").to_pylist()
    assert list(text[0]) == list(lines[0]) == list(columnar[0]) == list(columns(tta=True))
    for one, two, three in zip(text, lines, columnar, strict=True):
        assert {k: "" if v is None else str(v) for k, v in two.items()} == one
        assert three["path"] == two["path"]
        assert three["probability"] == (None if two["probability"] is None else np.float32(two["probability"]))
        if two["probability"] is not None:
            assert 0.0 <= two["tta_disagreement"] < 1e-3  # a mean colour does not depend on the view
    # Another format next time: no file of this run stays beside those of that one.
    infer_folder(options)
    assert not (options.output / "predictions.jsonl").exists()


def test_strange_names_survive_every_way(options: Options) -> None:
    data = next(options.folder.rglob("case2*.png")).read_bytes()
    names = [
        b"=1+1.png",
        b"-x.png",
        b"+x.png",
        b"@x.png",
        b"\tx.png",
        b"a,b.png",
        b'q"q.png',
        b"n\nl.png",
        b"\xff\xfe.png",
    ]
    folder = options.output.parent / "strange"
    folder.mkdir()
    for name in names:
        Path(os.fsdecode(os.fsencode(folder) + b"/" + name)).write_bytes(data)
    outcome = infer_folder(replace(options, folder=folder, formats=("jsonl",)))
    assert outcome.exit_code == 0
    from glomedge.files.names import unescape_name

    rows = table(options.output)
    assert sorted(unescape_name(restore(row["path"])) for row in rows) == sorted(names)
    assert not any(row["path"].startswith(("=", "+", "-", "@", "\t")) for row in rows)
    raw = [json.loads(line)["path"] for line in (options.output / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert sorted(unescape_name(path) for path in raw) == sorted(names)


@pytest.mark.timeout(60)
def test_what_is_no_file_has_its_row_and_is_never_opened(options: Options) -> None:
    os.mkfifo(options.folder / "pipe.png")
    (options.folder / "loop").symlink_to(options.folder)
    (options.folder / "gone.png").symlink_to(options.folder / "nowhere")
    outcome = infer_folder(replace(options, follow_symlinks=True))
    assert outcome.errors == {"not_regular": 1, "truncated": 2, "vanished": 1}
    statuses = {row["path"]: row["status"] for row in table(options.output)}
    assert len(statuses) == 32
    assert statuses["pipe.png"] == "error:not_regular"
    outcome = infer_folder(options)
    assert "2 symbolic links were not followed" in outcome.notes[0]
    assert len(table(options.output)) == 31


def test_heatmaps_without_a_report(options: Options) -> None:
    infer_folder(replace(options, report=False, heatmaps=options.output / "heat", heatmaps_for="all"))
    assert len(list((options.output / "heat").rglob("*.jpg"))) == 28
    infer_folder(replace(options, resume=True))
    assert "no picture kept" in (options.output / "report.html").read_text("utf-8")


def test_heatmaps_are_made_for_those_asked_for(options: Options) -> None:
    infer_folder(replace(options, heatmaps=options.output / "heat", heatmaps_for="positives"))
    drawn = {str(path.relative_to(options.output / "heat")) for path in (options.output / "heat").rglob("*.jpg")}
    assert drawn == {row["path"] + ".heatmap.jpg" for row in table(options.output) if row["label"] == "1"}
    assert drawn
    import cv2

    for name in drawn:
        crop = cv2.imread(str(options.folder / name.removesuffix(".heatmap.jpg")))
        overlay = cv2.imread(str(options.output / "heat" / name))
        assert crop is not None
        assert overlay is not None
        assert overlay.shape[0] == crop.shape[0]


def test_bad_options_are_refused(options: Options, tmp_path: Path) -> None:
    bad: list[dict[str, object]] = [
        {"threshold": 0.0}, {"threshold": 1.0}, {"review_band": (0.8, 0.2)}, {"tta": 4},
        {"engine": EngineOptions(batch_size=0)}, {"workers": 0}, {"decode_timeout_s": 0.0},
        {"resume": True, "overwrite": True}, {"heatmaps_for": "none"},
        {"formats": ("xlsx",)}, {"case_pattern": "(no group)"},
    ]  # fmt: skip
    for changes in bad:
        with pytest.raises(UsageError):
            infer_folder(replace(options, **changes))  # type: ignore[arg-type]
    assert not options.output.exists()
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="There is no image"):
        infer_folder(replace(options, folder=tmp_path / "empty"))


@pytest.mark.parametrize(
    ("threshold", "asked", "expected"),
    [
        (0.5, None, (0.2, 0.8)),
        (0.2, None, (0.0588, 0.5)),
        (0.9, None, (0.6923, 0.973)),
        (0.2, (0.4, 0.6), (0.4, 0.6)),
    ],
)
def test_the_review_band_follows_the_threshold(
    tmp_path: Path, threshold: float, asked: tuple[float, float] | None, expected: tuple[float, float]
) -> None:
    options = Options(tmp_path, review_band=asked)
    assert options.band(threshold) == expected
    assert options.to_review(expected[0], threshold)
    assert not options.to_review(expected[1] + 0.001, threshold)
