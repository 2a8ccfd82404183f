"""The one progress bar: shown on a terminal, silent elsewhere."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys

import pytest

from glomedge.cli.progress import Progress, TrainingProgress
from glomedge_export.training.checkpoint import EpochRow

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are POSIX's")


def _on_a_terminal(code: str) -> str:
    """What a process writes to a standard error that is a terminal, without escape sequences."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", code], stderr=theirs, env={**os.environ, "COLUMNS": "100", "TERM": "xterm"}
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 4096):
                shown += part
        except OSError:  # Linux: the other end is closed
            pass
        finally:
            os.close(ours)
    assert process.returncode == 0, shown.decode()
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown.decode())


def test_stages_and_lines_on_a_terminal() -> None:
    shown = _on_a_terminal(
        "from glomedge.cli.progress import Progress\n"
        "with Progress() as progress:\n"
        "    progress('reading', 3, 7)\n"
        "    one = progress.stage('crops')\n"
        "    one(2, 5)\n"
        "    progress.line('a line [that] stays')\n"
        "    progress.pause(lambda: None)\n"
        "    progress('reading', 7, 7)\n"
    )
    assert "reading" in shown
    assert "7/7" in shown
    assert "2/5" in shown
    assert "a line [that] stays" in shown


def test_training_is_one_bar_over_all_epochs() -> None:
    shown = _on_a_terminal(
        "from glomedge.cli.progress import TrainingProgress\n"
        "with TrainingProgress(3) as progress:\n"
        "    progress.preparing('Enhancing crops', 4, 4)\n"
        "    progress.step(2, 5, 10)\n"
    )
    assert "Training, epoch 2/3" in shown
    assert "15/30" in shown


def test_without_a_terminal_only_lines_are_written(capfd: pytest.CaptureFixture[str]) -> None:
    with TrainingProgress(2) as progress:
        progress.preparing("Enhancing crops", 1, 2)
        progress.step(1, 1, 4)
        progress.epoch(EpochRow(1, 0.5, 0.75, 0.25, 0.875, 3.0))
        progress.note("[bold] is no markup")
    with Progress() as bars:
        assert bars.stage("crops") is None
        bars("reading", 1, 2)
    printed = capfd.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        "epoch 1/2: loss 0.5000, accuracy 0.7500, validation loss 0.2500, validation accuracy 0.8750, 3 s",
        "[bold] is no markup",
    ]
