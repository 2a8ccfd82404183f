"""What a shell makes of a pattern, given to the commands that read one folder, is answered with what to type."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from glomedge.cli import app
from glomedge.errors import UsageError


def refused(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments))
    assert isinstance(result.exception, UsageError), result.output
    assert result.stdout == ""
    return str(result.exception)


@pytest.mark.parametrize(
    ("named", "cure"),
    [
        (["a.png", "b.png"], "Give the folder: glomedge infer ."),
        (["my night/a.png", "my night/b.png"], "Give the folder: glomedge infer 'my night'"),
        (["k1/a.png", "k2/b.png"], "Give the folder that holds them all; it is searched at any depth"),
    ],
)
def test_infer(named: list[str], cure: str) -> None:
    message = refused("infer", *named)
    assert message.startswith("infer reads one folder or one image, and 2 names were given (")
    assert message.endswith(cure)


@pytest.mark.parametrize("command", ["evaluate", "train"])
@pytest.mark.parametrize("labels_in", ["data", "data/1"])
def test_evaluate_and_train_name_the_folder_of_the_labels(tmp_path: Path, command: str, labels_in: str) -> None:
    (tmp_path / "data" / "1").mkdir(parents=True)
    (tmp_path / labels_in / "public.csv").write_text("name,ground truth\n")
    crops = [str(tmp_path / "data" / "1" / f"{letter}.png") for letter in "abc"]
    message = refused(command, *crops)
    assert message.startswith(f"{command} reads one data set, and 3 names were given ({crops[0]}, {crops[1]}, ...)")
    assert message.endswith(f"Give the folder with public.csv: glomedge {command} {tmp_path / labels_in}")
    assert len(message) < 500


@pytest.mark.parametrize("command", ["evaluate", "train"])
def test_evaluate_and_train_given_several_folders(tmp_path: Path, command: str) -> None:
    message = refused(command, str(tmp_path / "a" / "1.png"), str(tmp_path / "b" / "2.png"))
    assert message.endswith(f"glomedge {command} DATA")


@pytest.mark.parametrize(
    ("arguments", "cure"),
    [
        (["--images", "night/a.png", "night/b.png", "night/c.png"], "glomedge bench --images night"),
        (["night/a.png", "noon/b.png"], "glomedge bench --images DIR"),
        (["--model", "a.onnx", "b.onnx"], "Write --model before each model"),
    ],
)
def test_bench(arguments: list[str], cure: str) -> None:
    message = refused("bench", *arguments)
    assert message.endswith(cure)
    assert re.search(r"(1 name was|2 names were) given", message)


def test_the_help_shows_no_further_arguments() -> None:
    for command in ("train", "evaluate", "bench"):
        shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "160"}).output
        assert "CONTEXT" not in shown.upper()
