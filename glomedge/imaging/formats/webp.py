"""The chunks of a WebP, walked without decoding (RFC 9649)."""

from __future__ import annotations

import struct

from glomedge.errors import ImageError
from glomedge.imaging.formats.header import Header, Part, truncated
from glomedge.imaging.formats.tiff import exif_orientation

_AGAIN = "Write the file again from its source."


def read(data: bytes) -> Header:
    """The header of a WebP.

    Raises:
        ImageError: ``truncated``, ``corrupt``, ``multiframe`` (animation).
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise truncated("its pixels do")
    at = 12
    size: tuple[int, int] | None = None
    canvas: tuple[int, int] | None = None
    orientation, alpha = 1, False
    while at + 8 <= end:
        kind, length = data[at : at + 4], int.from_bytes(data[at + 4 : at + 8], "little")
        body = data[at + 8 : at + 8 + min(length, 65_536)]
        if at + 8 + length > end:
            raise truncated("its pixels do")
        if kind in (b"ANIM", b"ANMF") or (kind == b"VP8X" and len(body) >= 10 and body[0] & 0x02):
            raise ImageError("multiframe", "The WebP is animated. Save one image as a separate file.")
        declared = _declared(kind, body)
        if kind == b"VP8X":
            canvas = declared or canvas
        elif declared is not None and size is None:
            size = declared
            alpha = alpha or (kind == b"VP8L" and bool(body[4] >> 4 & 1))
        elif kind == b"ALPH":
            alpha = True
        elif kind == b"EXIF":
            orientation = exif_orientation(body)
        at += 8 + length + length % 2
    if size is None:
        raise ImageError("corrupt", f"The WebP contains no image. {_AGAIN}")
    if canvas is not None and canvas != size:
        raise ImageError("corrupt", f"The WebP declares two different sizes. {_AGAIN}")
    return Header("webp", *size, alpha="straight" if alpha else "none", orientation=orientation)


def declared_size(part: Part) -> tuple[int, int] | None:
    """Width and height from the first chunk."""
    return _declared(part(12, 4), part(20, 10))


def _declared(kind: bytes, body: bytes) -> tuple[int, int] | None:
    if kind == b"VP8X" and len(body) >= 10:
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8 " and len(body) >= 10:
        width_px, height_px = struct.unpack_from("<HH", body, 6)
        return width_px & 0x3FFF, height_px & 0x3FFF
    if kind == b"VP8L" and len(body) >= 5:
        word = int.from_bytes(body[1:5], "little")
        return (word & 0x3FFF) + 1, (word >> 14 & 0x3FFF) + 1
    return None
