"""What an export starts from: the Keras model, its training record, and the crops to compare and calibrate on."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glomedge.errors import ModelError, UsageError
from glomedge.model.spec import Recipe
from glomedge_export.data.export_crops import (
    MIN_CROPS,
    CalibrationCrops,
    Crops,
    calibration_crops,
    drawn,
    held_out,
    read_recorded,
)
from glomedge_export.progress import Progress, silent
from glomedge_export.training_record import TrainingRecord, read_record, record_path


@dataclass(frozen=True)
class Source:
    """The Keras model and everything known about it.

    Attributes:
        keras_model: as loaded.
        record: its training record, None if there is none.
        recipe: colour enhancement of its crops.
        threshold: label 1 where probability is at or above it.
        temperature: probability is sigmoid(logit / temperature).
    """

    keras_model: Any
    record: TrainingRecord | None
    recipe: Recipe
    threshold: float
    temperature: float


def load_source(model: Path, recipe: Recipe | None = None, threshold: float | None = None) -> Source:
    """Read a Keras model and the record beside it.

    Args:
        model: the ``.keras`` file.
        recipe: colour enhancement, only for a model without a record.
        threshold: decision threshold, only for a model without a record.

    Raises:
        ModelError: no model, or no record and no recipe given.
        UsageError: recipe or threshold given for a model that has a record.
    """
    from glomedge_export.network.network import load_model

    if not model.is_file():
        raise ModelError(f"There is no Keras model at {model}. Train one with: glomedge train DATA")
    if not record_path(model).is_file():
        if recipe is None:
            raise ModelError(
                f"There is no training record at {record_path(model)}: how the crops were enhanced is unknown. "
                "Copy it from where the model was trained, or give --recipe seed, published or plain if you know it."
            )
        return Source(load_model(model), None, recipe, threshold or 0.5, 1.0)
    record = read_record(model)
    if recipe not in (None, record.recipe) or threshold is not None:
        raise UsageError(
            "Recipe and threshold of this model are in its training record and are not changed at export. "
            "Omit --recipe and --threshold; glomedge infer has its own --threshold."
        )
    return Source(load_model(model), record, record.recipe, record.threshold, record.temperature)


def weights_sha256(keras_model: Any) -> str:
    """SHA-256 of backbone and dense weights, shapes and bytes in layer order: the same for every precision."""
    from glomedge_export.network.network import inference_parts

    parts = inference_parts(keras_model)
    digest = hashlib.sha256()
    for value in [*parts.backbone.get_weights(), parts.kernel, parts.bias]:
        digest.update(str(value.shape).encode())
        digest.update(np.ascontiguousarray(value, np.float32).tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class ExportCrops:
    """Crops of one export.

    Attributes:
        compared: to compare answers on.
        calibration: crops of the training split to calibrate int8 on; None if not requested.
        drawn_because: why drawn crops are used instead of held-out ones; None if they are not.
    """

    compared: Crops
    calibration: CalibrationCrops | None
    drawn_because: str | None


def crops_for(
    source: Source, data: Path | None, count: int, calibration_count: int, progress: Progress = silent
) -> ExportCrops:
    """Read the crops of an export.

    Args:
        source: the model; its record says where its data set was and which crops were held out.
        data: labelled data set; None for the one in the record, if it is still there.
        count: about how many crops to compare on.
        calibration_count: how many crops to calibrate on, 0 for none.
        progress: called with (stage, done, of).

    Raises:
        UsageError: calibration without a data set.
        DatasetError: the data set is unusable or another one.
    """
    record, directory = source.record, data
    if directory is None and record is not None and Path(record.data_directory).is_dir():
        directory = Path(record.data_directory)
    if directory is None:
        if calibration_count:
            raise UsageError(
                "int8 is calibrated on crops of the training split, and the folder that the model was trained on is "
                "not known here. Give it with --calibration DATA."
            )
        return ExportCrops(drawn(source.recipe), None, "the data set that the model was trained on is not here")
    dataset = read_recorded(directory, record)
    calibration = None
    if calibration_count:
        calibration = calibration_crops(dataset, record, source.recipe, calibration_count, progress)
    found = held_out(dataset, record, source.recipe, count, progress) if record is not None else None
    if found is not None:
        return ExportCrops(found, calibration, None)
    return ExportCrops(drawn(source.recipe), calibration, f"fewer than {MIN_CROPS} held-out crops are known")
