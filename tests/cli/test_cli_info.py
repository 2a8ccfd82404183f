"""``glomedge info``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from typer.testing import CliRunner

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli import app
from glomedge.model.file import read_model_file
from helpers.paths import ROOT


def test_json_holds_the_spec_without_its_bulk(tiny_model: Path) -> None:
    result = CliRunner().invoke(app, ["info", str(tiny_model), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    file = read_model_file(tiny_model)
    assert document["file"]["sha256"] == file.sha256
    assert document["spec"]["recipe"] == file.spec.recipe.model_dump()
    assert document["spec"]["notice"] == RESEARCH_USE_NOTICE
    assert "pixels_zlib_base64" not in document["spec"]["golden"]
    assert document["graph"]["operators"]["Conv"] == 1


def test_words(tiny_model: Path) -> None:
    result = CliRunner().invoke(app, ["info", str(tiny_model)])
    assert result.exit_code == 0
    flat = " ".join(result.stdout.split())
    for words in ("seal intact", "fp32 for target 'any'", "recipe 'seed'", "globally sclerotic", RESEARCH_USE_NOTICE):
        assert words in flat


def test_a_damaged_file_says_why_without_a_traceback(tmp_path: Path, tiny_model: Path) -> None:
    data = bytearray(tiny_model.read_bytes())
    data[200] ^= 4
    path = tmp_path / "flipped.onnx"
    path.write_bytes(bytes(data))
    done = subprocess.run(
        [sys.executable, "-m", "glomedge", "info", str(path)], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert done.returncode == 1
    assert "glomedge: " in done.stderr
    assert "Copy it again" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
