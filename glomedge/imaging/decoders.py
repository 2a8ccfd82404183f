"""The libraries that turn bytes into samples. Each function is given a header that was checked already.

All return C-contiguous samples in RGB order with the file's own depth. ``docs/decoding.md`` says which library is used
for what, and why.
"""

from __future__ import annotations

import functools
import io
import zlib
from typing import TYPE_CHECKING, Protocol

import cv2
import numpy as np
import numpy.typing as npt

from glomedge.errors import ImageError
from glomedge.imaging.formats.header import Header

if TYPE_CHECKING:
    from collections.abc import Callable

Samples = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]

_UNREADABLE = "The {format} is damaged: its pixels cannot be decoded. Copy it again from its source."


class _Png8(Protocol):
    def __call__(self, data: bytes, shape: tuple[int, int], mode: str, /) -> npt.NDArray[np.uint8]: ...


def unreadable(image_format: str) -> ImageError:
    """The error of a file whose header is sound and whose pixels are not."""
    return ImageError("corrupt", _UNREADABLE.format(format=image_format.upper()))


def with_opencv(data: bytes, header: Header) -> Samples:
    """Samples [H, W], [H, W, 3] or [H, W, 4] by ``cv2.imdecode``, not rotated (except TIFF, which libtiff rotates).

    Raises:
        ImageError: ``corrupt``.
    """
    # IMREAD_UNCHANGED keeps depth and alpha; gray JPEG comes as three equal channels otherwise.
    flags = cv2.IMREAD_UNCHANGED | cv2.IMREAD_IGNORE_ORIENTATION
    try:
        samples: Samples | None = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise unreadable(header.format) from error
    if samples is None or samples.dtype not in (np.uint8, np.uint16):
        raise unreadable(header.format)
    if samples.ndim == 2:
        return samples
    if samples.shape[2] == 4:
        cv2.cvtColor(samples, cv2.COLOR_BGRA2RGBA, dst=samples)
    else:
        cv2.cvtColor(samples, cv2.COLOR_BGR2RGB, dst=samples)
    return samples


def with_pillow(data: bytes, header: Header) -> Samples:
    """Samples [H, W], [H, W, 3] or [H, W, 4], uint8, by Pillow.

    Raises:
        ImageError: ``corrupt``.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data), formats=(header.format.upper(),)) as image:
            image.load()
            if image.mode in ("L", "RGB", "RGBA"):
                return np.asarray(image)
            return np.asarray(image.convert("RGBA" if image.mode in ("LA", "PA", "RGBa", "La") else "RGB"))
    except (
        OSError,
        ValueError,
        SyntaxError,
        TypeError,
        IndexError,
        KeyError,
        EOFError,
        Image.DecompressionBombError,
    ) as error:
        raise unreadable(header.format) from error


def with_fast_png(data: bytes, header: Header) -> Samples:
    """8-bit RGB or RGBA of a plain PNG, by kornia_rs where installed and by OpenCV otherwise: the same pixels.

    Raises:
        ImageError: ``corrupt``.
    """
    decode = fast_png_decoder()
    if decode is not None:
        mode = "rgba" if header.alpha != "none" else "rgb"
        samples = quietly(decode, data, (header.height_px, header.width_px), mode)
        if samples is not None:
            return samples
    # A file that the fast decoder refuses gets OpenCV's verdict, so that installing it changes no result.
    return with_opencv(data, header)


def quietly(decode: _Png8, data: bytes, shape: tuple[int, int], mode: str) -> npt.NDArray[np.uint8] | None:
    """The decoder's pixels, or None where it refuses the file."""
    try:
        return decode(data, shape, mode)
    except BaseException as error:
        # kornia_rs raises a plain Exception for a bad file; a panic in Rust arrives as its own BaseException class.
        if type(error) is Exception or type(error).__name__ in ("PanicException", "ValueError", "TypeError"):
            return None
        raise


@functools.cache
def fast_png_decoder() -> _Png8 | None:
    """kornia_rs' decoder where it is installed, has the expected function, and decodes a known image correctly."""
    try:
        from kornia_rs import io as kornia_io
    except ImportError:
        return None
    decode: _Png8 | None = getattr(kornia_io, "decode_image_png_u8", None)
    if decode is None:
        return None
    for channels, mode in ((3, "rgb"), (4, "rgba")):
        expected = np.arange(2 * 3 * channels, dtype=np.uint8).reshape(2, 3, channels) * 7
        got = quietly(decode, _tiny_png(expected), (2, 3), mode)
        if got is None or not np.array_equal(got, expected):
            return None
    return decode


def _tiny_png(pixels: npt.NDArray[np.uint8]) -> bytes:
    height_px, width_px, channels = pixels.shape
    raw = b"".join(b"\0" + row.tobytes() for row in pixels)
    header = width_px.to_bytes(4, "big") + height_px.to_bytes(4, "big") + bytes((8, 2 if channels == 3 else 6, 0, 0, 0))
    parts = [b"\x89PNG\r\n\x1a\n"]
    for kind, body in ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b"")):
        parts.append(len(body).to_bytes(4, "big") + kind + body + zlib.crc32(kind + body).to_bytes(4, "big"))
    return b"".join(parts)


DECODERS: dict[str, Callable[[bytes, Header], Samples]] = {
    "fast": with_fast_png,
    "opencv": with_opencv,
    "pillow": with_pillow,
}
