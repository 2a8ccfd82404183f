"""Where an export goes without ``--output``: never in silence over a file that was made from another model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from glomedge.errors import ModelError, UsageError
from glomedge.files.writing import sha256_of
from glomedge.model.spec import ModelSource
from glomedge_export.export_source.output import (
    RECORDED,
    check_not_of_another,
    default_output,
    recorded_name,
    with_a_name,
)
from helpers.builders import build_tiny_model
from helpers.keras2_files import Genuine, unpack


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> Genuine:
    """Files of the last Keras 2."""
    return unpack(tmp_path_factory.mktemp("genuine"))[-1]


@pytest.fixture
def models(genuine: Genuine, tmp_path: Path) -> Path:
    """A folder with ``ok.keras``, ``ok.h5`` and the SavedModel ``ok``."""
    for suffix, name in ((".keras", "ok.keras"), (".h5", "ok.h5")):
        shutil.copy(genuine.folder / f"published{suffix}", tmp_path / name)
    shutil.copytree(genuine.folder / "published_savedmodel", tmp_path / "ok")
    return tmp_path


def write_report(output: Path, model: Path) -> None:
    report = {"file_sha256": sha256_of(output), RECORDED: recorded_name(model, output)}
    output.with_suffix(".export.json").write_text(json.dumps(report))


def source(file_format: str) -> ModelSource:
    return ModelSource(file_format=file_format, framework="tf_keras", file_sha256="1" * 64)


def test_the_name_of_a_folder_is_kept_whole(tmp_path: Path) -> None:
    (tmp_path / "model.v2").mkdir()
    assert default_output(tmp_path / "model.v2", "fp32", "any") == tmp_path / "model.v2.onnx"
    assert default_output(tmp_path / "model.v2.keras", "fp32", "any") == tmp_path / "model.v2.onnx"
    assert default_output(tmp_path / "model.keras", "int8", "openvino") == tmp_path / "model.int8.openvino.onnx"


def test_a_folder_that_one_is_in_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "saved" / "variables").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "saved")
    assert with_a_name(Path()) == (tmp_path / "saved").resolve()
    assert with_a_name(Path("variables")) == Path("variables")
    monkeypatch.chdir("variables")
    found = with_a_name(Path(".."))
    assert default_output(found, "fp32", "any") == (tmp_path / "saved.onnx").resolve()


def test_export_of_the_folder_that_one_is_in(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tf2onnx", reason="needs the extra glomedge[export]")
    from glomedge_export.export import Request, export

    monkeypatch.chdir(models / "ok")
    with pytest.raises(UsageError, match="ok does not say everything that a model file must"):
        export(Request(Path()))
    monkeypatch.chdir("variables")
    with pytest.raises(ModelError, match="holds no saved_model"):
        export(Request(Path()))


def test_what_was_made_from_another_model_is_kept(models: Path) -> None:
    output = models / "ok.onnx"
    check_not_of_another(output, models / "ok.keras")
    build_tiny_model(output, source=source("keras2"))
    write_report(output, models / "ok.keras")
    check_not_of_another(output, models / "ok.keras")
    for other in ("ok.h5", "ok"):
        with pytest.raises(UsageError, match=r"ok\.onnx was made from ok\.keras.*--output") as caught:
            check_not_of_another(output, models / other)
        assert len(str(caught.value)) < 500


def test_a_model_that_was_trained_again_replaces_its_file(models: Path) -> None:
    output = models / "ok.onnx"
    build_tiny_model(output, source=source("keras2"))
    write_report(output, models / "ok.keras")
    shutil.copy(models / "ok.h5", models / "ok.keras")
    check_not_of_another(output, models / "ok.keras")


def test_model_and_report_may_be_moved_together(models: Path, tmp_path: Path) -> None:
    build_tiny_model(models / "ok.onnx")
    write_report(models / "ok.onnx", models / "ok.keras")
    shutil.copytree(models, tmp_path / "moved")
    check_not_of_another(tmp_path / "moved" / "ok.onnx", tmp_path / "moved" / "ok.keras")


@pytest.mark.parametrize("report", [None, "{", '{"file_sha256": 3}', "of another file"])
def test_without_its_report_the_form_of_the_model_decides(models: Path, report: str | None) -> None:
    output = models / "ok.onnx"
    build_tiny_model(output, source=source("keras2"))
    if report == "of another file":
        build_tiny_model(models / "b.onnx", bias=-3.0)
        write_report(models / "b.onnx", models / "ok.h5")
        (models / "b.export.json").rename(models / "ok.export.json")
    elif report is not None:
        (models / "ok.export.json").write_text(report)
    check_not_of_another(output, models / "ok.keras")
    for other in ("ok.h5", "ok"):
        with pytest.raises(UsageError, match="is no file that was exported from"):
            check_not_of_another(output, models / other)
    # Of a model of glomedge train there is no source.
    build_tiny_model(output)
    with pytest.raises(UsageError, match="is no file that was exported from"):
        check_not_of_another(output, models / "ok.keras")


def test_a_file_of_another_tool_is_kept(models: Path) -> None:
    (models / "ok.onnx").write_bytes(b"made by tf2onnx")
    with pytest.raises(UsageError, match=r"is no file that was exported from ok\.keras"):
        check_not_of_another(models / "ok.onnx", models / "ok.keras")
