"""A power cut costs the work of a second, and never leaves a journal that tells of pictures that are not there."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from glomedge.engine.options import EngineOptions
from glomedge.results import sink
from glomedge.results.journal import read_journal
from glomedge.runs.folder import Options, infer_folder
from helpers.run_kit import outputs, write_crops


@pytest.fixture
def options(tmp_path: Path, tiny_model: Path) -> Options:
    write_crops(tmp_path / "crops", 24, broken=1)
    return Options(tmp_path / "crops", tiny_model, tmp_path / "out", engine=EngineOptions("cpu"))


def test_pictures_are_on_the_disk_before_the_rows_that_name_them(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "_SYNC_EVERY_S", 0.0)
    flushed_bytes, ended, plain = 0, False, os.fsync

    def fsync(descriptor: int) -> None:
        nonlocal flushed_bytes, ended
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.name == "thumbnails":
            flushed_bytes = path.stat().st_size
        if path.name == "journal":
            # Rows may come while the disk is busy; not once the run says that it is done.
            contents = read_journal(path)
            if contents.complete:
                ended = True
                assert contents.answers.attachments_end_bytes() == flushed_bytes > 0
        plain(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    assert infer_folder(options).complete
    assert ended


@pytest.mark.parametrize("left", [0, -1])
def test_pictures_that_a_power_cut_took_are_made_again(options: Options, left: int) -> None:
    assert infer_folder(options).complete
    before, report = outputs(options.output), (options.output / "report.html").stat().st_size
    pictures = options.output / ".glomedge" / "thumbnails"
    size = pictures.stat().st_size
    os.truncate(pictures, left % size)
    outcome = infer_folder(replace(options, resume=True))
    assert outcome.predicted == (23 if left == 0 else 1)
    assert any("were lost, as by a power cut" in note for note in outcome.notes)
    assert outputs(options.output) == before
    assert abs((options.output / "report.html").stat().st_size - report) < 2000  # all its pictures, and the note
    # Without pictures none is missed.
    os.truncate(pictures, 0)
    assert infer_folder(replace(options, resume=True, report=False)).predicted == 0
