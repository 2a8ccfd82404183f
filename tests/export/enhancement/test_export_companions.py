"""``glomedge export --with-preprocessing --merged`` from end to end, and what is refused before it converts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import glomedge
from glomedge.cli import app
from glomedge.errors import GateError, GlomedgeError, UsageError
from glomedge.imaging.enhance import enhance
from glomedge.model.companion import EnhancementSpec, MergedSpec, read_companion, sealed_companion
from glomedge.model.file import read_model_file
from glomedge.model.spec import Recipe, Target
from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.enhancement import files, gate
from glomedge_export.enhancement.files import Companions
from glomedge_export.enhancement.graph import enhancement_graph
from helpers.colour_crops import random_crop

pytest.importorskip("onnx", reason="needs the package onnx")


@pytest.fixture(scope="module")
def keras_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small network of 96 px."""
    pytest.importorskip("tensorflow", reason="needs the extra glomedge[export]")
    from glomedge.engine.golden import draw_crop
    from glomedge_export.frameworks import keras
    from helpers.foreign_models import settle, small

    model = small(keras, side_px=96)
    pixels = np.stack([enhance(draw_crop(seed), Recipe(size_px=96)) for seed in range(16)])
    path = tmp_path_factory.mktemp("keras") / "mine.keras"
    settle(keras, model, pixels).save(path)
    return path


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["export", *arguments])
    if isinstance(result.exception, GlomedgeError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.mark.keras
def test_both_files_beside_the_model(keras_model: Path) -> None:
    shown = run(str(keras_model), "--recipe", "seed", "--with-preprocessing", "--merged", "--gate-flips", "off")
    folder = keras_model.parent
    for name in ("mine.onnx", "enhance.onnx", "mine.merged.onnx"):
        assert f"wrote {folder / name}" in shown
    report = json.loads((folder / "mine.export.json").read_text())
    assert {name: found["differing_bytes"] for name, found in report["companions"].items()} == {
        "enhance.onnx": 0,
        "mine.merged.onnx": 0,
    }
    model, alone = read_model_file(folder / "mine.onnx"), read_companion(folder / "enhance.onnx").spec
    both = read_companion(folder / "mine.merged.onnx").spec
    assert isinstance(alone, EnhancementSpec)
    assert alone.recipe == model.spec.recipe == Recipe(size_px=96)
    assert isinstance(both, MergedSpec)
    assert (both.model_sha256, both.model) == (model.sha256, model.spec)

    engine = glomedge.load(folder / "mine.onnx", provider="cpu")
    ort = import_onnxruntime()
    crop = random_crop(1, 300, 210)
    (image,) = ort.InferenceSession(folder / "enhance.onnx").run(None, {"crop": crop})
    assert np.array_equal(image, enhance(crop, engine.spec.recipe))
    (probability,) = ort.InferenceSession(folder / "mine.merged.onnx").run(["probability"], {"crops": crop[np.newaxis]})
    assert abs(float(probability[0, 0]) - float(engine.infer(image[np.newaxis]).probability[0])) < 1e-6


@pytest.mark.keras
def test_nothing_is_written_where_a_byte_differs(
    keras_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(recipe: Recipe) -> Any:
        return enhancement_graph(recipe.model_copy(update={"hue_degrees": recipe.hue_degrees + 2}))

    monkeypatch.setattr(files, "enhancement_graph", wrong)
    with pytest.raises(GateError, match="bytes differ"):
        run(str(keras_model), "--recipe", "seed", "--with-preprocessing", "-o", str(tmp_path / "mine.onnx"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("target", "words"), [("tensorrt", "NVIDIA"), ("openvino", "OpenVINO")])
def test_a_merged_file_is_for_onnxruntime(target: Target, words: str) -> None:
    with pytest.raises(UsageError, match=words) as raised:
        Companions(merged=True).check_target(target)
    assert "--with-preprocessing" in str(raised.value)
    assert len(str(raised.value)) < 500
    Companions(enhancement=True).check_target(target)
    Companions(True, True).check_target("onnxruntime")


def test_another_recipes_enhancement_is_never_replaced(tmp_path: Path) -> None:
    wanted, output, path = Companions(enhancement=True), tmp_path / "model.onnx", tmp_path / "enhance.onnx"
    wanted.check_place(output, Recipe())
    path.write_bytes(b"something else")
    with pytest.raises(UsageError, match="no enhancement of glomedge"):
        wanted.check_place(output, Recipe())
    Companions(merged=True).check_place(output, Recipe())
    graph = enhancement_graph(Recipe(size_px=32))
    spec = EnhancementSpec(
        producer="glomedge tests",
        created_utc="2026-01-01T00:00:00Z",
        recipe=Recipe(size_px=32),
        opset=17,
        gate=gate.enforce_enhancement(graph.SerializeToString(), Recipe(size_px=32)),
    )
    path.write_bytes(sealed_companion(graph.SerializeToString(), spec))
    wanted.check_place(output, Recipe(size_px=32))
    for other in (Recipe(), Recipe.named("plain").model_copy(update={"size_px": 32})):
        with pytest.raises(UsageError, match="another recipe or side"):
            wanted.check_place(output, other)
    with pytest.raises(UsageError, match="the enhancement is written there"):
        wanted.check_place(path, Recipe(size_px=32))
