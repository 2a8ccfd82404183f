"""The header of a DICOM slide: what results in DICOM have to refer to."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glomedge.cases.text import tidy
from glomedge.errors import MissingExtraError, UsageError
from glomedge.files.names import escape_name

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

SLIDE_CLASS = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""VL Whole Slide Microscopy Image Storage (PS3.4, B.5)."""
_CHOOSING = [
    "SOPClassUID", "SeriesInstanceUID", "ImageType", "TotalPixelMatrixColumns", "InConcatenationNumber",
]  # fmt: skip
_MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyDate",
    "StudyTime", "ReferringPhysicianName",
)  # fmt: skip
_NEEDED = (
    "SOPInstanceUID", "SeriesInstanceUID", "StudyInstanceUID", "FrameOfReferenceUID", "TotalPixelMatrixColumns",
    "TotalPixelMatrixOriginSequence", "ImageOrientationSlide", "SharedFunctionalGroupsSequence",
)  # fmt: skip


@dataclass(frozen=True)
class DicomSource:
    """The sharpest instance of a DICOM slide.

    Attributes:
        name: of its file, for messages.
        header: the instance without its pixels; attributes that may be empty (type 2) are there, empty where the file
            lacks them.
    """

    name: str
    header: Dataset

    @property
    def sop_instance_uid(self) -> str:
        """By which results refer to the slide."""
        return str(self.header.SOPInstanceUID)

    def on_slide_mm(self, points_px: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Points of the glass, float64 ``[n, 3]`` in mm, of points in level-0 pixels, ``[n, 2]`` (x, y).

        Pixels are counted from the outer corner of the first one, whose centre is (0.5, 0.5); the slide coordinate
        system is that of the frame of reference (PS3.3, C.8.12.2.1).
        """
        from highdicom.spatial import ImageToReferenceTransformer

        origin = self.header.TotalPixelMatrixOriginSequence[0]
        measures = self.header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
        transformer = ImageToReferenceTransformer(
            image_position=[
                float(getattr(origin, f"{axis}OffsetInSlideCoordinateSystem", 0) or 0) for axis in ("X", "Y", "Z")
            ],
            image_orientation=[float(each) for each in self.header.ImageOrientationSlide],
            pixel_spacing=[float(each) for each in measures.PixelSpacing],
        )
        return np.asarray(transformer(points_px), np.float64)


def dicom_source(path: Path) -> DicomSource:
    """The sharpest instance of the series that a file belongs to, among the files of its folder, as OpenSlide takes it.

    Where the level is in several files (a concatenation), the first of them.

    Raises:
        UsageError: the slide is not DICOM, or its header lacks what results must refer to.
        MissingExtraError: highdicom is not installed.
    """
    pydicom = dicom_modules()
    name = escape_name(os.fsencode(path))
    given = header_of(pydicom, path, _CHOOSING)
    if given is None or given.get("SOPClassUID") != SLIDE_CLASS:
        raise UsageError(
            f"{name} is no DICOM slide, and results in DICOM must refer to one. Choose --format geojson or dsa, or "
            "convert the slide to DICOM."
        )
    try:
        sharpest = _sharpest(pydicom, path, given)
    except OSError as error:
        raise UsageError(
            f"The folder of {name} cannot be listed ({error.strerror or error}), and the slide's other files lie "
            "there. Change its permissions."
        ) from None
    with usable_header(name):
        header = _whole_header(pydicom, sharpest)
        lacking = [each for each in _NEEDED if not header.get(each)]
        if not lacking and "PixelMeasuresSequence" not in header.SharedFunctionalGroupsSequence[0]:
            lacking = ["PixelMeasuresSequence"]
    if lacking:
        raise UsageError(
            f"The DICOM header of {name} lacks {', '.join(lacking)}, so that results in DICOM cannot refer to places "
            "on it. Choose --format geojson or dsa."
        )
    for each in _MAY_BE_EMPTY:
        if each not in header:
            setattr(header, each, "")
    source = DicomSource(name, header)
    with usable_header(name):
        source.on_slide_mm(np.zeros((1, 2)))
    return source


def unusable() -> tuple[type[Exception], ...]:
    """What pydicom and highdicom raise at a damaged header; found by writing random bytes into one."""
    from pydicom.errors import BytesLengthException, InvalidDicomError

    return (
        ValueError, TypeError, AttributeError, KeyError, IndexError, NotImplementedError, OverflowError, EOFError,
        OSError, RecursionError, struct.error, BytesLengthException, InvalidDicomError,
    )  # fmt: skip


@contextmanager
def usable_header(name: str) -> Iterator[None]:
    """Inside, what pydicom and highdicom raise at a header that is not as the standard wants it becomes UsageError."""
    try:
        yield
    except unusable() as error:
        reason = tidy(str(error))[:150]
        raise UsageError(
            f"The DICOM header of {name} is not as the standard wants it ({reason}), so that results in DICOM cannot "
            "refer to it. Correct the header, or choose --format geojson or dsa."
        ) from None


def _sharpest(pydicom: Any, path: Path, given: Dataset) -> Path:
    """The file with the most columns; of several that make up one level, the first of that level."""
    found = []
    for other in sorted(path.parent.iterdir()):
        header = header_of(pydicom, other, _CHOOSING)
        if header is None or header.get("SeriesInstanceUID") != given.get("SeriesInstanceUID"):
            continue
        columns, part = header.get("TotalPixelMatrixColumns"), header.get("InConcatenationNumber") or 0
        if "VOLUME" in (header.get("ImageType") or ()) and isinstance(columns, int) and isinstance(part, int):
            found.append((-columns, part, other))
    return min(found)[2] if found else path


def dicom_modules() -> Any:
    """The package pydicom, where highdicom is there as well. Raises MissingExtraError."""
    try:
        import highdicom  # noqa: F401
        import pydicom
    except ImportError:
        raise MissingExtraError("Results in DICOM", "highdicom", "dicom") from None
    return pydicom


def header_of(pydicom: Any, path: Path, only: list[str]) -> Dataset | None:
    """Some of the header of a file; None where it is no DICOM, or cannot be read."""
    try:
        if not path.is_file():
            return None
        header: Dataset = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=only)
        for _ in header:
            pass  # pydicom converts a value when it is asked for
    except unusable():
        return None
    return header


def _whole_header(pydicom: Any, path: Path) -> Dataset:
    """The header without what it says of each frame, which may be long, with every value converted."""
    header: Dataset = pydicom.dcmread(path, stop_before_pixels=True)
    if "PerFrameFunctionalGroupsSequence" in header:
        del header["PerFrameFunctionalGroupsSequence"]
    for _ in header.iterall():
        pass
    return header
