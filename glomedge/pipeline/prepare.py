"""One crop from its path to enhanced pixels: read, hash, decode, check quality, enhance."""

from __future__ import annotations

import functools
import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from glomedge.engine.views import fault_of, shortest
from glomedge.errors import ImageError, shortened
from glomedge.files.storage import Storage, storage_at
from glomedge.model.spec import Recipe
from glomedge.pipeline.inputs import Found

Pixels = npt.NDArray[np.uint8]


class Stamp(NamedTuple):
    """Identity of a file's content when it was read: a resumed run notices when the file has been replaced."""

    sha256: str | None = None
    size_bytes: int | None = None
    mtime_ns: int | None = None


@dataclass(slots=True)
class Answer:
    """The result for one input. ``probability`` is None exactly where ``status`` begins with ``error:``."""

    found: Found
    status: str = "ok"
    probability: float | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    mtime_ns: int | None = None
    message: str = ""
    disagreement: float | None = None
    activation: npt.NDArray[np.float32] | None = None
    thumbnail: bytes | None = None
    grey: Pixels | None = None

    @property
    def stamp(self) -> Stamp:
        """What is known of the file by now."""
        return Stamp(self.sha256, self.size_bytes, self.mtime_ns)

    def stamped(self, stamp: Stamp) -> Answer:
        """With what is known of the file."""
        self.sha256, self.size_bytes, self.mtime_ns = stamp
        return self

    def fail(self, code: str, message: str) -> Answer:
        """Turn into an error row."""
        # Messages of libraries may quote names that are not text; results are UTF-8.
        self.message = shortened(message.encode("utf-8", "backslashreplace").decode("utf-8"))
        self.status, self.probability, self.disagreement = f"error:{code}", None, None
        return self


class Fetched(NamedTuple):
    """Pixels of a part of a file, uint8 RGB ``[H, W, 3]``, and the flags of its row."""

    pixels_hwc: Pixels
    flags: tuple[str, ...] = ()


class Source(Protocol):
    """Gives the pixels of inputs that are parts of files (``Found.part``): outlines on slides.

    Used by many threads at once, and pickled for decode processes.
    """

    def stamp(self, found: Found) -> Stamp:
        """Size and time of the file, without its SHA-256; nothing where it cannot be asked."""

    def fetch(self, found: Found) -> Fetched:
        """The pixels of one part. Raises ImageError."""


@dataclass(frozen=True)
class Preparation:
    """How to prepare crops.

    Attributes:
        root: folder, or address in object storage, that the inputs are relative to.
        recipe: of the model.
        follow_symlinks: whether linked files may be read.
        thumbnail_px: longer side of the JPEG kept for the report; 0 for none.
        grey_px: crops of up to this many pixels are kept in grey for a heatmap; 0 for none.
        source: of inputs that are parts of files; None where there are none.
    """

    root: bytes
    recipe: Recipe
    follow_symlinks: bool = False
    thumbnail_px: int = 0
    grey_px: int = 0
    source: Source | None = None


class Decoder(NamedTuple):
    """The steps from a path to pixels; tests replace one by a step that hangs or fails."""

    read: Callable[[bytes], bytes]
    decode: Callable[[bytes], Any]
    assess: Callable[[Pixels], tuple[str, ...]]
    enhance: Callable[[Pixels, Recipe, Pixels], Any]


def default_decoder(*, follow_symlinks: bool = False) -> Decoder:
    """The real steps; imported here because OpenCV takes a tenth of a second."""
    from glomedge.imaging import enhance as preprocess
    from glomedge.imaging import images, quality

    read = functools.partial(images.read, follow_symlinks=follow_symlinks)
    return Decoder(read, images.decode, quality.assess, preprocess.enhance)


def prepare(
    answer: Answer, how: Preparation, decoder: Decoder, out: Pixels, contents: bytes | None = None
) -> tuple[float, float]:
    """Fill one crop's answer and its pixels; any failure becomes its error row.

    Args:
        out: uint8 ``[side, side, 3]`` (``how.recipe.size_px``), written in place.
        contents: of the file where it has been read already, or there is none.

    Returns:
        Processor seconds of decoding (with reading and hashing) and of enhancing (with flags, thumbnail and grey).
    """
    begin_s = time.thread_time()
    decoded_s = begin_s
    try:
        pixels = _decode(answer, how, decoder, contents)
        decoded_s = time.thread_time()
        decoder.enhance(pixels, how.recipe, out)
        if how.thumbnail_px:
            answer.thumbnail = thumbnail(pixels, how.thumbnail_px)
        if pixels.shape[0] * pixels.shape[1] <= how.grey_px:
            answer.grey = _grey(pixels)
    except ImageError as error:
        answer.fail(error.code, str(error))
    except MemoryError:
        answer.fail("too_large", "not enough memory to decode it")
    except Exception as error:  # noqa: BLE001 - one file's defect must never take another file's row with it
        answer.fail("decoder", f"{type(error).__name__}: {error}")
    return decoded_s - begin_s, time.thread_time() - decoded_s


def _grey(pixels: Pixels) -> Pixels | None:
    """For the heatmap, which is optional: a failure here must not affect the answer."""
    try:
        from glomedge.imaging.images import grey

        return grey(pixels)
    except Exception:  # noqa: BLE001 - MemoryError and OpenCV's own among them
        return None


def _decode(answer: Answer, how: Preparation, decoder: Decoder, contents: bytes | None) -> Pixels:
    """Read and decode; raises ImageError."""
    if answer.found.error is not None:
        raise ImageError(answer.found.error, _SCAN_ERRORS.get(answer.found.error, answer.found.error))
    if answer.found.part is None:
        pixels, flags = _file(answer, _read(answer, how, decoder) if contents is None else contents, decoder)
    else:
        pixels, flags = _part(answer, how)
    flags = tuple(dict.fromkeys((*flags, *decoder.assess(pixels))))
    if flags:
        answer.status = f"flagged:{'+'.join(flags)}"
    return pixels


def _part(answer: Answer, how: Preparation) -> Fetched:
    """A part of a file, which has no bytes of its own: its SHA-256 is that of its pixels."""
    assert how.source is not None
    answer.stamped(how.source.stamp(answer.found))
    fetched = how.source.fetch(answer.found)
    answer.sha256 = pixels_sha256(fetched.pixels_hwc)
    return fetched


def pixels_sha256(pixels_hwc: Pixels) -> str:
    """SHA-256, in hex, of RGB pixels in the order of the picture: red, green and blue of each, row after row."""
    return hashlib.sha256(np.ascontiguousarray(pixels_hwc).data).hexdigest()


def _read(answer: Answer, how: Preparation, decoder: Decoder) -> bytes:
    storage = storage_at(how.root)
    return _from_disk(answer, how, decoder) if storage is None else _from_storage(answer, storage)


def _file(answer: Answer, data: bytes, decoder: Decoder) -> Fetched:
    answer.size_bytes = len(data)
    answer.sha256 = hashlib.sha256(data).hexdigest()
    decoded = decoder.decode(data)
    return Fetched(decoded.pixels_hwc, decoded.flags)


def _from_storage(answer: Answer, storage: Storage) -> bytes:
    from glomedge.imaging.stored import read_stored

    data, stored = read_stored(storage, answer.found.relative)
    answer.mtime_ns = stored.version_ns
    return data


def _from_disk(answer: Answer, how: Preparation, decoder: Decoder) -> bytes:
    path = os.path.join(how.root, answer.found.relative)  # noqa: PTH118 (bytes)
    try:
        answer.mtime_ns = os.stat(path, follow_symlinks=how.follow_symlinks).st_mtime_ns  # noqa: PTH116
    except OSError:
        # decoder.read says what is wrong.
        answer.mtime_ns = None
    return decoder.read(path)


_SCAN_ERRORS = {
    "permission": "permission denied",
    "not_regular": "a FIFO, socket or device, never opened",
    "vanished": "deleted while the folder was read",
    "io": "the folder could not be read",
}


def thumbnail(pixels_hwc: Pixels, longer_side_px: int) -> bytes:
    """A small JPEG of an RGB crop, never larger than the crop.

    Averaging by a whole factor, then linear: a third of the cost of one area resize, which is noticeable beside
    decoding. Up to one such block at the right and lower edge is left out.
    """
    import cv2

    height_px, width_px = pixels_hwc.shape[:2]
    block = max(1, max(height_px, width_px) // longer_side_px)
    # A long thin crop is not averaged away along its short side.
    down_y, down_x = min(block, height_px), min(block, width_px)
    small = pixels_hwc[: height_px // down_y * down_y, : width_px // down_x * down_x]
    if block > 1:
        small = cv2.resize(small, (width_px // down_x, height_px // down_y), interpolation=cv2.INTER_AREA)
    scale = min(1.0, longer_side_px / max(height_px, width_px))
    size = max(1, round(width_px * scale)), max(1, round(height_px * scale))
    bgr = cv2.cvtColor(cv2.resize(small, size, interpolation=cv2.INTER_LINEAR), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 72])
    if not done:
        raise ImageError("decoder", "no thumbnail could be made of it")
    return bytes(data)


def fill(
    answer: Answer,
    probability: np.float32,
    disagreement: npt.NDArray[np.float32] | None,
    activation: npt.NDArray[np.float32] | None,
    index: int,
) -> None:
    """Store one crop's answer; a value that is not a probability is an error of that crop alone."""
    map_ = None if activation is None else activation[index]
    fault = fault_of(float(probability), map_)
    if fault is None and disagreement is not None and not 0.0 <= disagreement[index] <= 1.0:
        spread = shortest(disagreement[index])
        fault = f"The probabilities of the network's views differ by {spread}. Check the model: glomedge doctor"
    if fault is not None:
        answer.fail("nonfinite", fault)
        return
    answer.probability = shortest(probability)
    answer.activation = map_
    if disagreement is not None:
        answer.disagreement = shortest(disagreement[index])
