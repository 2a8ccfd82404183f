"""The Slurm script of docs/cluster.md, run here as processes: it stops in good order, goes on, and the shards merge."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from glomedge.results.journal import read_journal
from glomedge.runs.folder import Options, infer_folder
from glomedge.runs.shard_of import Shard
from helpers.paths import ROOT
from helpers.run_kit import outputs, write_crops
from helpers.slow_model import build_slow_model

TASKS = 3


@pytest.fixture
def script(tmp_path: Path) -> Path:
    """The script of the page, with commands beside it that stand for the installed one and for Slurm's."""
    page = (ROOT / "docs" / "cluster.md").read_text("utf-8")
    path = tmp_path / "array.sh"
    path.write_text(re.findall(r"```bash\n(.*?)```", page, re.DOTALL)[0], "utf-8")
    for name, line in (
        ("glomedge", f'exec {sys.executable} -m glomedge "$@"'),
        ("scontrol", f'echo "$@" >> {tmp_path}/requeued'),
    ):
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f"#!/bin/sh\n{line}\n", "utf-8")
        command.chmod(0o755)
    return path


def task(script: Path, options: Options, number: int) -> subprocess.Popen[str]:
    """One task of the array, as Slurm starts it."""
    variables = {
        "CROPS": str(options.folder), "MODEL": str(options.model), "RUN": str(options.output),
        "SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": str(TASKS), "SLURM_JOB_ID": str(100 + number),
        "PATH": f"{script.parent / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT),
    }  # fmt: skip
    return subprocess.Popen(
        ["bash", str(script)],
        env={**os.environ, **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_the_array_is_stopped_requeued_and_merged(script: Path, options: Options, tmp_path: Path) -> None:
    write_crops(options.folder / "c", 60, seed=3)
    build_slow_model(options.model)
    infer_folder(replace(options, output=tmp_path / "whole"))
    journal = Shard(1, TASKS).folder(options.output) / ".glomedge" / "journal"
    with task(script, options, 1) as first:
        end_s = time.monotonic() + 60
        while not (journal.is_file() and len(read_journal(journal).answers) >= 4) and time.monotonic() < end_s:
            time.sleep(0.02)
        first.send_signal(signal.SIGTERM)  # to the shell alone, as --signal=B:TERM does
        said = first.communicate(timeout=60)[0]
    assert first.returncode == 0, said
    assert (tmp_path / "requeued").read_text() == "requeue 101\n", said
    assert 4 <= len(read_journal(journal).answers) < 40
    tasks = [task(script, options, number) for number in range(1, TASKS + 1)]
    for each in tasks:
        said = each.communicate(timeout=120)[0]
        assert each.returncode == 0, said
        assert "Shard " in said
    merge = [str(tmp_path / "bin" / "glomedge"), "merge", str(options.output), "-o", str(tmp_path / "merged")]
    done = subprocess.run(
        merge, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr  # broken crops have error rows
    assert "90 inputs on cpu" in done.stdout
    assert outputs(tmp_path / "merged") == outputs(tmp_path / "whole")
