from __future__ import annotations

import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from glomedge.errors import OutputError
from glomedge.lock import OutputLock


def test_100_races_have_one_winner_each(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    path = tmp_path / "work" / "lock"
    for _ in range(100):
        won: list[OutputLock] = []
        lost: list[str] = []
        barrier = threading.Barrier(4)

        def race(won: list[OutputLock] = won, lost: list[str] = lost, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            try:
                won.append(OutputLock(path))
            except OutputError as error:
                lost.append(str(error))

        threads = [threading.Thread(target=race) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(won), len(lost)) == (1, 3)
        assert all("Another run" in message for message in lost)
        won[0].close()


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
