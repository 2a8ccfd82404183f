from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import shutil
import signal
import threading
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.engine.options import EngineOptions
from glomedge.errors import ModelError, OutputError, UsageError
from glomedge.files.names import restore
from glomedge.imaging import enhance, images
from glomedge.pipeline.settings import Settings
from glomedge.results.journal import read_journal
from glomedge.results.tables import columns
from glomedge.runs.folder import Options, infer_folder
from glomedge.system.cpu import usable_cpus
from helpers.builders import build_tiny_model, tiny_logit
from helpers.run_kit import outputs, run_in_child, table, write_crops


@pytest.fixture
def options(tmp_path: Path) -> Options:
    write_crops(tmp_path / "crops", 30, broken=2)
    build_tiny_model(tmp_path / "model.onnx")
    return Options(tmp_path / "crops", tmp_path / "model.onnx", tmp_path / "out", engine=EngineOptions("cpu"))


@pytest.mark.parametrize("name", ["predictions.csv", "predictions.parquet", "cases.csv", "report.html", "run.json"])
def test_files_of_another_program_are_not_replaced_unasked(options: Options, name: str) -> None:
    """Only a journal of glomedge beside them makes result files its own; a mere folder ``.glomedge`` does not."""
    (options.output / ".glomedge").mkdir(parents=True)
    foreign = options.output / name
    foreign.write_text("months of somebody's work\n")
    for again in (options, replace(options, resume=True), options):
        with pytest.raises(OutputError, match=rf"holds {re.escape(name)}, and no journal.*--output.*--overwrite"):
            infer_folder(again)
        assert foreign.read_text() == "months of somebody's work\n"
        assert [path.name for path in options.output.iterdir() if path.name != ".glomedge"] == [name]
    infer_folder(replace(options, overwrite=True))
    assert len(table(options.output)) == 30
    # From now on they are its own.
    infer_folder(options)


def test_a_journal_that_is_not_of_glomedge_makes_nothing_its_own(options: Options) -> None:
    (options.output / ".glomedge").mkdir(parents=True)
    (options.output / ".glomedge" / "journal").write_bytes(b"")
    (options.output / "cases.csv").symlink_to("moved away")
    with pytest.raises(OutputError, match=r"holds cases\.csv.*--overwrite"):
        infer_folder(options)
    assert (options.output / "cases.csv").is_symlink()


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


def test_the_run_record_says_what_was_done(options: Options) -> None:
    outcome = infer_folder(options)
    record = json.loads((options.output / "run.json").read_text("utf-8"))
    assert record == json.loads(json.dumps(outcome.record))
    assert record["notice"] == RESEARCH_USE_NOTICE
    assert record["counts"]["error"] == 2
    assert record["inputs"] == record["rows"] == 30
    assert record["counts"]["ok"] + record["counts"]["flagged"] == 28
    assert record["counts"]["positive"] + record["counts"]["negative"] == 28
    assert record["arguments"]["model"] == str(options.model)
    for name, digest in record["files_sha256"].items():
        assert hashlib.sha256((options.output / name).read_bytes()).hexdigest() == digest
    assert set(record["files_sha256"]) == {"predictions.csv", "cases.csv", "report.html"}
    assert record["decoding"] == {"png_decoder": images.png_decoder(), "workers": usable_cpus(), "in": "threads"}
    assert "pyarrow" not in record["versions"]
    assert infer_folder(replace(options, resume=True)).record["decoding"] is None


def test_the_run_record_says_how_it_was_decoded_and_written(options: Options) -> None:
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    record = infer_folder(replace(options, workers=3, decode_in="processes", formats=("parquet",))).record
    assert record["decoding"] == {"png_decoder": images.png_decoder(), "workers": 3, "in": "processes"}
    assert record["versions"]["pyarrow"] == version("pyarrow")


@pytest.mark.parametrize(
    ("decode_in", "gpu", "workers", "expected"),
    [
        ("auto", False, 3, "threads"),
        ("auto", False, 4, "processes"),
        ("auto", True, 1, "threads"),
        ("auto", True, 2, "processes"),
        ("threads", True, 16, "threads"),
        ("processes", False, 1, "processes"),
    ],
)
def test_where_it_is_decoded(
    options: Options, monkeypatch: pytest.MonkeyPatch, decode_in: str, gpu: bool, workers: int, expected: str
) -> None:
    from glomedge.engine import providers
    from glomedge.imaging import decoders

    # On a GPU that is not there, the run ends when the model is loaded: what it chose until then is looked at.
    monkeypatch.setattr(providers, "runs_on_gpu", lambda *_: gpu)
    monkeypatch.setattr(decoders, "fast_png_decoder", lambda: lambda *_: None)
    chosen: list[Settings] = []

    class SeenError(Exception):
        pass

    def pipeline(root: bytes, settings: Settings, *others: object, **more: object) -> None:
        chosen.append(settings)
        raise SeenError

    monkeypatch.setattr("glomedge.runs.pipeline_run.Pipeline", pipeline)
    with pytest.raises(SeenError):
        infer_folder(replace(options, decode_in=decode_in, workers=workers))
    assert ("processes" if chosen[0].decode_processes else "threads") == expected
    assert chosen[0].decode_workers == workers


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


def test_inputs_are_never_written_to(options: Options) -> None:
    def stamps() -> dict[str, tuple[int, int, str]]:
        return {
            str(path): (path.stat().st_mtime_ns, path.stat().st_mode, hashlib.sha256(path.read_bytes()).hexdigest())
            for path in options.folder.rglob("*.png")
        }

    before = stamps()
    for path in options.folder.rglob("*.png"):
        path.chmod(0o444)
    before = stamps()
    infer_folder(replace(options, heatmaps=options.output / "heat", heatmaps_for="all"))
    assert stamps() == before


def test_output_inside_the_input_is_not_read(options: Options) -> None:
    inside = replace(
        options, output=options.folder / "predictions", heatmaps=options.folder / "heat", heatmaps_for="all"
    )
    infer_folder(inside)
    assert len(list((options.folder / "heat").rglob("*.heatmap.jpg"))) == 28
    infer_folder(inside)
    assert len(table(inside.output)) == 30


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


def test_an_earlier_result_stays_until_the_new_one_is_whole(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    infer_folder(options)
    before = outputs(options.output)

    def fail(*args: object, **others: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setitem(__import__("glomedge.runs.publish").runs.publish.WRITERS, "csv", fail)
        with pytest.raises(OutputError, match=r"No space left.*--resume"):
            infer_folder(replace(options, threshold=0.9))
    assert outputs(options.output) == before
    assert {path.name for path in options.output.iterdir()} == {
        ".glomedge", "predictions.csv", "cases.csv", "report.html", "run.json",
    }  # fmt: skip
    # What was predicted is kept: the files alone are made anew.
    outcome = infer_folder(replace(options, threshold=0.9, resume=True))
    assert outcome.times.infer_wall_s == 0.0
    assert {row["threshold"] for row in table(options.output)} == {"0.9"}


def test_a_full_disk_is_fatal_and_resumable(options: Options) -> None:
    infer_folder(options)
    expected = outputs(options.output)
    said = options.output.parent / "said"
    code = run_in_child(replace(options, output=options.output.parent / "small"), partial(_limit_files, said))
    assert code == OutputError.exit_code  # told, not a traceback (runkit.DEFECT)
    assert re.match(r"OutputError: .*cannot be written: File too large.*--resume", said.read_text())
    small = options.output.parent / "small"
    assert not (small / "predictions.csv").exists()
    assert 0 < len(read_journal(small / ".glomedge" / "journal").answers) < 30
    infer_folder(replace(options, output=small, resume=True))
    assert outputs(small) == expected


def _limit_files(said: Path) -> None:
    """No file may grow beyond 16 kB: the journal's or the thumbnails' write fails as on a full disk."""
    import resource
    import sys

    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (16_000, 16_000))
    sys.stderr = said.open("w", buffering=1)


def test_unwritable_output_is_found_before_the_model_is_read(options: Options, tmp_path: Path) -> None:
    missing = replace(options, model=tmp_path / "none.onnx")
    with pytest.raises(OutputError, match="Choose another --output"):
        infer_folder(replace(missing, output=Path("/dev/full")))
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="Choose another --output"):
        infer_folder(replace(missing, output=tmp_path / "file"))
    with pytest.raises(ModelError, match="There is no model"):
        infer_folder(missing)


def test_no_room_is_found_before_the_model_is_read(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.statvfs

    def nearly_full(path: str) -> os.statvfs_result:
        return os.statvfs_result((*real(path)[:3], 10, 10, *real(path)[5:]))

    monkeypatch.setattr(os, "statvfs", nearly_full)
    with pytest.raises(OutputError, match="There is not enough space"):
        infer_folder(replace(options, model=Path("none.onnx")))


def test_a_second_run_into_the_same_folder_is_refused(options: Options) -> None:
    first = threading.Event()
    release = threading.Event()

    def progress(done: int, total: int) -> None:
        first.set()
        release.wait(10.0)

    thread = threading.Thread(target=lambda: infer_folder(options, progress=progress))
    thread.start()
    try:
        assert first.wait(20.0)
        with pytest.raises(OutputError, match=rf"Another run \(process {os.getpid()}\)"):
            infer_folder(options)
    finally:
        release.set()
        thread.join()


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
