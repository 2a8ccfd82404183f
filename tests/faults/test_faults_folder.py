"""A folder that is unreadable, crowded or changed by others during a run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from glomedge.engine.options import EngineOptions
from glomedge.results.journal import read_journal
from glomedge.runs.folder import Options, infer_folder
from helpers.builders import build_tiny_model
from helpers.run_kit import run_in_child, table, write_crops


@pytest.fixture
def options(tmp_path: Path) -> Options:
    write_crops(tmp_path / "crops", 30, broken=0)
    build_tiny_model(tmp_path / "model.onnx")
    return Options(tmp_path / "crops", tmp_path / "model.onnx", tmp_path / "out", engine=EngineOptions("cpu"))


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Where an ordinary user may write: pytest's own folders are for their owner only."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    yield folder
    for path in folder.rglob("*"):
        path.chmod(0o700)
    shutil.rmtree(folder)


def _run_as_nobody(options: Options) -> int:
    """Exit code of a run that is not root's, for root reads everything."""
    return run_in_child(options, partial(_step_down, replace(options, output=options.output.with_name("warm"))))


def _step_down(warm: Options) -> None:
    if os.geteuid() == 0:
        infer_folder(replace(warm, resume=False))  # imports what nobody else may read
        os.seteuid(65534)


def test_what_may_not_be_read_has_its_row_until_it_may(open_folder: Path) -> None:
    crops = open_folder / "crops"
    names = write_crops(crops, 12, broken=0)
    build_tiny_model(open_folder / "model.onnx")
    (open_folder / "out").mkdir()
    (open_folder / "out").chmod(0o777)
    options = Options(crops, open_folder / "model.onnx", open_folder / "out", engine=EngineOptions("cpu"))
    (crops / "b").chmod(0)
    (crops / names[2]).chmod(0)
    assert _run_as_nobody(options) == 2
    rows = {row["path"]: row["status"] for row in table(options.output)}
    assert set(rows) == {*(name for name in names if name.startswith("a/")), "b/"}
    assert {path: status for path, status in rows.items() if status.startswith("error:")} == {
        names[2]: "error:permission",
        "b/": "error:permission",
    }
    (crops / "b").chmod(0o755)
    (crops / names[2]).chmod(0o644)
    assert _run_as_nobody(replace(options, resume=True)) == 0
    assert [row["path"] for row in table(options.output)] == names
    record = json.loads((options.output / "run.json").read_text("utf-8"))
    assert record["inputs"] == record["rows"] == 12


def test_a_closed_folder_that_is_gone_leaves_no_row(open_folder: Path) -> None:
    crops = open_folder / "crops"
    write_crops(crops, 6, broken=0)
    build_tiny_model(open_folder / "model.onnx")
    (open_folder / "out").mkdir()
    (open_folder / "out").chmod(0o777)
    options = Options(crops, open_folder / "model.onnx", open_folder / "out", engine=EngineOptions("cpu"))
    (crops / "b").chmod(0)
    assert _run_as_nobody(options) == 2
    shutil.rmtree(crops / "b")
    assert _run_as_nobody(replace(options, resume=True)) == 0
    assert len(table(options.output)) == 3


def test_100_crops_of_one_name_are_100_rows(options: Options) -> None:
    paths = sorted(options.folder.rglob("*.png"))
    folder = options.folder.with_name("same")
    for number in range(100):
        (folder / f"slide{number}").mkdir(parents=True)
        shutil.copy(paths[number % len(paths)], folder / f"slide{number}" / "crop.png")
    assert infer_folder(replace(options, folder=folder)).exit_code == 0
    rows = {row["path"]: row["sha256"] for row in table(options.output)}
    assert rows == {
        f"slide{number}/crop.png": hashlib.sha256(paths[number % len(paths)].read_bytes()).hexdigest()
        for number in range(100)
    }


class _Meddler(threading.Thread):
    """Deletes, replaces and overwrites crops, from the moment when the run has begun until it ends."""

    def __init__(self, folder: Path, contents: list[bytes]) -> None:
        super().__init__()
        self._paths = sorted(folder.rglob("*.png"))
        self._contents = contents
        self._rng = np.random.default_rng(20)
        self.begin = threading.Event()
        self.end = threading.Event()

    def run(self) -> None:
        self.begin.wait(60.0)
        while not self.end.is_set():
            path = self._paths[int(self._rng.integers(0, len(self._paths)))]
            content = self._contents[int(self._rng.integers(0, len(self._contents)))]
            kind = int(self._rng.integers(0, 3))
            if kind == 0:
                path.unlink(missing_ok=True)
            elif kind == 1:
                path.with_suffix(".new").write_bytes(content)
                path.with_suffix(".new").replace(path)
            else:
                path.write_bytes(content)  # for a moment it is empty, or half of it
            time.sleep(0.0002)


@pytest.mark.parametrize("decode_in", ["threads", "processes"])
def test_files_deleted_and_overwritten_while_it_runs(options: Options, decode_in: str) -> None:
    infer_folder(options)
    answers = {row["sha256"]: row["probability"] for row in table(options.output)}
    contents = [path.read_bytes() for path in sorted(options.folder.rglob("*.png"))]
    folder = options.folder.with_name("meddled")
    count = 400
    before = {f"case{number % 5}-{number}.png": contents[number % len(contents)] for number in range(count)}
    folder.mkdir()
    for name, data in before.items():
        (folder / name).write_bytes(data)
    meddler = _Meddler(folder, contents)

    def progress(done: int, total: int) -> None:
        assert total == count
        meddler.begin.set()

    meddler.start()
    try:
        infer_folder(
            replace(options, folder=folder, output=options.output.with_name("two"), decode_in=decode_in),
            progress=progress,
        )
    finally:
        meddler.begin.set()
        meddler.end.set()
        meddler.join()
    rows = table(options.output.with_name("two"))
    assert [row["path"] for row in rows] == sorted(before)
    for row in rows:
        if row["status"].startswith("error:"):
            # Gone, or met while it was being written.
            assert row["status"] in ("error:vanished", "error:format", "error:truncated", "error:corrupt")
            assert row["sha256"] not in answers
        else:
            assert float(row["probability"]) == pytest.approx(float(answers[row["sha256"]]), abs=1e-5)
    assert any(row["status"] == "error:vanished" for row in rows)
    replaced = [row for row in rows if row["sha256"] != hashlib.sha256(before[row["path"]]).hexdigest()]
    assert sum(not row["status"].startswith("error:") for row in replaced) > 5


def test_a_stop_while_it_searches_compares_or_writes(options: Options) -> None:
    outcome = infer_folder(options, stop=lambda: True)
    assert (outcome.complete, outcome.inputs, outcome.answered) == (False, 0, 0)
    assert not options.output.exists()
    infer_folder(options)
    again, work = replace(options, resume=True), options.output / ".glomedge"
    (options.output / "predictions.csv").unlink()
    # From then on that the run holds its folder, the search is over and every file is looked at for changes.
    (work / "lock").unlink()
    for stop in (lambda: True, (work / "lock").exists, (work / "predictions.csv.tmp").exists):
        outcome = infer_folder(again, stop=stop)
        assert (outcome.complete, outcome.inputs, outcome.answered) == (False, 30, 30)
        assert read_journal(work / "journal").complete
        assert not (options.output / "predictions.csv").exists()
    assert infer_folder(again).exit_code == 0
    assert len(table(options.output)) == 30
