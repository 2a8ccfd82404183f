"""``glomedge export`` from end to end, and a planted broken quantisation that is refused."""

from __future__ import annotations

import copy
import importlib.util
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from typer.testing import CliRunner

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli import app
from glomedge.errors import GateError, GlomedgeError
from glomedge.model.file import read_model_file

pytestmark = pytest.mark.keras
NEEDS = "needs the extra glomedge[export]"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """``artifacts/model.keras`` with its record and drawn data, as ``glomedge train`` leaves them (not trained)."""
    pytest.importorskip("tensorflow", reason=NEEDS)
    from glomedge.files.writing import sha256_of
    from glomedge.model.spec import Recipe, TrainingProvenance
    from glomedge_export.data.dataset import read_dataset
    from glomedge_export.data.export_crops import enhanced
    from glomedge_export.data.split import split_by_case
    from glomedge_export.synthetic.dataset import write_dataset
    from glomedge_export.training_record import TrainingRecord, write_record
    from helpers.keras_networks import realistic_network

    root = tmp_path_factory.mktemp("export")
    write_dataset(root / "data", crops=300, cases=20, seed=5)
    dataset = read_dataset(root / "data")
    split = split_by_case(dataset)
    train = [item for item in dataset.items if split.sides[item.name] == "train"][::12]
    model = realistic_network("resnet_v2", enhanced(train, Recipe()))
    path = root / "artifacts" / "model.keras"
    path.parent.mkdir()
    model.save(path)
    write_record(
        path,
        TrainingRecord(
            model_sha256=sha256_of(path),
            recipe=Recipe(),
            input_scaling="resnet_v2",
            threshold=0.45,
            temperature=1.25,
            training=TrainingProvenance(
                data_sha256=dataset.sha256,
                data_name="drawn",
                split_method="case",
                seed=42,
                splits=split.counts(dataset),
                weights="none",
                optimizer="sgd",
                learning_rate=0.001,
                batch_size=32,
                epochs=1,
                best_epoch=1,
                metrics={},
                package_versions={},
            ),
            data_directory=str(root / "data"),
            split=dict(split.sides),
            mpp=0.25,
        ),
    )
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="module", autouse=True)
def _converted_once() -> Iterator[None]:
    """tf2onnx takes half a minute, and all exports here are of the same weights."""
    if importlib.util.find_spec("tensorflow") is None:
        yield
        return
    from glomedge_export.export_source import own
    from glomedge_export.graph import convert as conversion

    conversions: dict[tuple[str, float], Any] = {}

    def once(keras_model: Any, temperature: float) -> Any:
        key = own.weights_sha256(keras_model), temperature
        if key not in conversions:
            conversions[key] = conversion.convert(keras_model, temperature)
        return copy.deepcopy(conversions[key])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(own, "convert", once)
        yield


def invoke(root: Path, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> str:
    monkeypatch.chdir(root)
    result = CliRunner().invoke(app, ["export", *arguments], catch_exceptions=True)
    if isinstance(result.exception, GlomedgeError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_defaults_write_a_proven_file(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = invoke(trained, monkeypatch)
    assert "REFUSED" not in shown
    assert RESEARCH_USE_NOTICE in shown
    found = read_model_file(trained / "artifacts" / "model.onnx")
    parity = found.spec.parity
    assert parity is not None
    assert parity.crops >= 64
    assert parity.source == "held-out crops of the training data"
    assert parity.max_probability_difference <= 1e-5
    assert parity.flips == 0
    assert found.spec.threshold == 0.45
    assert found.spec.temperature == 1.25
    assert found.spec.mpp == 0.25
    assert found.spec.multiply_adds == 3_480_307_712
    report = json.loads((trained / "artifacts" / "model.export.json").read_text())
    assert report["sha256"] == found.sha256
    assert report["size_bytes"] == found.size_bytes
    assert report["gates"]
    assert report["steps"][0]["name"] == "uint8 front"
    if importlib.util.find_spec("tensorrt_rtx") is not None:
        assert report["tensorrt"]["unsupported"] == []
        assert report["tensorrt"]["subgraphs"] == 1
        assert report["tensorrt"]["nodes_elsewhere"] == 0
        assert report["tensorrt"]["strongly_typed"] is True
        assert report["tensorrt"]["engine_bytes"] > 10_000_000
    assert "# Model card" in (trained / "artifacts" / "model.card.md").read_text()


SMALL_INT8 = (
    "--precision", "int8", "--calibration-crops", "32", "--calibration-method", "minmax", "--gate-crops", "64",
)  # fmt: skip


def test_int8_records_its_calibration(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from glomedge_export.training_record import read_record

    # Weights that are not trained say little, and int8 blurs even that; the limits are loosened by hand, and kept.
    loose = ["--gate-flips", "off", "--gate-auroc", "off", "--gate-grades", "off", "--gate-map", "0.2"]
    invoke(trained, monkeypatch, *SMALL_INT8, *loose)
    spec = read_model_file(trained / "artifacts" / "model.int8.onnxruntime.onnx").spec
    assert spec.calibration is not None
    assert spec.calibration.crops == 32
    sides = read_record(trained / "artifacts" / "model.keras").split
    assert {sides[name] for name in spec.calibration.names} == {"train"}
    assert spec.parity is not None
    assert spec.parity.limits.max_flip_fraction is None
    assert spec.parity.limits.min_map_rank_correlation == 0.2


@pytest.mark.slow
def test_a_broken_int8_file_is_refused(trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from glomedge_export.graph import int8, surgery

    target = trained / "artifacts" / "broken.onnx"
    whole = int8.to_int8

    def broken(*arguments: Any, **named: Any) -> onnx.ModelProto:
        """Scales of one layer given to the wrong channels, and too large."""
        quantised = whole(*arguments, **named)
        scales = surgery.constants(quantised)["conv3_block2_2_conv.weight.scale"]
        surgery.add_constant(quantised, "conv3_block2_2_conv.weight.scale", np.roll(scales, 7) * np.float32(30))
        return quantised

    monkeypatch.setattr(int8, "to_int8", broken)
    with pytest.raises(GateError, match="is refused"):
        invoke(trained, monkeypatch, *SMALL_INT8, "--output", str(target))
    assert not target.exists()
    assert not list(target.parent.glob(".broken*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precision", "int4"], "fp32, fp16 or int8"),
        (["--precision", "int8", "--target", "any"], "int8 is exported for"),
        (["--batch-profile", "8,1,32"], "rising batch sizes"),
        (["--gate-flips", "many"], "neither a number nor"),
        (["--gate-flips", "7"], "outside 0 to 1"),
        (["--device", "toaster"], "jetson-orin"),
        (["--recipe", "plain"], "in its training record"),
        (["missing.keras"], "no Keras model"),
        (["--output", "nowhere/model.onnx"], "does not exist"),
        (["--precision", "int8", "--engine"], "uint8 activations that TensorRT does not take"),
        (["--precision", "int8", "--target", "openvino", "--require-tensorrt-check"], "Export with --target tensorrt"),
    ],
)
def test_user_errors_say_what_to_do(
    trained: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    with pytest.raises(GlomedgeError, match=message):
        invoke(trained, monkeypatch, *arguments)


@pytest.mark.parametrize("wish", ["--engine", "--require-tensorrt-check"])
def test_absence_of_nvidias_parser_is_an_error_where_it_is_wanted(
    trained: Path, monkeypatch: pytest.MonkeyPatch, wish: str
) -> None:
    # What an environment without the package looks like to Python.
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    with pytest.raises(GlomedgeError, match=r"\[tensorrt-rtx\]"):
        invoke(trained, monkeypatch, wish)


def test_a_refusal_says_that_an_earlier_file_is_still_there(
    trained: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from glomedge_export import export

    def refuse(*_: Any) -> Any:
        raise GateError("Refused for this test. Nothing was written.")

    monkeypatch.setattr(export, "_export", refuse)
    path = tmp_path / "model.onnx"
    with pytest.raises(GateError) as first:
        invoke(trained, monkeypatch, "--output", str(path))
    assert "earlier export" not in str(first.value)
    path.write_bytes(b"of last week")
    with pytest.raises(GateError, match="is still the file of an earlier export: remove it"):
        invoke(trained, monkeypatch, "--output", str(path))
    assert path.read_bytes() == b"of last week"


def test_list_devices_needs_no_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = invoke(tmp_path, monkeypatch, "--list-devices")
    for name in ("generic", "intel-cpu", "jetson-orin", "rtx-workstation"):
        (line,) = [line for line in shown.splitlines() if line.startswith(name)]
        assert "opset 17" in line
