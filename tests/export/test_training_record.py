"""The training record belongs to its model and survives the way to disk and back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.errors import ModelError
from glomedge.files.writing import sha256_of, write_atomically
from glomedge.model.spec import Interval, OperatingPoint, Recipe, SplitCounts, TrainingProvenance
from glomedge_export.training_record import TrainingRecord, read_record, record_path, write_record


def record_for(model: Path) -> TrainingRecord:
    return TrainingRecord(
        model_sha256=sha256_of(model),
        recipe=Recipe(),
        input_scaling="resnet",
        threshold=0.4,
        temperature=1.3,
        training=TrainingProvenance(
            data_sha256="0" * 64,
            data_name="drawn",
            split_method="case",
            seed=1,
            splits={"train": SplitCounts(crops=2, positive=1, cases=2)},
            weights="none",
            optimizer="sgd",
            learning_rate=0.001,
            batch_size=32,
            epochs=2,
            best_epoch=1,
            metrics={"test_auroc": Interval(value=0.9, low=0.8, high=1.0)},
            package_versions={"keras": "3"},
        ),
        operating_point=OperatingPoint(true_positive=1, false_negative=0, true_negative=1, false_positive=0),
        data_directory="drawn",
        split={"b.png": "train", "a.png": "train", "c.png": "test"},
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "model.keras"
    path.write_bytes(b"weights")
    return path


def test_round_trip(model: Path) -> None:
    record = record_for(model)
    assert write_record(model, record) == record_path(model) == model.parent / "model.keras.json"
    assert read_record(model) == record
    assert record.names("train") == ["a.png", "b.png"]
    assert json.loads(record_path(model).read_text())["notice"] == RESEARCH_USE_NOTICE


def test_record_of_another_model_is_refused(model: Path) -> None:
    write_record(model, record_for(model))
    model.write_bytes(b"other weights")
    with pytest.raises(ModelError, match="belongs to another model"):
        read_record(model)


def test_missing_record_says_what_to_do(model: Path) -> None:
    with pytest.raises(ModelError, match=r"no training record .* glomedge train DATA"):
        read_record(model)


@pytest.mark.parametrize(
    ("change", "where"),
    [
        ({"threshold": 1.5}, "threshold"),
        ({"surprise": 1}, "surprise"),
        ({"split": {"a.png": "holdout"}}, "split.a.png"),
        ({"schema_version": 2}, "schema_version"),
    ],
)
def test_damaged_records_name_the_field(model: Path, change: dict[str, Any], where: str) -> None:
    write_record(model, record_for(model))
    path = record_path(model)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ModelError, match=where):
        read_record(model)


def test_atomic_write_leaves_the_old_content_when_it_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="No space"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]
