"""``glomedge export-triton``: what is written, and what is refused. Loading it is in test_real_triton.py."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli import app
from glomedge.errors import ModelError, UsageError
from glomedge.model.companion import EnhancementSpec, read_companion
from glomedge.model.file import read_model_file
from glomedge.model.spec import BatchProfile, Recipe
from glomedge_export.triton import config
from glomedge_export.triton.config import Constant, Serving
from glomedge_export.triton.repository import check_device, write_repository
from helpers.builders import build_tiny_model, build_tiny_other

pytest.importorskip("onnx", reason="needs the package onnx")


def test_the_text_format() -> None:
    message: dict[str, Any] = {
        "name": 'a "quoted" line\n',
        "count": -1,
        "on": True,
        "kind": Constant("KIND_CPU"),
        "dims": [3, 4],
        "nested": [{"a": 1}, {"b": {"c": 2}}],
    }
    assert config.text(message) == (
        'name: "a \\"quoted\\" line\\n"\ncount: -1\non: true\nkind: KIND_CPU\ndims: 3\ndims: 4\n'
        "nested {\n  a: 1\n}\nnested {\n  b {\n    c: 2\n  }\n}\n"
    )


@pytest.mark.parametrize(("profile", "expected"), [
    (BatchProfile(), [8, 16, 32]),
    (BatchProfile(min=1, opt=1, max=1), [1]),
    (BatchProfile(min=1, opt=4, max=24), [4, 8, 16, 24]),
    (BatchProfile(min=2, opt=16, max=16), [16]),
])  # fmt: skip
def test_preferred_batches_never_exceed_the_largest(profile: BatchProfile, expected: list[int]) -> None:
    assert config.batch_sizes(profile) == expected


def test_the_files(tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "repository"
    written = write_repository(out, tiny_model, Serving())
    assert {path.relative_to(out).as_posix() for path in written} == {
        "glomedge/config.pbtxt", "glomedge/1/model.onnx", "glomedge_enhance/config.pbtxt",
        "glomedge_enhance/1/model.onnx", "glomedge_crop/config.pbtxt",
    }  # fmt: skip
    assert (out / "glomedge_crop" / "1").is_dir()
    model = read_model_file(out / "glomedge" / "1" / "model.onnx")
    assert model.sha256 == read_model_file(tiny_model).sha256
    alone = read_companion(out / "glomedge_enhance" / "1" / "model.onnx").spec
    assert isinstance(alone, EnhancementSpec)
    assert alone.recipe == model.spec.recipe
    text = (out / "glomedge" / "config.pbtxt").read_text()
    assert RESEARCH_USE_NOTICE in text
    assert model.sha256 in text
    assert "label_filename" not in text


def test_another_network_has_its_own_dimensions(tmp_path: Path) -> None:
    build_tiny_other(tmp_path / "other.onnx", 96, 6, with_map=False, batch_profile=BatchProfile(min=1, opt=2, max=4))
    file = read_model_file(tmp_path / "other.onnx")
    network, enhancement, crop = (
        config.network(file, Serving()), config.enhancement(file), config.crop(file),
    )  # fmt: skip
    assert network["input"][0]["dims"] == [96, 96, 3]
    assert network["max_batch_size"] == 4
    assert [output["name"] for output in network["output"]] == ["probability"]
    assert [warmup["batch_size"] for warmup in network["model_warmup"]] == [1, 4, 2]
    assert enhancement["output"][0] == {
        "name": "image", "data_type": "TYPE_UINT8", "dims": [1, 96, 96, 3], "reshape": {"shape": [96, 96, 3]},
    }  # fmt: skip
    assert [output["dims"] for output in crop["output"]] == [[1, 1]]


def test_a_cpu_gets_no_accelerator(tiny_model: Path) -> None:
    file = read_model_file(tiny_model)
    on_gpu, on_cpu = (config.network(file, Serving(device, instances=3)) for device in ("gpu", "cpu"))
    assert on_gpu["optimization"]["execution_accelerators"]["gpu_execution_accelerator"][0]["name"] == "tensorrt"
    assert on_gpu["instance_group"] == [{"kind": "KIND_GPU", "count": 3}]
    assert "optimization" not in on_cpu
    assert on_cpu["instance_group"] == [{"kind": "KIND_CPU", "count": 3}]


@pytest.mark.parametrize(("precision", "target", "device", "words"), [
    ("fp32", "onnxruntime", "gpu", "without --target"),
    ("int8", "onnxruntime", "gpu", "--target tensorrt"),
    ("fp16", "openvino", "gpu", "--target tensorrt"),
    ("int8", "tensorrt", "cpu", "--target onnxruntime"),
    ("fp16", "openvino", "cpu", "--target onnxruntime"),
    ("fp32", "any", "gpu", None),
    ("fp32", "any", "cpu", None),
    ("int8", "tensorrt", "gpu", None),
    ("int8", "onnxruntime", "cpu", None),
])  # fmt: skip
def test_a_file_laid_out_for_another_runtime_is_refused(
    tmp_path: Path, precision: str, target: str, device: Any, words: str | None
) -> None:
    build_tiny_model(tmp_path / "model.onnx", precision=precision, target=target)
    file = read_model_file(tmp_path / "model.onnx")
    if words is None:
        check_device(file, Serving(device))
        return
    with pytest.raises(UsageError) as raised:
        check_device(file, Serving(device))
    assert words in str(raised.value)
    assert len(str(raised.value)) < 500


def test_nothing_is_replaced(tmp_path: Path, tiny_model: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine").touch()
    with pytest.raises(UsageError, match="not an empty folder"):
        write_repository(out, tiny_model, Serving())
    with pytest.raises(UsageError, match="does not exist"):
        write_repository(tmp_path / "a" / "b", tiny_model, Serving())
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ModelError):
        write_repository(tmp_path / "new", tmp_path / "text.onnx", Serving())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "text.onnx"]


def test_the_command(tmp_path: Path, tiny_model: Path) -> None:
    runner = CliRunner()
    result = runner.invoke(app, ["export-triton", str(tmp_path / "a"), "-m", str(tiny_model), "--device", "cpu"])
    assert result.exit_code == 0, result.output
    assert RESEARCH_USE_NOTICE in result.stdout
    assert "tritonserver --model-repository=" in result.stdout
    result = runner.invoke(app, ["export-triton", str(tmp_path / "b"), "-m", str(tiny_model), "--json"])
    assert len(json.loads(result.stdout)["written"]) == 5
    result = runner.invoke(app, ["export-triton", str(tmp_path / "c"), "-m", str(tiny_model), "--device", "tpu"])
    assert isinstance(result.exception, UsageError)


def test_the_recipe_of_the_model_is_the_one_written(tmp_path: Path) -> None:
    recipe = Recipe(equalise=False, saturation_factor=1.2, hue_degrees=-4.0)
    build_tiny_model(tmp_path / "model.onnx", recipe=recipe)
    write_repository(tmp_path / "out", tmp_path / "model.onnx", Serving("cpu"))
    spec = read_companion(tmp_path / "out" / "glomedge_enhance" / "1" / "model.onnx").spec
    assert isinstance(spec, EnhancementSpec)
    assert spec.recipe == recipe
