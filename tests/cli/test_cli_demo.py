"""``glomedge demo`` from the command line (the demo itself: tests/export/test_demo.py, slow)."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from glomedge import __version__
from glomedge.about import RESEARCH_USE_NOTICE
from glomedge_export.demo.run import RECORD_FILE
from glomedge_export.demo.steps import STEPS
from helpers.demo_tables import write_answers, write_labels


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "glomedge", "demo", *arguments], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A demo folder in which every step is noted as done, and the tables that the figures are read from."""
    for drawn in ("night", "away-check"):
        write_labels(tmp_path / drawn / "public.csv", [1, 0])
    for answers in ("predictions", "before", "after"):
        write_answers(tmp_path / answers, [0.9, 0.2])
    record = {"demo": "glomedge", "version": __version__, "seconds": {step.command: 2.0 for step in STEPS}}
    (tmp_path / RECORD_FILE).write_text(json.dumps(record))
    return tmp_path


def test_a_finished_demo_says_where_to_look(finished: Path) -> None:
    done = run(str(finished))
    assert done.returncode == 0, done.stderr
    for step in STEPS:
        assert step.command in done.stdout
    assert done.stdout.count("done earlier") == len(STEPS)
    assert "On 2 drawn crops of 1 biopsies that training never saw: AUROC 1.000, sensitivity 1.000" in done.stdout
    assert "before and after 30 labels: sensitivity 1.000 -> 1.000" in done.stdout
    last = done.stdout[done.stdout.index("Where to look:") :].splitlines()
    assert last[1].split()[0] == str(finished / "demo.html")
    assert last[2].split()[0] == str(finished / "predictions" / "cases.csv")
    assert "report.html" not in done.stdout[done.stdout.index("Where to look:") :]  # it is not there: not shown
    assert done.stdout.rstrip().endswith(RESEARCH_USE_NOTICE)


def test_json_alone_on_standard_output(finished: Path) -> None:
    done = run(str(finished), "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["night"]["auroc"] == 1.0
    assert result["other_laboratory"]["after"]["crops"] == 2
    assert result["total_seconds"] == 2.0 * len(STEPS)
    assert result["notice"] == RESEARCH_USE_NOTICE
    assert f"$ {STEPS[0].command}" in done.stderr


def test_a_model_that_did_not_learn_is_exit_1(finished: Path) -> None:
    write_answers(finished / "predictions", [0.1, 0.2])
    done = run(str(finished))
    assert done.returncode == 1
    assert "did not learn" in done.stderr
    assert "Traceback" not in done.stderr


def test_another_folder_is_refused_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_bytes(b"x")
    for arguments in ([str(tmp_path)], [str(tmp_path), "--fresh"]):
        done = run(*arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("glomedge: ")
        assert "not a demo folder" in done.stderr
        assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.doc"]


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_stops_the_demo_and_its_command(tmp_path: Path, number: signal.Signals, code: int) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "glomedge", "demo", "demo"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    drawing = tmp_path / "demo" / "data"
    deadline = time.monotonic() + 100
    while not drawing.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert drawing.exists()
    demo.send_signal(number)  # to the demo alone, not to the command that it runs
    # The pipes close only when the command, which inherited them, has ended too.
    _, error = demo.communicate(timeout=100)
    assert demo.returncode == code
    assert "Traceback" not in error
    assert not (tmp_path / "demo" / "night").exists()  # the next step was not begun
