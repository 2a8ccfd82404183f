"""DICOM slides that OpenSlide refuses (implicit VR, JPEG-LS), by wsidicom.

A handle has as much of OpenSlide's interface as ``reader`` uses, and raises OpenSlide's error. wsidicom leaves out
files that it cannot read, and then takes a lower level for the sharpest: a slide of which it does not take every file
is refused.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import io
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glomedge.cases.text import tidy
from glomedge.files.names import escape_name
from glomedge.slides.dicom_source import SLIDE_CLASS, header_of

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsProfile

_CACHE_BYTES = 32 << 20
"""Of decoded tiles, for one slide; wsidicom's own choice is 100 MiB, and as much again of tiles as they are stored."""
_MAGIC_END = 132  # PS3.10, 7.1
_TAGS = ["SOPClassUID", "SeriesInstanceUID", "ImageType"]


def is_dicom(path: Path) -> bool:
    """Whether a file begins as every DICOM file does."""
    try:
        with path.open("rb", buffering=0) as handle:
            return handle.read(_MAGIC_END)[-4:] == b"DICM"
    except OSError:
        return False


def is_installed() -> bool:
    """Whether wsidicom is there (extra ``wsidicom``)."""
    try:
        return importlib.util.find_spec("wsidicom") is not None
    except ValueError:  # sys.modules has None for it
        return False


class DicomHandle:
    """A DICOM slide, open in wsidicom. One thread reads at a time: wsidicom does not say that several may.

    Args:
        path: any one of the slide's files; the others are those of its series in the same folder.

    Raises:
        OpenSlideError: wsidicom cannot read it, or not all of it.
    """

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        self._slide: Any = None
        self.reader = f"wsidicom {importlib.metadata.version('wsidicom')}"
        try:
            files = _files(path.absolute())
            self._slide = _open(files)
            self._levels = list(self._slide.pyramid)
            self._check(len(files))
            self.level_dimensions = tuple((level.size.width, level.size.height) for level in self._levels)
            self.dimensions = self.level_dimensions[0]
            mpp = self._levels[0].mpp
            self.properties = {
                "openslide.vendor": "dicom",
                "openslide.mpp-x": repr(float(mpp.width)),
                "openslide.mpp-y": repr(float(mpp.height)),
            }
            self._read_last_tiles()
        except Exception as error:  # noqa: BLE001 - wsidicom and pydicom raise whatever a damaged file leads to
            self.close()
            raise _openslide_error(error) from None

    def _check(self, files: int) -> None:
        """Refuse what would be read in part, or of which one of several pictures would be chosen in silence."""
        if len(self._slide.pyramids) != 1:
            raise ValueError("its levels are of several pictures")
        used = sum(len(level.datasets) for level in self._levels)
        if used != files:
            raise ValueError(f"{files - used} of its {files} files cannot be used")
        for level in self._levels:
            image = level.default_instance.image_data
            if len(level.optical_paths) != 1 or len(level.focal_planes) != 1:
                raise ValueError("it has several focal planes or optical paths")
            if image.samples_per_pixel != 3 or image.bits != 8:
                raise ValueError("it is no colour picture of 8 bits")

    def _read_last_tiles(self) -> None:
        """The end of each level: the beginning of a file is refused as a whole, as OpenSlide does."""
        for number, (width, height) in enumerate(self.level_dimensions):
            self._pixels(number, width - 1, height - 1, 1, 1)

    @property
    def color_profile(self) -> ImageCmsProfile | None:
        """The profile of the sharpest level. Raises OSError, PyCMSError: it is damaged."""
        import pydicom
        from PIL.ImageCms import ImageCmsProfile

        sharpest = Path(self._levels[0].default_instance.image_data.files[0])
        header = header_of(pydicom, sharpest, ["OpticalPathSequence"])
        paths = [] if header is None else header.get("OpticalPathSequence") or []
        profile = paths[0].get("ICCProfile") if paths else None
        return None if not profile else ImageCmsProfile(io.BytesIO(profile))

    def read_region(self, location: tuple[int, int], level: int, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """As OpenSlide's: transparent outside the slide.

        Args:
            location: of the upper left corner, in level-0 pixels.
            level: index into ``level_dimensions``.
            size: width and height, in pixels of the level.

        Returns:
            uint8 ``[H, W, 4]``, RGBA.

        Raises:
            OpenSlideError: the slide is damaged there, or can no longer be read.
        """
        (width, height), (full_width, full_height) = self.level_dimensions[level], self.dimensions
        x, y = location[0] * width // full_width, location[1] * height // full_height
        left, upper = max(0, x), max(0, y)
        right, lower = min(width, x + size[0]), min(height, y + size[1])
        rgba = np.zeros((size[1], size[0], 4), np.uint8)
        if left < right and upper < lower:
            try:
                pixels = self._pixels(level, left, upper, right - left, lower - upper)
            except Exception as error:  # noqa: BLE001 - as when it is opened
                raise _openslide_error(error) from None
            part = rgba[upper - y : lower - y, left - x : right - x]
            part[..., :3], part[..., 3] = pixels, 255
        return rgba

    def _pixels(self, level: int, x: int, y: int, width: int, height: int) -> npt.NDArray[np.uint8]:
        with self._lock:
            pixels = self._slide.read_region(
                (x, y), self._levels[level].level, (width, height), threads=1, as_array=True
            )
        if pixels.shape != (height, width, 3) or pixels.dtype != np.uint8:
            raise ValueError("its tiles are not what its header says")
        return np.asarray(pixels)

    def close(self) -> None:
        """Close the files."""
        with self._lock:
            slide, self._slide = self._slide, None
        if slide is not None:
            slide.close()

    def __del__(self) -> None:
        self.close()


def _files(path: Path) -> list[Path]:
    """The files of the pyramid that a file belongs to, sorted, without label and overview; else the file itself."""
    import pydicom

    given = header_of(pydicom, path, _TAGS)
    series = None if given is None else given.get("SeriesInstanceUID")
    if given is None or given.get("SOPClassUID") != SLIDE_CLASS or not series:
        return [path]
    found = []
    for other in sorted(each for each in path.parent.iterdir() if is_dicom(each)):
        header = header_of(pydicom, other, _TAGS)
        if header is None or not header.get("SOPClassUID") or not header.get("SeriesInstanceUID"):
            # It may be the sharpest level of this slide, without which a lower one would be taken for it.
            raise ValueError(f"{escape_name(os.fsencode(other.name))} beside it is damaged")
        if header.SeriesInstanceUID == series and "VOLUME" in (header.get("ImageType") or ()):
            found.append(other)
    return found or [path]


def _open(files: list[Path]) -> Any:
    from wsidicom import Settings, WsiDicom

    settings = Settings(strict_tile_size_check=False, decoded_frame_cache_size=_CACHE_BYTES, encoded_frame_cache_size=0)
    return WsiDicom.open(files, settings=settings)


def _openslide_error(error: Exception) -> Exception:
    from openslide import OpenSlideError

    if type(error).__name__ == "WsiDicomNoResolutionError":
        return OpenSlideError("it does not say how many microns a pixel has")
    return OpenSlideError(tidy(str(error) or type(error).__name__)[:150])
