from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from glomedge.cli import app
from glomedge.cli.infer import parse_band
from glomedge.errors import UsageError
from helpers.builders import build_tiny_model
from helpers.run_kit import write_crops


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_crops(tmp_path / "crops", 12, broken=0)
    build_tiny_model(tmp_path / "model.onnx")
    return tmp_path


def _arguments(folder: Path, *more: str) -> list[str]:
    output = ["--output", str(folder / "out"), "--provider", "cpu"]
    return ["infer", str(folder / "crops"), "--model", str(folder / "model.onnx"), *output, *more]


def test_summary_and_exit_codes(folder: Path) -> None:
    fine = CliRunner().invoke(app, _arguments(folder))
    assert fine.exit_code == 0, fine.output
    for text in ("case0", "case1", "case2", "12 inputs on cpu", "Research use only", "predictions.csv"):
        assert text in fine.output
    (folder / "crops" / "bad.png").write_bytes(b"no image")
    some = CliRunner().invoke(app, _arguments(folder))
    assert some.exit_code == 2
    assert "error:format: 1" in some.output


@pytest.mark.parametrize("options_first", [False, True])
def test_what_a_shell_makes_of_a_pattern_is_told_to_give_the_folder(folder: Path, options_first: bool) -> None:
    crops = sorted(str(path) for path in (folder / "crops").rglob("*.png"))
    flat = [str(folder / "crops" / Path(crop).name) for crop in crops]
    options = ["--model", str(folder / "model.onnx"), "--output", str(folder / "out")]
    given = [*options, *flat] if options_first else [*flat, *options]
    done = subprocess.run(
        [sys.executable, "-m", "glomedge", "infer", *given], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 1
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert f"{len(flat)} names were given" in done.stderr
    assert done.stderr.endswith(f"Give the folder: glomedge infer {folder / 'crops'}\n")
    assert not (folder / "out").exists()


def test_the_help_names_one_folder() -> None:
    shown = CliRunner().invoke(app, ["infer", "--help"], env={"COLUMNS": "160"}).output
    assert re.search(r"infer \[OPTIONS\] \S*folder\S*\s*$", shown, re.MULTILINE | re.IGNORECASE), shown[:200]
    assert "CONTEXT" not in shown.upper()


def test_json_is_the_run_record(folder: Path) -> None:
    result = CliRunner().invoke(app, _arguments(folder, "--json", "--format", "jsonl", "--no-report"))
    assert result.exit_code == 0
    record = json.loads(result.stdout)
    assert record == json.loads((folder / "out" / "run.json").read_text("utf-8"))
    assert set(record["files_sha256"]) == {"predictions.csv", "predictions.jsonl", "cases.csv"}
    assert not (folder / "out" / "report.html").exists()


def test_as_a_process_without_tensorflow(folder: Path) -> None:
    script = (
        "import sys\n"
        "from glomedge.cli import main\n"
        f"sys.argv = ['glomedge', *{_arguments(folder)!r}]\n"
        "try:\n    main()\n"
        "finally:\n"
        "    heavy = {'tensorflow', 'keras', 'tf2onnx', 'onnx', 'glomedge_export'} & set(sys.modules)\n"
        "    print('heavy', sorted(heavy))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert "heavy []" in done.stdout
    assert done.stderr == ""  # no bar where standard error is no terminal


def test_errors_are_one_message_without_traceback(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "glomedge", *_arguments(folder, "--provider", "cuda")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if done.returncode == 0:
        pytest.skip("CUDA runs here")
    assert done.returncode == 1
    assert done.stderr.startswith("glomedge: cuda")
    assert "Traceback" not in done.stderr
    assert not (folder / "out" / "predictions.csv").exists()
    again = CliRunner().invoke(app, _arguments(folder))
    assert again.exit_code == 0, again.output  # a run that could not begin is no unfinished run


@pytest.mark.parametrize("text", ["0.2", "0.2-0.8", "a..b", "..", ""])
def test_bad_review_bands_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"0\.2\.\.0\.8"):
        parse_band(text)


def test_review_band() -> None:
    assert parse_band("0.25..0.75") == (0.25, 0.75)


def test_heatmaps_for_alone_makes_a_folder_of_its_own(folder: Path) -> None:
    done = CliRunner().invoke(app, _arguments(folder, "--heatmaps-for", "all"))
    assert done.exit_code == 0, done.output
    maps = list((folder / "out" / "heatmaps").rglob("*.heatmap.jpg"))
    record = json.loads((folder / "out" / "run.json").read_text("utf-8"))
    assert len(maps) == record["counts"]["ok"] + record["counts"]["flagged"] > 0
    again = CliRunner().invoke(app, _arguments(folder, "--heatmaps-for", "positives"))
    assert again.exit_code == 0, again.output  # its own folder in the output is neither input nor in the way
