"""One slide, by OpenSlide or else wsidicom: its measures, and whole boxes of its sharpest level as RGB pixels.

OpenSlide's traps are dealt with here: a handle that met one damaged tile refuses every later read; outside the slide it
gives transparent black; a resolution in the file may be missing or absurd.
"""

from __future__ import annotations

import hashlib
import math
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glomedge.about import install_command
from glomedge.errors import ImageError, MissingExtraError
from glomedge.files.names import escape_name
from glomedge.model.spec import MAX_MPP, MIN_MPP
from glomedge.slides.second_reader import DicomHandle, is_dicom, is_installed

if TYPE_CHECKING:
    from openslide import OpenSlide

_MAX_MPP_RATIO = 1.05
MAX_BOX_PX = 64_000_000
"""Pixels of one box, as of one image file."""
MIN_SIDE_PX = 2
_WHITE = (255, 255, 255)


class Box(NamedTuple):
    """A rectangle in whole level-0 pixels; ``x`` and ``y`` of its upper left corner may lie outside the slide."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True)
class SlideInfo:
    """What a slide says about itself.

    Attributes:
        width_px, height_px: of level 0.
        mpp: microns per pixel at level 0.
        mpp_given: whether the user gave it (``--mpp``) rather than the file.
        vendor: OpenSlide's name of the format (``aperio``, ``mirax``, ``generic-tiff``, ...).
        bounds: where the scanned tissue lies on a slide that is mostly not scanned (MRXS), else None.
        background_rgb: colour of what was not scanned.
        icc_sha256: of the colour profile, which is recorded and not applied; None where there is none or it is damaged.
        levels: widths and heights of the pyramid, in pixels.
        reader: the library that reads it, with its version: OpenSlide, or wsidicom for DICOM that OpenSlide refuses.
    """

    width_px: int
    height_px: int
    mpp: float
    mpp_given: bool
    vendor: str
    bounds: Box | None
    background_rgb: tuple[int, int, int]
    icc_sha256: str | None
    levels: tuple[tuple[int, int], ...]
    reader: str

    @property
    def refused_by_openslide(self) -> bool:
        """Whether the second reader reads it."""
        return not self.reader.startswith("OpenSlide")


class Region(NamedTuple):
    """Pixels of one box.

    Attributes:
        pixels_hwc: uint8 ``[H, W, 3]``, RGB.
        box: what was read: the requested box, clipped to the slide.
        at_edge: whether it was clipped.
    """

    pixels_hwc: npt.NDArray[np.uint8]
    box: Box
    at_edge: bool


class Slide:
    """A slide that is open for reading, from several threads if wanted. A context manager.

    Args:
        path: the slide; of MRXS the ``.mrxs`` file, of DICOM any one file of the slide.
        mpp: microns per pixel in place of what the file says.

    Raises:
        ImageError: ``vanished``, ``permission``, ``io``: the file cannot be opened. ``format``: no slide that is
            read, or the beginning of one. ``corrupt``: damaged, or files beside it are missing. ``mpp``: no
            resolution, or an absurd one.
        MissingExtraError: OpenSlide is not installed.
    """

    def __init__(self, path: Path, mpp: float | None = None) -> None:
        self.path = path
        self._name = escape_name(os.fsencode(path))
        self._lock = threading.Lock()
        self._handle: OpenSlide | DicomHandle | None = self._open()
        try:
            self.info = self._read_info(self._handle, mpp)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Slide:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; reading afterwards opens it again."""
        with self._lock:
            handle, self._handle = self._handle, None
        if handle is not None:
            handle.close()

    @property
    def qupath_origin_px(self) -> tuple[int, int]:
        """Where QuPath counts from, in level-0 pixels: the corner of the scanned part, where the slide names one.

        QuPath shows only that part when both its width and its height differ from the slide's (unless opened with
        ``--no-crop``), and its coordinates begin there.
        """
        bounds, info = self.info.bounds, self.info
        if bounds is None or bounds.width == info.width_px or bounds.height == info.height_px:
            return 0, 0
        return bounds.x, bounds.y

    def clip(self, box: Box) -> Box:
        """The part of a box that lies on the slide.

        Raises:
            ImageError: ``outside``: no part of it does. ``too_small``, ``too_large``: that part has less than 2 pixels
                a side, or more than 64 million.
        """
        info = self.info
        left, upper = max(0, box.x), max(0, box.y)
        right, lower = min(info.width_px, box.x + box.width), min(info.height_px, box.y + box.height)
        if left >= right or upper >= lower:
            raise ImageError(
                "outside",
                f"The outline (x {box.x} to {box.x + box.width}, y {box.y} to {box.y + box.height}) lies outside the "
                f"slide, which has {info.width_px} x {info.height_px} pixels. Check that it belongs to this slide.",
            )
        clipped = Box(left, upper, right - left, lower - upper)
        if min(clipped.width, clipped.height) < MIN_SIDE_PX:
            raise ImageError("too_small", f"The outline covers {clipped.width} x {clipped.height} pixels of the slide.")
        if clipped.width * clipped.height > MAX_BOX_PX:
            raise ImageError(
                "too_large", f"The outline covers {clipped.width} x {clipped.height} pixels; that is no glomerulus."
            )
        return clipped

    def read(self, box: Box) -> Region:
        """The pixels of a box at level 0, clipped to the slide, on the slide's background.

        A box on a damaged tile fails alone: the file is opened again for the next one.

        Raises:
            ImageError: as ``clip``; ``corrupt``: the slide is damaged there; ``vanished``, ``io``: it can no longer be
                read.
        """
        clipped = self.clip(box)
        rgba = self._read_rgba(clipped)
        return Region(_on_background(rgba, self.info.background_rgb), clipped, clipped != box)

    def read_level(self, level: int, part: Box) -> npt.NDArray[np.uint8]:
        """A part of the slide at a lower level, on the slide's background.

        Args:
            level: index into ``info.levels``.
            part: on the slide, in level-0 pixels.

        Returns:
            uint8 ``[H, W, 3]``, RGB, as many pixels as the part has at that level, at least 1 a side.

        Raises:
            ImageError: as ``read``.
        """
        width_px, height_px = self.info.levels[level]
        width = max(1, round(part.width * width_px / self.info.width_px))
        height = max(1, round(part.height * height_px / self.info.height_px))
        rgba = self._read_rgba(Box(part.x, part.y, width, height), level)
        return _on_background(rgba, self.info.background_rgb)

    def _read_rgba(self, box: Box, level: int = 0) -> npt.NDArray[np.uint8]:
        """A place in level-0 pixels, a size in pixels of the level, as OpenSlide takes them."""
        from openslide import OpenSlideError

        with self._lock:
            handle = self._handle
        if handle is not None:
            try:
                return _rgba(handle, box, level)
            except OpenSlideError:
                pass
        # The handle may only have been spoilt by another box: a fresh one decides.
        fresh = self._open()
        try:
            pixels = _rgba(fresh, box, level)
        except OpenSlideError as error:
            fresh.close()
            self._replace(handle, None)
            raise ImageError(
                "corrupt", f"The slide is damaged at x {box.x}, y {box.y} ({error}). Copy or scan it again."
            ) from None
        self._replace(handle, fresh)
        return pixels

    def _replace(self, old: OpenSlide | DicomHandle | None, new: OpenSlide | DicomHandle | None) -> None:
        """Put a fresh handle in the place of a spoilt one; another thread may have done so already.

        The old one is not closed here, since another thread may be reading from it; it closes with its last user.
        """
        with self._lock:
            if self._handle is old:
                self._handle, new = new, None
        if new is not None:
            new.close()

    def _open(self) -> OpenSlide | DicomHandle:
        openslide = openslide_module()
        try:
            with self.path.open("rb"):
                pass
        except IsADirectoryError:
            raise ImageError(
                "format", f"{self._name} is a folder. Give the slide itself, of DICOM any one of its files."
            ) from None
        except FileNotFoundError:
            raise ImageError("vanished", f"{self._name}: there is no such slide. Check its path.") from None
        except PermissionError:
            raise ImageError("permission", f"{self._name}: permission denied. Change its permissions.") from None
        except OSError as error:
            reason = error.strerror or str(error)
            raise ImageError("io", f"{self._name} cannot be read: {reason}. Check the disk.") from None
        try:
            opened: OpenSlide = openslide.OpenSlide(str(self.path))
        except openslide.OpenSlideUnsupportedFormatError:
            refusal = ImageError(
                "format",
                f"{self._name} is no slide that OpenSlide reads, or only the beginning of one. Give a whole one (SVS, "
                "NDPI, MRXS, SCN, CZI, tiled TIFF, DICOM), with the files beside it where its format has several.",
            )
        except openslide.OpenSlideError as error:
            refusal = ImageError(
                "corrupt",
                f"{self._name} is damaged, or files that belong to it are missing ({str(error)[:150]}). Copy it again, "
                "with everything beside it.",
            )
        else:
            return opened
        return self._open_second(refusal)

    def _open_second(self, refusal: ImageError) -> DicomHandle:
        """What OpenSlide refuses, by wsidicom where it is DICOM. Raises the refusal, with what wsidicom says of it."""
        from openslide import OpenSlideError

        if not is_dicom(self.path):
            raise refusal
        if not is_installed():
            advice = f"Or let wsidicom read it, if it is whole: {install_command('glomedge[wsidicom]')}"
            raise ImageError(refusal.code, f"{refusal} {advice}")
        try:
            return DicomHandle(self.path)
        except OpenSlideError as error:
            raise ImageError(refusal.code, f"{refusal} wsidicom refuses it as well: {error}.") from None

    def _read_info(self, handle: OpenSlide | DicomHandle, mpp: float | None) -> SlideInfo:
        properties = handle.properties
        width_px, height_px = handle.dimensions
        return SlideInfo(
            width_px=width_px,
            height_px=height_px,
            mpp=self._mpp(properties) if mpp is None else self._checked(mpp, "--mpp"),
            mpp_given=mpp is not None,
            vendor=properties.get("openslide.vendor", "unknown"),
            bounds=_bounds(properties),
            background_rgb=_background(properties),
            icc_sha256=_icc_sha256(handle),
            levels=tuple(handle.level_dimensions),
            reader=handle.reader if isinstance(handle, DicomHandle) else _openslide_version(),
        )

    def _mpp(self, properties: Any) -> float:
        """What the file says, never derived from a magnification: 20x is 0.23 on one scanner and 0.5 on another."""
        texts = [properties.get(f"openslide.mpp-{axis}") for axis in "xy"]
        values = [value for value in map(_number, texts) if value is not None]
        if len(values) < 2:
            raise ImageError(
                "mpp", f"{self._name} does not say how many microns a pixel has. Give it, for example: --mpp 0.25"
            )
        low, high = sorted(values)
        self._checked(low, "the slide")
        self._checked(high, "the slide")
        if high > low * _MAX_MPP_RATIO:
            raise ImageError(
                "mpp", f"{self._name} says that its pixels are not square ({low:g} by {high:g} microns). Give --mpp."
            )
        return math.sqrt(low * high) if low != high else low

    def _checked(self, mpp: float, source: str) -> float:
        if not MIN_MPP <= mpp <= MAX_MPP:
            raise ImageError(
                "mpp",
                f"{self._name}: {mpp:g} microns per pixel ({source}) cannot be: scanners have {MIN_MPP} to {MAX_MPP}. "
                "Give the right number, for example: --mpp 0.25",
            )
        return mpp


def openslide_module() -> Any:
    """The package openslide-python with its library. Raises MissingExtraError."""
    try:
        import openslide
    except (ImportError, OSError):  # OSError: the package without the library
        raise MissingExtraError("Reading slides", "openslide-python", "slides") from None
    return openslide


def _openslide_version() -> str:
    return f"OpenSlide {openslide_module().__library_version__}"


def _rgba(handle: OpenSlide | DicomHandle, box: Box, level: int) -> npt.NDArray[np.uint8]:
    return np.asarray(handle.read_region((box.x, box.y), level, (box.width, box.height)))


def _on_background(rgba: npt.NDArray[np.uint8], background_rgb: tuple[int, int, int]) -> npt.NDArray[np.uint8]:
    """RGB; what is transparent was not scanned and gets the background. Opaque pixels stay exactly as they are."""
    import cv2

    alpha = rgba[..., 3:]
    if alpha.min() == 255:
        # 40 times faster than a copy by NumPy, which would cost an eighth of reading the region.
        return np.asarray(cv2.cvtColor(rgba, cv2.COLOR_RGBA2RGB), np.uint8)
    weight = alpha.astype(np.float32) / 255
    mixed = rgba[..., :3] * weight + np.array(background_rgb, np.float32) * (1 - weight)
    return np.rint(mixed).astype(np.uint8)


def _icc_sha256(handle: OpenSlide | DicomHandle) -> str | None:
    from PIL.ImageCms import PyCMSError

    try:
        profile = handle.color_profile
        return None if profile is None else hashlib.sha256(profile.tobytes()).hexdigest()
    except (PyCMSError, OSError):  # damaged; the pixels do not need it
        return None


def _number(text: str | None) -> float | None:
    """A finite number, or None; some writers use a decimal comma."""
    try:
        number = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _bounds(properties: Any) -> Box | None:
    values = [_number(properties.get(f"openslide.bounds-{key}")) for key in ("x", "y", "width", "height")]
    numbers = [int(value) for value in values if value is not None]
    return Box(*numbers) if len(numbers) == 4 else None


def _background(properties: Any) -> tuple[int, int, int]:
    text = properties.get("openslide.background-color", "")
    try:
        red, green, blue = bytes.fromhex(text)
    except ValueError:
        return _WHITE
    return red, green, blue
