"""The crops of an export: those to compare on, to calibrate on, and, for a foreign model, to fit a threshold on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from glomedge.errors import UsageError
from glomedge_export.data.dataset import Item
from glomedge_export.data.export_crops import (
    MIN_CROPS,
    CalibrationCrops,
    Crops,
    calibration_crops,
    calibration_from,
    drawn,
    held_out,
    labelled,
    read_recorded,
    whole_biopsies,
)
from glomedge_export.data.split import split_in_halves
from glomedge_export.export_source.source import Source
from glomedge_export.progress import Progress, silent

DRAWN_BECAUSE_FEW = f"fewer than {MIN_CROPS} held-out crops are known"


@dataclass(frozen=True)
class ExportCrops:
    """Crops of one export.

    Attributes:
        compared: to compare answers on.
        calibration: crops of the training split to calibrate int8 on; None if not requested.
        drawn_because: why drawn crops are used instead of held-out ones; None if they are not.
        fitting: to fit temperature and threshold of a foreign model on, not decoded, because these may be all crops of
            a large data set; None for a model that has them.
        counting: of other biopsies, to count on what that threshold gives; not decoded.
    """

    compared: Crops
    calibration: CalibrationCrops | None
    drawn_because: str | None
    fitting: tuple[Item, ...] | None = None
    counting: tuple[Item, ...] | None = None

    def decoded(self) -> dict[str, npt.NDArray[np.uint8]]:
        """The crops of the data set that are held anyway, uint8 ``[side, side, 3]`` by name."""
        held = dict(zip(self.calibration.names, self.calibration.images_nhwc, strict=True)) if self.calibration else {}
        if self.drawn_because is None:
            held |= zip(self.compared.names, self.compared.images_nhwc, strict=True)
        return held


@dataclass(frozen=True)
class CropsWanted:
    """How many crops an export needs, and from where.

    Attributes:
        data: labelled data set; None for the one in the record, if it is still there.
        case_pattern: how its biopsies are named, for a model without a record.
        compared: about how many to compare on.
        calibration: how many to calibrate on, 0 for none.
    """

    data: Path | None
    case_pattern: str | None
    compared: int
    calibration: int


def crops_for(source: Source, wanted: CropsWanted, progress: Progress = silent) -> ExportCrops:
    """Read the crops of an export.

    Args:
        source: the model; its record says where its data set was and which crops were held out.
        wanted: how many, and from where.
        progress: called with (stage, done, of).

    Raises:
        UsageError: calibration without a data set.
        DatasetError: the data set is unusable or another one.
    """
    record, directory = source.record, wanted.data
    if directory is None and record is not None and Path(record.data_directory).is_dir():
        directory = Path(record.data_directory)
    if directory is None:
        if wanted.calibration:
            raise UsageError(_uncalibrated(source))
        why = (
            "no labelled crops were given"
            if source.origin is not None
            else "the data set that the model was trained on is not here"
        )
        return ExportCrops(drawn(source.recipe), None, why)
    if source.origin is not None:
        return _of_a_foreign_model(source, directory, wanted, progress)
    dataset = read_recorded(directory, record, wanted.case_pattern)
    calibration = None
    if wanted.calibration:
        calibration = calibration_crops(dataset, record, source.recipe, wanted.calibration, progress)
    found = held_out(dataset, record, source.recipe, wanted.compared, progress) if record is not None else None
    if found is not None:
        return ExportCrops(found, calibration, None)
    return ExportCrops(drawn(source.recipe), calibration, DRAWN_BECAUSE_FEW)


def _uncalibrated(source: Source) -> str:
    if source.origin is not None:
        return (
            "int8 is calibrated on crops, and this model comes without any. Give labelled crops that it was not "
            "trained on with --data DIR."
        )
    return (
        "int8 is calibrated on crops of the training split, and the folder that the model was trained on is "
        "not known here. Give it with --calibration DATA."
    )


def _of_a_foreign_model(source: Source, directory: Path, wanted: CropsWanted, progress: Progress) -> ExportCrops:
    """Half of the biopsies to fit and calibrate on, the other half to count and compare on."""
    dataset = read_recorded(directory, None, wanted.case_pattern)
    split = split_in_halves(dataset)
    recipe = source.recipe
    sides = {
        side: tuple(item for item in dataset.items if split.sides[item.name] == side) for side in ("validation", "test")
    }
    fitting, counting = sides["validation"], sides["test"]
    calibration = None
    if wanted.calibration:
        calibration = calibration_from(fitting, recipe, wanted.calibration, progress)
    names = {item.name for item in whole_biopsies(dataset, split.sides, ("test",), wanted.compared)}
    if len(names) < MIN_CROPS:
        return ExportCrops(drawn(recipe), calibration, DRAWN_BECAUSE_FEW, fitting, counting)
    picked = [item for item in counting if item.name in names]
    compared = labelled(picked, recipe, "held-out crops of the given data", progress)
    return ExportCrops(compared, calibration, None, fitting, counting)
