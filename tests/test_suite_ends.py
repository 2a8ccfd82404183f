"""The suite itself: a worker that dies ends it with a failure, within seconds."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.paths import ROOT


def parallel_options() -> list[str]:
    """The options of ``make test``, as the Makefile has them."""
    text = (ROOT / "Makefile").read_text("utf-8")
    found = re.search(r"^PYTEST_PARALLEL := (.+)$", text, re.MULTILINE)
    assert found is not None
    return shlex.split(found[1].replace("$(WORKERS)", "2"))


@pytest.mark.parametrize("end", ["os._exit(0)", "os.kill(os.getpid(), 9)", "os.abort()"])
def test_a_crashed_worker_is_a_failure_and_no_hang(tmp_path: Path, end: str) -> None:
    pytest.importorskip("xdist", reason="needs pytest-xdist")
    (tmp_path / "test_a.py").write_text(
        f"import os, time\ndef test_1(): time.sleep(0.2)\ndef test_2(): {end}\ndef test_3(): pass\n"
    )
    for name in "bcd":
        (tmp_path / f"test_{name}.py").write_text("import time\ndef test_1(): time.sleep(0.1)\ndef test_2(): pass\n")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *parallel_options()],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout
    assert "crashed while running 'test_a.py::test_2'" in done.stdout
    assert "1 failed" in done.stdout
