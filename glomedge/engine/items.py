"""What a program may hand over as one crop, and how it becomes pixels."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
import numpy.typing as npt

from glomedge.errors import ImageError

if TYPE_CHECKING:
    from PIL import Image

Pixels = npt.NDArray[np.uint8]
Item: TypeAlias = "str | bytes | bytearray | memoryview | os.PathLike[str] | os.PathLike[bytes] | Pixels | Image.Image"
"""One crop: a path, RGB pixels uint8 ``[H, W, 3]``, a PIL image, or the bytes of an image file."""

_LONGEST_PATH = 4095  # PATH_MAX of Linux, without its final NUL
# Pillow's modes that PNG holds as they are; the same rules then apply to them as to a PNG file.
_PNG_MODES = ("1", "L", "LA", "P", "RGB", "RGBA", "I;16")


def is_one_crop(items: object) -> bool:
    """Whether this is a crop by itself rather than several: everything but an iterable of items.

    An array of two or three dimensions is one crop; of four, ``[N, H, W, 3]``, it is N.
    """
    if isinstance(items, np.ndarray):
        return items.ndim < 4
    single = (str, bytes, bytearray, memoryview, os.PathLike, dict)
    return isinstance(items, single) or _is_pil(items) or not isinstance(items, Iterable)


def pixels_of(item: Any) -> tuple[Pixels, tuple[str, ...]]:
    """The crop's RGB pixels, uint8 ``[H, W, 3]``, and what was changed on the way (``images.Decoded.flags``).

    Raises:
        ImageError: ``type`` for what is no crop at all, else as ``images.read`` and ``images.decode``.
    """
    from glomedge.imaging import images

    if isinstance(item, np.ndarray):
        return _of_array(item), ()
    if isinstance(item, bytearray | memoryview) or (isinstance(item, bytes) and _is_contents(item)):
        decoded = images.decode(bytes(item))
    elif isinstance(item, str | bytes | os.PathLike):
        decoded = images.decode(_read(item))
    elif _is_pil(item):
        decoded = images.decode(_png_of(item))
    else:
        raise ImageError(
            "type",
            f"This is a {type(item).__name__}, not a crop. Give a path, RGB pixels (uint8 [H, W, 3]), a PIL image or "
            "the bytes of an image file.",
        )
    return decoded.pixels_hwc, decoded.flags


def _is_pil(item: object) -> bool:
    # Without importing Pillow: who has an image of its has imported it.
    return any(kind.__module__ == "PIL.Image" and kind.__name__ == "Image" for kind in type(item).__mro__)


def _is_contents(data: bytes) -> bool:
    """Whether bytes are an image rather than a path: no path is empty, this long, or holds a NUL; every image does."""
    return not data or len(data) > _LONGEST_PATH or b"\0" in data


def _read(path: str | bytes | os.PathLike[str] | os.PathLike[bytes]) -> bytes:
    from glomedge.imaging import images

    try:
        # Links are followed: a path that was given by name is meant.
        return images.read(path, follow_symlinks=True)
    except ImageError as error:
        if error.code != "vanished":
            raise
        raise ImageError("vanished", f"There is no file at {os.fsdecode(path)!r}. Correct the path.") from error


def _of_array(item: npt.NDArray[Any]) -> Pixels:
    from glomedge.imaging import images

    if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3:
        raise ImageError(
            "format", f"Pixels must be uint8 [H, W, 3] in RGB order, not {item.dtype} {list(item.shape)}. Convert them."
        )
    if min(item.shape[:2]) < images.MIN_SIDE_PX:
        raise ImageError("too_small", f"The crop is {item.shape[1]} x {item.shape[0]} pixels. Cut a larger one.")
    return np.ascontiguousarray(item)


def _png_of(image: Image.Image) -> bytes:
    """A PIL image as a PNG file, so that one set of rules decides on its colours, depth and transparency."""
    from PIL import ImageOps

    from glomedge.imaging import images

    if getattr(image, "is_animated", False):
        raise ImageError("multiframe", "The image holds several frames. Give one of them: image.copy() after seek().")
    if image.mode not in _PNG_MODES:
        raise ImageError(
            "colourspace", f"The image's mode is {image.mode}. Convert it as its colours ask: image.convert('RGB')."
        )
    images.refuse_large(*image.size)  # before Pillow spends memory on it
    written = io.BytesIO()
    try:
        upright = ImageOps.exif_transpose(image)
        upright.save(written, format="PNG", compress_level=1, exif=b"", icc_profile=None)
    except (OSError, ValueError, SyntaxError) as error:
        raise ImageError("corrupt", f"Pillow cannot read this image ({error}). Copy it again from its source.") from (
            error
        )
    return written.getvalue()
