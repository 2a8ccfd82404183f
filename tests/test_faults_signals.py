"""SIGINT and SIGTERM (FAULTS 22): the batch is finished, the run ends in time and goes on where it was."""

from __future__ import annotations

import csv
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from builders import build_tiny_model
from runkit import start_child, write_crops

from glomedge.folderrun import Options, infer_folder
from glomedge.journal import read_journal


@pytest.fixture
def options(tmp_path: Path) -> Options:
    write_crops(tmp_path / "crops", 30, broken=2)
    build_tiny_model(tmp_path / "model.onnx")
    return Options(tmp_path / "crops", tmp_path / "model.onnx", tmp_path / "out", provider="cpu")


def _table(output: Path) -> list[dict[str, str]]:
    with (output / "predictions.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def _signal_points() -> list[object]:
    rng = np.random.default_rng(22)
    delays = np.sort(rng.uniform(0.0, 1.2, 50))
    return [
        pytest.param(float(delay), number, marks=[] if index % 8 == 0 else [pytest.mark.slow])
        for index, delay in enumerate(delays)
        for number in ((signal.SIGINT,) if index % 2 else (signal.SIGTERM,))
    ]


def _handled() -> None:
    """In the child: what the command line does around a run."""
    import sys

    from glomedge import folderrun
    from glomedge.signals import StopOnSignals

    inner = folderrun.infer_folder
    stop = StopOnSignals()
    stop.__enter__()

    def stoppable(options: Options) -> folderrun.Outcome:
        def wait_then_stop() -> bool:
            time.sleep(0.02)  # so that the run is long enough to be met in the middle
            return stop()

        outcome = inner(options, stop=wait_then_stop)
        if not outcome.complete:
            sys.exit(stop.exit_code)
        return outcome

    import runkit

    runkit.RUN = stoppable


@pytest.mark.parametrize(("delay_s", "number"), _signal_points())
def test_signals_end_the_run_in_time_and_lose_nothing(options: Options, delay_s: float, number: signal.Signals) -> None:
    write_crops(options.folder, 150, broken=2)
    process = start_child(replace(options, batch_size=2), _handled)
    journal = options.output / ".glomedge" / "journal"
    deadline_s = time.monotonic() + 60.0
    while not journal.exists() and process.is_alive() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    time.sleep(delay_s)
    os.kill(process.pid, number)
    begin_s = time.monotonic()
    process.join(30.0)
    assert time.monotonic() - begin_s < 10.0
    assert process.exitcode in (128 + number, 2)  # 2: it was done before the signal came
    assert read_journal(journal).bad_bytes == 0
    if process.exitcode != 2:
        assert not (options.output / "predictions.csv").exists()
    outcome = infer_folder(replace(options, resume=process.exitcode != 2, batch_size=2))
    rows = _table(options.output)
    assert len({row["path"] for row in rows}) == len(rows) == 150
    assert outcome.errors == {"truncated": 2}
