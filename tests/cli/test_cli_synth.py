"""``glomedge synth`` from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from glomedge.about import RESEARCH_USE_NOTICE


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "glomedge", *arguments], capture_output=True, text=True, timeout=300, check=False
    )


def test_draws_and_says_what_comes_next(tmp_path: Path) -> None:
    done = run("synth", str(tmp_path / "set"), "--crops", "6", "--cases", "3", "--seed", "2")
    assert done.returncode == 0, done.stderr
    assert "Drew 6 crops" in done.stdout
    assert "glomedge train" in done.stdout
    assert RESEARCH_USE_NOTICE in done.stdout
    assert len((tmp_path / "set" / "public.csv").read_text().splitlines()) == 7


def test_json(tmp_path: Path) -> None:
    arguments = ["--crops", "10", "--cases", "2", "--positive-fraction", "0.5", "--workers", "1", "--json"]
    done = run("synth", str(tmp_path / "set"), *arguments)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert (summary["crops"], summary["positive"], summary["cases"]) == (10, 5, 2)
    assert summary["notice"] == RESEARCH_USE_NOTICE


def test_a_folder_in_use_is_refused_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "public.csv").write_text("name,ground truth\n")
    done = run("synth", str(tmp_path), "--crops", "4", "--cases", "2")
    assert done.returncode == 1
    assert done.stderr.startswith("glomedge: ")
    assert "name another folder" in done.stderr
    assert "Traceback" not in done.stderr


def test_more_cases_than_crops(tmp_path: Path) -> None:
    done = run("synth", str(tmp_path / "set"), "--crops", "2", "--cases", "5")
    assert done.returncode == 1
    assert "at least one crop per case" in done.stderr
    assert not (tmp_path / "set").exists()
