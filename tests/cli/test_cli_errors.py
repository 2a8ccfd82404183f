"""A command line that cannot be carried out exits with 1: 2 says that a run was carried out and some inputs failed."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from glomedge import cli
from glomedge.cli import app
from helpers.paths import ROOT
from helpers.run_kit import write_crops

WRONG = [
    (["infer"], "infer needs a folder of crops: glomedge infer FOLDER"),
    (["infer", "--bogus"], "No such option"),
    (["infer", "crops", "--batch-size", "many"], "Invalid value for '--batch-size'"),
    (["evaluate"], "Missing argument"),
    (["warm", "--provider"], "requires an argument"),
    (["doctor", "surplus"], "unexpected extra argument"),
    (["nonsense"], "No such command"),
    ([], "Usage"),
]


def run_main(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int | str | None:
    """The exit code of the entry point, in this process."""
    monkeypatch.setattr(sys, "argv", ["glomedge", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code


@pytest.mark.parametrize(("arguments", "words"), WRONG)
def test_a_wrong_command_line_exits_with_1_and_clicks_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert run_main(monkeypatch, *arguments) == 1
    printed = capsys.readouterr()
    # Without any argument the help goes to stdout in some releases of typer.
    assert words.lower() in (printed.err + printed.out).lower()
    assert "Traceback" not in printed.err


@pytest.mark.parametrize("command", ["", *sorted(str(command.name) for command in app.registered_commands)])
def test_help_exits_with_0(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str) -> None:
    assert run_main(monkeypatch, *command.split(), "--help") in (0, None)
    assert "Usage" in capsys.readouterr().out


def test_version_exits_with_0(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(monkeypatch, "--version") in (0, None)
    assert "glomedge" in capsys.readouterr().out


def module(*arguments: str) -> subprocess.CompletedProcess[str]:
    """``python -m glomedge`` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "glomedge", *arguments],
        cwd=ROOT, env={**os.environ, "COLUMNS": "200"}, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


def test_the_same_by_python_m_glomedge(tmp_path: Path) -> None:
    missing, bogus, help_ = module("infer"), module("infer", "--bogus"), module("infer", "--help")
    assert (missing.returncode, bogus.returncode, help_.returncode) == (1, 1, 0)
    assert "infer needs a folder of crops" in missing.stderr
    assert "No such option" in bogus.stderr
    assert "Traceback" not in missing.stderr + bogus.stderr
    no_model = module("infer", str(tmp_path), "--model", str(tmp_path / "none.onnx"))
    assert no_model.returncode == 1
    assert "glomedge: " in no_model.stderr
    assert "Traceback" not in no_model.stderr


def test_some_inputs_with_errors_are_still_2(tmp_path: Path, tiny_model: Path) -> None:
    write_crops(tmp_path / "crops", 2, broken=0)
    (tmp_path / "crops" / "bad.png").write_bytes(b"no image")
    paths = [str(tmp_path / "crops"), "--model", str(tiny_model), "--output", str(tmp_path / "out")]
    done = module("infer", *paths, "--provider", "cpu")
    assert done.returncode == 2, done.stderr


def test_a_model_that_is_no_file_exits_with_1_and_one_message(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    for model in (ROOT / "README.md" / "model.onnx", tmp_path / "pipe.onnx", tmp_path):
        assert run_main(monkeypatch, "info", str(model)) == 1
        printed = capsys.readouterr().err
        assert printed.startswith("glomedge: ")
        assert "--model" in printed
        assert "Traceback" not in printed
