"""The segments of a JPEG, walked without decoding (ITU-T T.81, annex B)."""

from __future__ import annotations

import functools
import struct
from dataclasses import dataclass

from glomedge.errors import ImageError
from glomedge.imaging.formats.header import Header, Part, truncated
from glomedge.imaging.formats.tiff import exif_orientation, is_pyramid, multi_picture_entries

# libjpeg-turbo's own fuzzers use this limit: a progressive file of thousands of scans costs minutes, not milliseconds.
_MAX_SCANS = 500
# Metadata of a few MB comes in segments of 64 kB; beyond this many the whole file is read instead.
_MAX_STEPS = 1000
_AGAIN = "Write the file again from its source."


@dataclass
class _Before:
    """What stands before the compressed pixels.

    Attributes:
        frame: bits a sample, height and width in px, and components; None without a frame header.
        orientation: of the Exif data.
        index_at: where the index of several pictures begins, 0 for none.
        end: where the first scan begins.
    """

    frame: tuple[int, int, int, int] | None = None
    orientation: int = 1
    index_at: int = 0
    end: int = 0


def read(data: bytes) -> Header:
    """The header of a JPEG: of its first picture, where the others (MPO) are reduced copies of it.

    Raises:
        ImageError: ``truncated``, ``corrupt``, ``colourspace`` (CMYK, 12 bits), ``multiframe`` (any other MPO).
    """
    before = _before_pixels(data)
    if before.frame is None:
        raise ImageError("corrupt", f"The JPEG has no frame header. {_AGAIN}")
    bits, height_px, width_px, components = before.frame
    several = False
    if before.index_at:
        # From here on only the first picture counts: the next one's end mark must not stand in for its own.
        several, end = _first_of_several(data, before.index_at, (width_px, height_px))
        data = data[:end]
    if components not in (1, 3):
        raise ImageError(
            "colourspace", f"The JPEG has {components} colour components (CMYK?). Convert it to RGB and save as PNG."
        )
    if bits != 8:
        raise ImageError("colourspace", f"The JPEG has {bits} bits per sample. Save the crop as 8-bit PNG.")
    # Within compressed data 0xFF is always followed by 0x00 or a restart code, so this cannot match by chance.
    if data.find(b"\xff\xd9", before.end) < 0:
        raise truncated("the JPEG's end mark")
    if data.count(b"\xff\xda", before.end) > _MAX_SCANS:
        raise ImageError("corrupt", "The JPEG has more scans than any real file. Save the crop as PNG.")
    return Header(
        "jpeg",
        width_px,
        height_px,
        colour="gray" if components == 1 else "rgb",
        orientation=before.orientation,
        first_of_several=several,
    )


def _before_pixels(data: bytes) -> _Before:
    """Walk the segments up to the first scan. Raises ImageError (``truncated``, ``corrupt``)."""
    at, size, found = 2, len(data), _Before()
    while True:
        # A marker is 0xFF, any number of fill bytes 0xFF, then the code (T.81 B.1.1.2).
        if at < size and data[at] != 0xFF:
            raise ImageError("corrupt", f"The JPEG's structure is broken. {_AGAIN}")
        while at < size and data[at] == 0xFF:
            at += 1
        if at + 3 > size:
            raise truncated("the JPEG's pixels begin")
        code = data[at]
        if code == 0xD9:
            raise ImageError("corrupt", f"The JPEG contains no image. {_AGAIN}")
        if code == 0x01 or 0xD0 <= code <= 0xD8:
            at += 1
            continue
        length = int.from_bytes(data[at + 1 : at + 3], "big")
        body = data[at + 3 : at + 1 + length]
        if length < 2:
            raise ImageError("corrupt", f"The JPEG's structure is broken. {_AGAIN}")
        if at + 1 + length > size:
            raise truncated("the JPEG's pixels begin")
        if _is_frame(code):
            if len(body) < 6:
                raise ImageError("corrupt", f"The JPEG's frame header is broken. {_AGAIN}")
            found.frame = struct.unpack_from(">BHHB", body)
        elif code == 0xE1 and body.startswith(b"Exif\0\0"):
            found.orientation = exif_orientation(body)
        elif code == 0xE2 and body.startswith(b"MPF\0"):
            found.index_at = at + 7
        at += 1 + length
        if code == 0xDA:
            found.end = at
            return found


def _first_of_several(data: bytes, index_at: int, size_px: tuple[int, int]) -> tuple[bool, int]:
    """Whether more pictures follow, and where the first one ends.

    Args:
        index_at: position of the index of pictures, which their offsets count from.
        size_px: width and height of the first picture.

    Raises:
        ImageError: ``multiframe`` where they are not reduced copies of it.
    """
    entries = multi_picture_entries(data[index_at:])
    sizes = [size_px]
    for _, offset in entries[1:]:
        sizes.append(declared_size(functools.partial(_part, data, index_at + offset)) or (0, 0))
    if not entries or not is_pyramid(sizes):
        raise ImageError("multiframe", "The JPEG holds several pictures (MPO). Save one of them by itself.")
    return len(entries) > 1, min([len(data), *(index_at + offset for _, offset in entries[1:])])


def _part(data: bytes, begin: int, at: int, count: int) -> bytes:
    return data[begin + at : begin + at + count]


def _is_frame(code: int) -> bool:
    """Whether a marker begins a frame header (SOF0 to SOF15; 0xC4, 0xC8 and 0xCC are others)."""
    return 0xC0 <= code <= 0xCF and code not in (0xC4, 0xC8, 0xCC)


def declared_size(part: Part) -> tuple[int, int] | None:
    """Width and height from the frame header, found by walking the segments."""
    at = 2
    for _ in range(_MAX_STEPS):
        start = part(at, 9)
        if len(start) < 9 or start[0] != 0xFF or start[1] in (0xD9, 0xDA):
            return None
        if _is_frame(start[1]):
            height_px, width_px = struct.unpack(">HH", start[5:9])
            return width_px, height_px
        if start[1] == 0xFF:
            at += 1
        elif start[1] == 0x01 or 0xD0 <= start[1] <= 0xD8:
            at += 2
        else:
            at += 2 + int.from_bytes(start[2:4], "big")
    return None
