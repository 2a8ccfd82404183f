"""TrainingRecord: the JSON beside ``model.keras`` that says how the model was trained.

``glomedge export`` reads it and carries recipe, scaling, threshold, temperature and provenance into the spec of
the ``.onnx`` file; the split lets calibration use training crops and parity use held-out ones. The record names
the SHA-256 of the model it belongs to, so that a record cannot be mistaken for that of another model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.errors import ModelError
from glomedge.files.writing import sha256_of, write_atomically
from glomedge.model.frozen import Frozen, Sha256
from glomedge.model.spec import InputScaling, Mpp, OperatingPoint, Recipe, TrainingProvenance

SplitName = Literal["train", "validation", "test"]


class TrainingRecord(Frozen):
    """What export must know of a trained model.

    Attributes:
        model_sha256: of the ``.keras`` file.
        threshold: label 1 where the calibrated probability is at or above it.
        temperature: probability is sigmoid(logit / temperature).
        operating_point: counts on the held-out test crops at ``threshold``.
        data_directory: where the crops were when the model was trained, as given by the user.
        split: crop name (as in public.csv) -> side.
        mpp: microns per pixel of the crops; None where that is not known.
    """

    schema_version: Literal[1] = 1
    notice: str = RESEARCH_USE_NOTICE
    model_sha256: Sha256
    recipe: Recipe
    input_scaling: InputScaling
    threshold: float = Field(gt=0.0, lt=1.0)
    temperature: float = Field(gt=0.0, le=100.0)
    training: TrainingProvenance
    operating_point: OperatingPoint | None = None
    data_directory: str
    split: dict[str, SplitName]
    mpp: Mpp | None = None

    def names(self, side: SplitName) -> list[str]:
        """The crop names on one side, sorted."""
        return sorted(name for name, where in self.split.items() if where == side)


def record_path(model: Path | str) -> Path:
    """Where the record of a model is: ``model.keras`` -> ``model.keras.json``."""
    model = Path(model)
    return model.with_name(model.name + ".json")


def write_record(model: Path | str, record: TrainingRecord) -> Path:
    """Write the record next to its model; returns where."""
    path = record_path(model)
    write_atomically(path, record.model_dump_json(indent=1).encode())
    return path


def read_record(model: Path | str) -> TrainingRecord:
    """Read the record next to a model and check that it belongs to it.

    Raises:
        ModelError: no record, a damaged one, or one of another model.
    """
    path = record_path(model)
    try:
        record = TrainingRecord.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        raise ModelError(
            f"There is no training record at {path}: preprocessing, threshold and split of {Path(model).name} are "
            "unknown. Copy it from where the model was trained, or train again with: glomedge train DATA"
        ) from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise ModelError(
            f"{path} is not a training record this glomedge understands: {where}: {first['msg']}. "
            "Copy it again, or train again with: glomedge train DATA"
        ) from error
    if Path(model).is_file() and sha256_of(Path(model)) != record.model_sha256:
        raise ModelError(
            f"{path} belongs to another model: the SHA-256 of {model} differs from the one recorded. "
            "Copy model and record together from where they were trained."
        )
    return record
