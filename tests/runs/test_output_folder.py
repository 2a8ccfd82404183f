"""The output folder of a run: what is replaced, what is refused before any work, and what a failure leaves."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from glomedge.errors import ModelError, OutputError
from glomedge.results.journal import read_journal
from glomedge.runs.folder import Options, infer_folder
from helpers.run_kit import outputs, run_in_child, table


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
