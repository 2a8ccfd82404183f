"""Files for other programs: sealed, self-describing, and never taken for a model."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import glomedge
from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli import app
from glomedge.errors import ModelError
from glomedge.model.companion import EnhancementSpec, MergedSpec, read_companion
from glomedge.model.file import SEAL_BYTES, read_model_file, sealed_with
from glomedge.model.spec import Recipe
from helpers.builders import build_tiny_model, tiny_graph
from helpers.colour_crops import random_crop

pytest.importorskip("onnx", reason="needs the package onnx")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``tiny.onnx``, ``enhance.onnx`` and ``tiny.merged.onnx``, as export writes them."""
    from glomedge_export.enhancement.files import Companions, made

    root = tmp_path_factory.mktemp("companions")
    model = root / "tiny.onnx"
    spec = build_tiny_model(model, recipe="seed")
    for path, (data, _) in made(
        Companions(True, True), model, tiny_graph(), spec, read_model_file(model).sha256
    ).items():
        path.write_bytes(data)
    return root


def test_they_say_what_they_are(folder: Path) -> None:
    alone, both = read_companion(folder / "enhance.onnx"), read_companion(folder / "tiny.merged.onnx")
    assert isinstance(alone.spec, EnhancementSpec)
    assert alone.spec.recipe == Recipe()
    assert alone.spec.gate.differing_bytes == 0
    assert isinstance(both.spec, MergedSpec)
    model = read_model_file(folder / "tiny.onnx")
    assert both.spec.model == model.spec
    assert (both.spec.exported_as, both.spec.model_sha256) == ("tiny.onnx", model.sha256)
    for companion in (alone, both):
        assert companion.spec.notice == RESEARCH_USE_NOTICE
        assert companion.spec.producer == f"glomedge {glomedge.__version__}"
        assert companion.facts.foreign_domains == set()


@pytest.mark.parametrize("name", ["enhance.onnx", "tiny.merged.onnx"])
def test_a_flipped_bit_anywhere_is_found(folder: Path, tmp_path: Path, name: str) -> None:
    data = (folder / name).read_bytes()
    rng = np.random.default_rng(0)
    for position in [*rng.integers(0, len(data), 20), len(data) - SEAL_BYTES - 1, len(data) - 1]:
        broken = bytearray(data)
        broken[position] ^= 1 << int(rng.integers(8))
        path = tmp_path / name
        path.write_bytes(broken)
        with pytest.raises(ModelError):
            read_companion(path)


def test_a_spec_of_a_newer_version_and_one_that_lies_are_refused(folder: Path, tmp_path: Path) -> None:
    spec = read_companion(folder / "enhance.onnx").spec
    graph = (folder / "tiny.onnx").read_bytes()[:-SEAL_BYTES]
    for changed, words in (({"schema_version": 2}, "schema_version"), ({"news": 1}, "news"), ({"opset": 99}, "opset")):
        text = json.dumps(spec.model_dump(mode="json") | changed)
        path = tmp_path / "enhance.onnx"
        path.write_bytes(sealed_with(graph, "glomedge.enhancement", text))
        with pytest.raises(ModelError, match=words) as raised:
            read_companion(path)
        assert len(str(raised.value)) < 500
    with pytest.raises(ModelError, match="no enhancement"):
        read_companion(folder / "tiny.onnx")


@pytest.mark.parametrize(("name", "words"), [
    ("enhance.onnx", "holds the colour enhancement alone"),
    ("tiny.merged.onnx", "holds enhancement and model in one"),
])  # fmt: skip
def test_no_command_takes_one_for_a_model(folder: Path, tmp_path: Path, name: str, words: str) -> None:
    path = folder / name
    with pytest.raises(ModelError, match=words):
        glomedge.load(path)
    Image.fromarray(random_crop(1)).save(tmp_path / "crop.png")
    for command in (["infer", str(tmp_path), "--output", str(tmp_path / "out")], ["warm"], ["bench"]):
        result = CliRunner().invoke(app, [*command, "--model", str(path)])
        assert result.exit_code == 1, command
        assert isinstance(result.exception, ModelError), (command, result.output)
        message = str(result.exception)
        assert words in message
        assert len(message) < 500
        assert message.count(". ") == 0  # one sentence


def test_info_describes_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    sha256 = read_model_file(folder / "tiny.onnx").sha256
    for name, words in (
        (
            "enhance.onnx",
            ("enhancement alone", "[height, width, 3], RGB", "'image', uint8 [224, 224, 3]", "0 differing"),
        ),
        ("tiny.merged.onnx", ("in one", "[N, height, width, 3]", f"tiny.onnx, sha256 {sha256}", "globally sclerotic")),
    ):
        result = CliRunner().invoke(app, ["info", str(folder / name)])
        assert result.exit_code == 0, result.output
        assert result.stdout.rstrip().endswith(RESEARCH_USE_NOTICE)
        for word in (*words, "'seed' (equalise on, saturation x1.5, hue +8 degrees)"):
            assert word in result.stdout
        result = CliRunner().invoke(app, ["info", str(folder / name), "--json"])
        document = json.loads(result.stdout)
        assert document["spec"]["kind"] == ("enhancement" if name == "enhance.onnx" else "merged")
        assert "pixels_zlib_base64" not in result.stdout


def test_info_of_a_model_is_as_before(folder: Path) -> None:
    result = CliRunner().invoke(app, ["info", str(folder / "tiny.onnx"), "--json"])
    assert json.loads(result.stdout)["spec"]["recipe"]["name"] == "seed"


def test_commands_that_look_beside_a_model_pass_over_them(folder: Path, tmp_path: Path) -> None:
    from glomedge.bench.answers import fp32_of

    for name in ("enhance.onnx", "tiny.merged.onnx"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    fp32 = build_tiny_model(tmp_path / "z.onnx")
    build_tiny_model(tmp_path / "int8.onnx", precision="int8", weights_sha256=fp32.weights_sha256)
    found = fp32_of(read_model_file(tmp_path / "int8.onnx"), [])
    assert found is not None
    assert found.path.name == "z.onnx"
