"""SIGINT and SIGTERM: the batch is finished, the run ends in time and can be resumed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glomedge.engine.options import EngineOptions
from glomedge.results.journal import read_journal
from glomedge.runs.folder import Options, infer_folder
from helpers.builders import build_tiny_model
from helpers.run_kit import start_child, table, write_crops

_CROPS = 150
_BATCHES = 75
_POINTS = 50
# So many batches before the end the signal is sure to be met in the middle, however late it comes.
_MARGIN = 15


@pytest.fixture
def options(tmp_path: Path) -> Options:
    write_crops(tmp_path / "crops", _CROPS, broken=2)
    build_tiny_model(tmp_path / "model.onnx")
    return Options(
        tmp_path / "crops", tmp_path / "model.onnx", tmp_path / "out", engine=EngineOptions("cpu", batch_size=2)
    )


def _signal_points() -> list[object]:
    """From before the first batch to the last; every eighth in the default suite."""
    return [
        pytest.param(
            index * _BATCHES // (_POINTS - 1),
            signal.SIGINT if index % 2 else signal.SIGTERM,
            marks=[] if index % 7 == 0 else [pytest.mark.slow],
        )
        for index in range(_POINTS)
    ]


def _handled() -> None:
    """In the child: what the command line does around a run."""
    from glomedge.pipeline.prepare import default_decoder
    from glomedge.runs import folder
    from glomedge.system.stopping import StopOnSignals

    inner = folder.infer_folder
    stop = StopOnSignals()
    stop.__enter__()
    plain = default_decoder()

    def slow(data: bytes) -> Any:
        time.sleep(0.015)  # the run lasts a second, long enough to be met in the middle
        return plain.decode(data)

    def stoppable(options: Options) -> folder.Outcome:
        outcome = inner(options, stop=stop, decoder=plain._replace(decode=slow))
        if not outcome.complete:
            sys.exit(stop.exit_code)
        return outcome

    from helpers import run_kit

    run_kit.RUN = stoppable


def _answered_batches(options: Options) -> int:
    journal = options.output / ".glomedge" / "journal"
    return journal.read_bytes().count(b'"kind":"rows"') if journal.exists() else -1


def _wait_for(reached: Callable[[], bool], alive: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 60.0
    while not reached() and alive() and time.monotonic() < deadline_s:
        time.sleep(0.002)


@pytest.mark.parametrize(("batches", "number"), _signal_points())
def test_signals_end_the_run_in_time_and_lose_nothing(options: Options, batches: int, number: signal.Signals) -> None:
    process = start_child(options, _handled)
    _wait_for(lambda: _answered_batches(options) >= batches, process.is_alive)
    os.kill(process.pid, number)
    begin_s = time.monotonic()
    process.join(30.0)
    assert time.monotonic() - begin_s < 10.0
    # 2: it was done before the signal came, which only the last points may meet.
    assert process.exitcode == 128 + number or (process.exitcode == 2 and batches > _BATCHES - _MARGIN)
    contents = read_journal(options.output / ".glomedge" / "journal")
    assert contents.bad_bytes == 0
    if process.exitcode != 2:
        assert not (options.output / "predictions.csv").exists()
        assert not contents.suspects  # stopped in good order: nothing to be wary of
    outcome = infer_folder(replace(options, resume=process.exitcode != 2))
    rows = table(options.output)
    assert len({row["path"] for row in rows}) == len(rows) == _CROPS
    assert outcome.errors == {"truncated": 2}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("decode_in", ["threads", "processes"])
def test_the_command_ends_with_the_code_of_its_signal(options: Options, number: signal.Signals, decode_in: str) -> None:
    paths = sorted(options.folder.rglob("*.png"))
    for copy in range(20):
        shutil.copytree(options.folder / "b", options.folder / f"b{copy}", copy_function=os.link)
    total = len(paths) + 20 * len(list((options.folder / "b").iterdir()))
    command = [sys.executable, "-m", "glomedge", "infer", str(options.folder), "--model", str(options.model)]
    command += ["--output", str(options.output), "--provider", "cpu", "--batch-size", "2", "--decode-in", decode_in]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        _wait_for(lambda: _answered_batches(options) >= 5, lambda: process.poll() is None)
        process.send_signal(number)
        begin_s = time.monotonic()
        _, said = process.communicate(timeout=60.0)
        assert time.monotonic() - begin_s < 10.0
    assert process.returncode == 128 + number, said
    answered = len(read_journal(options.output / ".glomedge" / "journal").answers)
    assert 10 <= answered < total
    assert (
        said == f"Stopped. {answered} of {total} crops are classified and saved. Run again with --resume to continue.\n"
    )
    assert not (options.output / "predictions.csv").exists()
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2, done.stderr
    assert len(table(options.output)) == total
