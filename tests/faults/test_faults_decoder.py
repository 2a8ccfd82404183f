"""A decoder that really aborts or hangs, in the real command: only the row of its file is an error."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from glomedge.engine.options import EngineOptions
from glomedge.results.journal import read_journal
from glomedge.runs.folder import Options, infer_folder
from helpers.builders import build_tiny_model
from helpers.run_kit import table, write_crops

_BAD = "b/case2-17.png"

# Python runs it at the start of every process that has it on its path: of the command as of its decode processes.
_DEFECT = """
import hashlib, os, resource, time
from glomedge.imaging import images
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
real = images.decode
def decode(data):
    if hashlib.sha256(data).hexdigest() == os.environ["DEFECT_SHA256"]:
        os.abort() if os.environ["DEFECT"] == "abort" else time.sleep(600)
    return real(data)
images.decode = decode
"""


@pytest.fixture
def options(tmp_path: Path) -> Options:
    assert _BAD in write_crops(tmp_path / "crops", 30, broken=0)
    build_tiny_model(tmp_path / "model.onnx")
    (tmp_path / "defect").mkdir()
    (tmp_path / "defect" / "sitecustomize.py").write_text(_DEFECT)
    return Options(tmp_path / "crops", tmp_path / "model.onnx", tmp_path / "out", engine=EngineOptions("cpu"))


def _infer(options: Options, defect: str, sha256: str, *more: str) -> int:
    """Exit code of ``glomedge infer`` with that defect on the file of that content."""
    environment = {
        **os.environ, "PYTHONPATH": str(options.model.with_name("defect")), "DEFECT": defect, "DEFECT_SHA256": sha256
    }  # fmt: skip
    command = [sys.executable, "-m", "glomedge", "infer", str(options.folder), "--model", str(options.model)]
    done = subprocess.run(
        [*command, "--output", str(options.output), "--provider", "cpu", *more],
        env=environment, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode


def _check(options: Options, sha256: str) -> None:
    """One row says ``error:decoder`` and of which bytes; all others are those of a run that met no defect."""
    rows = table(options.output)
    (bad,) = [row for row in rows if row["status"].startswith("error:")]
    assert (bad["path"], bad["status"], bad["sha256"]) == (_BAD, "error:decoder", sha256)
    plain = replace(options, output=options.output.with_name("plain"))
    infer_folder(plain)
    assert [row for row in rows if row is not bad] == [row for row in table(plain.output) if row["path"] != _BAD]


def _replace_and_resume(options: Options, defect: str, sha256: str) -> None:
    """A good file in the bad one's place is predicted on by ``--resume``."""
    (options.folder / _BAD).write_bytes((options.folder / "a" / "case0-0.png").read_bytes())
    assert _infer(options, defect, sha256, "--resume") == 0
    rows = {row["path"]: row for row in table(options.output)}
    assert len(rows) == 30
    assert rows[_BAD]["probability"] == rows["a/case0-0.png"]["probability"]


def test_a_decoder_that_aborts_takes_the_run_with_it_once(options: Options) -> None:
    sha256 = hashlib.sha256((options.folder / _BAD).read_bytes()).hexdigest()
    assert _infer(options, "abort", sha256, "--decode-in", "threads") == -signal.SIGABRT
    assert _BAD in read_journal(options.output / ".glomedge" / "journal").suspects
    assert not (options.output / "predictions.csv").exists()
    # Asked for threads as before: nobody changes the options of a nightly job.
    assert _infer(options, "abort", sha256, "--decode-in", "threads", "--resume") == 2
    record = json.loads((options.output / "run.json").read_text("utf-8"))
    assert record["decoding"]["in"] == "processes"
    assert any("The previous run ended while decoding" in note for note in record["notes"])
    _check(options, sha256)
    _replace_and_resume(options, "abort", sha256)


@pytest.mark.parametrize("defect", ["abort", "hang"])
def test_in_a_process_it_costs_its_file_at_once(options: Options, defect: str) -> None:
    sha256 = hashlib.sha256((options.folder / _BAD).read_bytes()).hexdigest()
    assert _infer(options, defect, sha256, "--decode-in", "processes", "--decode-timeout", "3") == 2
    _check(options, sha256)
    _replace_and_resume(options, defect, sha256)


def test_a_decoder_that_hangs_in_a_thread_is_left_behind(options: Options) -> None:
    sha256 = hashlib.sha256((options.folder / _BAD).read_bytes()).hexdigest()
    assert _infer(options, "hang", sha256, "--decode-in", "threads", "--decode-timeout", "3") == 2
    _check(options, sha256)
    _replace_and_resume(options, "hang", sha256)
