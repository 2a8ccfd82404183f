from __future__ import annotations

import multiprocessing
import os
import sys
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from glomedge.errors import OutputError
from glomedge.files.lock import OutputLock

_RUNS, _ROUNDS = 10, 10


def _race(path: Path, begin: Barrier, end: Barrier) -> None:
    """One run: exit code 0 where it got the folder, and otherwise what the command line ends with."""
    begin.wait(60.0)
    try:
        held = OutputLock(path)
    except OutputError as error:
        code = error.exit_code if "Another run (process " in str(error) else 99
    else:
        code = 0
    end.wait(60.0)  # nobody lets go before all have tried
    if code == 0:
        held.close()
    sys.exit(code)


def test_100_runs_in_races_have_one_winner_each_time(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["glomedge.files.lock"])
    for _ in range(_ROUNDS):
        begin, end = context.Barrier(_RUNS), context.Barrier(_RUNS)
        runs = [context.Process(target=_race, args=(tmp_path / "work" / "lock", begin, end)) for _ in range(_RUNS)]
        for run in runs:
            run.start()
        for run in runs:
            run.join(120.0)
        assert sorted(run.exitcode for run in runs if run.exitcode is not None) == [0] + [1] * (_RUNS - 1)


def _hold_and_die(path: Path) -> None:
    OutputLock(path)
    os._exit(0)


def test_a_dead_run_leaves_no_lock(tmp_path: Path) -> None:
    process = multiprocessing.get_context("spawn").Process(target=_hold_and_die, args=(tmp_path / "lock",))
    process.start()
    process.join(60.0)
    assert process.exitcode == 0
    OutputLock(tmp_path / "lock").close()


def test_a_lock_that_cannot_be_made(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="Choose another --output"):
        OutputLock(tmp_path / "none" / "lock")
