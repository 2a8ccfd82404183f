"""``glomedge info``."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli import app
from glomedge.model.file import read_model_file
from helpers.keras2_files import Genuine, unpack
from helpers.paths import ROOT

KERAS_2 = "2.15.0"


@pytest.fixture(scope="module")
def keras2(tmp_path_factory: pytest.TempPathFactory) -> Genuine:
    """Genuine files of the last Keras 2."""
    return {found.version: found for found in unpack(tmp_path_factory.mktemp("keras2"))}[KERAS_2]


@pytest.mark.parametrize("name", ["published.keras", "published_savedmodel"])
def test_a_keras_file_in_ten_lines_without_any_framework(keras2: Genuine, name: str) -> None:
    code = (
        "import sys\n"
        "for name in ('tensorflow', 'keras', 'tf_keras', 'h5py', 'onnx'): sys.modules[name] = None\n"
        "sys.path[:0] = ['.', 'export']\n"
        "from glomedge.cli import main\n"
        "sys.argv = ['glomedge', 'info', sys.argv[1]]\n"
        "main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(keras2.folder / name)],
        capture_output=True, text=True, cwd=ROOT, check=False, env={"COLUMNS": "400", "HOME": "/nonexistent"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert 8 <= len(lines) <= 12
    assert lines[-1] == RESEARCH_USE_NOTICE
    for words in (KERAS_2, "resnet_v2, found in the model", "Dense(1, sigmoid)", "--recipe seed|published|plain"):
        assert words in done.stdout


def test_a_keras_file_as_json(keras2: Genuine) -> None:
    pytest.importorskip("h5py", reason="needs h5py: pip install 'glomedge[export]'")
    result = CliRunner().invoke(app, ["info", str(keras2.folder / "published.h5"), "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert (document["file"]["format"], document["keras_version"]) == ("h5", KERAS_2)
    assert document["notice"] == RESEARCH_USE_NOTICE
    assert document["export_command"].endswith("published.h5 --recipe seed|published|plain")


def test_hdf5_without_h5py_names_the_extra(keras2: Genuine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "h5py", None)
    result = CliRunner().invoke(app, ["info", str(keras2.folder / "published.h5")])
    assert result.exit_code == 1
    assert "needs the package 'h5py'" in str(result.exception)
    assert "[export]" in str(result.exception)


def test_a_folder_that_is_no_saved_model(tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["info", str(tmp_path)])
    assert result.exit_code == 1
    assert "is a folder, not a model file" in str(result.exception)


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
