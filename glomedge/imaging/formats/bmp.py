"""The header of a Windows bitmap (BITMAPCOREHEADER to BITMAPV5HEADER)."""

from __future__ import annotations

import struct

from glomedge.errors import ImageError
from glomedge.imaging.formats.header import Header, Part, truncated

_AGAIN = "Write the file again from its source."


def read(data: bytes) -> Header:
    """The header of a bitmap.

    Raises:
        ImageError: ``truncated``, ``corrupt``, ``format``.
    """
    if len(data) < 26:
        raise truncated("its header does")
    pixels_at, dib_bytes = struct.unpack_from("<II", data, 10)
    if dib_bytes == 12:
        width_px, height_px, _, bits = struct.unpack_from("<HHHH", data, 18)
        compression = 0
    elif 40 <= dib_bytes <= 128:
        if len(data) < 14 + dib_bytes:
            raise truncated("its header does")
        width_px, height_px, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    else:
        raise ImageError("format", "This is not a bitmap of a known kind. Save the crop as PNG.")
    height_px = abs(height_px)  # negative: rows run from the top
    if width_px < 0:
        raise ImageError("corrupt", f"The bitmap's width is negative. {_AGAIN}")
    if bits not in (1, 4, 8, 16, 24, 32) or compression not in (0, 1, 2, 3, 6):
        raise ImageError("format", "The bitmap's pixel format is not supported. Save the crop as PNG.")
    if compression not in (1, 2) and pixels_at + (width_px * bits + 31) // 32 * 4 * height_px > len(data):
        raise truncated("its pixels do")
    return Header(
        "bmp",
        width_px,
        height_px,
        colour="palette" if bits <= 8 else "rgb",
        alpha="straight" if bits == 32 else "none",
        decoder="pillow",
    )


def declared_size(part: Part) -> tuple[int, int] | None:
    """Width and height from the bitmap header."""
    start = part(14, 12)
    if len(start) < 12:
        return None
    width_px, height_px = struct.unpack_from("<HH" if start.startswith(b"\x0c\0\0\0") else "<ii", start, 4)
    return width_px, abs(height_px)
