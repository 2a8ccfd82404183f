from __future__ import annotations

import sys
from pathlib import Path

import pytest
from runkit import write_crops

from glomedge.errors import GlomedgeError
from glomedge.quarantine import find_killers

# Dies on names with "abort", falls silent on names with "hang": what a decoder's defect does to its process.
_STUB = """
import os, sys, time
paths = sys.stdin.buffer.read().split(b"\\0")[:-1]
os.write(1, b"ready\\n")
for path in paths:
    if b"abort" in path: os.abort()
    if b"hang" in path: time.sleep(60)
    os.write(1, b"next\\n")
"""


def test_only_the_files_that_kill_are_named() -> None:
    names = [b"a", b"abort-1", b"b", b"c", b"hang", b"d\n", b"abort-2", b"e"]
    assert find_killers(names, 0.5, [sys.executable, "-c", _STUB]) == [1, 4, 6]
    assert find_killers([], 0.5, [sys.executable, "-c", _STUB]) == []


def test_the_real_child_survives_good_and_broken_files(tmp_path: Path) -> None:
    names = write_crops(tmp_path, 6, broken=3)
    paths = [bytes(tmp_path / name) for name in names]
    assert find_killers([*paths, b"/nowhere/at all.png"], 30.0) == []


def test_a_child_that_does_not_start_is_said() -> None:
    with pytest.raises(GlomedgeError, match="--overwrite"):
        find_killers([b"a"], 0.5, [sys.executable, "-c", "raise SystemExit(3)"])
