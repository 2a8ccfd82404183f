"""Writes a pyramid of JPEG tiles as slide scanners do: a classic TIFF with one directory for each level.

The file follows TIFF 6.0 (Adobe, 1992) and its Technical Note 2: compression 7, every tile a JPEG stream of its own. Of
the packages that write such files none does so without a further 20 MB of codecs, and OpenCV has the one codec needed.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

import cv2
import numpy as np
import numpy.typing as npt

from glomedge.errors import OutputError

Pixels = npt.NDArray[np.uint8]
TILE_PX = 256
_ASCII, _SHORT, _LONG, _RATIONAL = 2, 3, 4, 5
_FORMS = {_SHORT: "H", _LONG: "I"}
_YCBCR, _JPEG, _CENTIMETRE = 6, 7, 3


def pyramid(pixels_hwc: Pixels, levels: int) -> list[Pixels]:
    """The image and its halves by area, ``levels`` in all."""
    made = [pixels_hwc]
    for _ in range(levels - 1):
        height, width = made[-1].shape[:2]
        half = cv2.resize(made[-1], (max(1, width // 2), max(1, height // 2)), interpolation=cv2.INTER_AREA)
        made.append(np.asarray(half, np.uint8))
    return made


def write_slide(
    path: Path,
    levels: Sequence[Pixels],
    description: str,
    mpp: float | None,
    quality: int = 85,
    thumbnail_px: int = 0,
) -> None:
    """Write a tiled pyramid.

    Args:
        path: overwritten.
        levels: RGB, uint8 ``[H, W, 3]``, the largest first.
        description: of the first directory, ASCII; by it readers know a scanner's format.
        mpp: microns per pixel of the first level, as resolution tags; None leaves them out.
        quality: of JPEG, 1 to 100.
        thumbnail_px: longer side of a small picture in one piece, which Aperio's slides have after the first level; 0
            for none.

    Raises:
        OSError: the file cannot be written.
    """
    with path.open("wb") as handle:
        handle.write(b"II*\0\0\0\0\0")
        link = 4  # where the offset of the next directory stands
        for number, level in enumerate(levels):
            data = list(_written(handle, _tiles(level, quality)))
            fields = _fields(level) | {322: (_LONG, [TILE_PX]), 323: (_LONG, [TILE_PX]), 324: (_LONG, data[::2])}
            fields[325] = (_LONG, data[1::2])
            if number:
                fields[254] = (_LONG, [1])  # a smaller version of another image of the file
            else:
                fields[270] = (_ASCII, description.encode("ascii") + b"\0")
                if mpp is not None:
                    per_centimetre = struct.pack("<II", round(1e7 / mpp), 1000)
                    fields |= {282: (_RATIONAL, per_centimetre), 283: (_RATIONAL, per_centimetre)}
                    fields[296] = (_SHORT, [_CENTIMETRE])
            link = _write_directory(handle, fields, link)
            if number == 0 and thumbnail_px:
                small = _thumbnail(level, thumbnail_px)
                offset, count = _written(handle, [_jpeg(small, quality)])
                strip = {273: (_LONG, [offset]), 278: (_LONG, [small.shape[0]]), 279: (_LONG, [count])}
                link = _write_directory(handle, _fields(small) | strip, link)


def _written(handle: IO[bytes], pieces: Iterable[bytes]) -> Iterator[int]:
    """Write pieces one after the other; of each, where it stands and how long it is."""
    for piece in pieces:
        yield handle.tell()
        handle.write(piece)
        yield len(piece)


def _thumbnail(level: Pixels, longer_side_px: int) -> Pixels:
    height, width = level.shape[:2]
    scale = min(1.0, longer_side_px / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(level, size, interpolation=cv2.INTER_AREA), np.uint8)


def _tiles(level: Pixels, quality: int) -> Iterator[bytes]:
    """JPEG streams, row by row; the last ones of a row and column are filled up with their edge."""
    height, width = level.shape[:2]
    for y in range(0, height, TILE_PX):
        for x in range(0, width, TILE_PX):
            tile = level[y : y + TILE_PX, x : x + TILE_PX]
            lower, right = TILE_PX - tile.shape[0], TILE_PX - tile.shape[1]
            whole = cv2.copyMakeBorder(tile, 0, lower, 0, right, cv2.BORDER_REPLICATE)
            yield _jpeg(np.asarray(whole, np.uint8), quality)


def _jpeg(pixels_hwc: Pixels, quality: int) -> bytes:
    bgr = cv2.cvtColor(pixels_hwc, cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])
    if not done:
        raise OutputError("OpenCV could not encode a tile as JPEG. Reinstall opencv-python-headless.")
    return data.tobytes()


_Fields = dict[int, tuple[int, bytes | list[int]]]


def _fields(level: Pixels) -> _Fields:
    height, width = level.shape[:2]
    return {
        256: (_LONG, [width]),
        257: (_LONG, [height]),
        258: (_SHORT, [8, 8, 8]),
        259: (_SHORT, [_JPEG]),
        262: (_SHORT, [_YCBCR]),
        277: (_SHORT, [3]),
        284: (_SHORT, [1]),
        530: (_SHORT, [2, 2]),  # OpenCV's JPEG has colour at half the resolution
    }


def _write_directory(handle: IO[bytes], fields: _Fields, link: int) -> int:
    """Write a directory at the end and its offset at ``link``; returns where the offset of the next one belongs."""
    entries = []
    for tag, (kind, values) in sorted(fields.items()):
        if isinstance(values, bytes):
            data, count = values, 1 if kind == _RATIONAL else len(values)
        else:
            data, count = struct.pack(f"<{len(values)}{_FORMS[kind]}", *values), len(values)
        if len(data) <= 4:
            entries.append(struct.pack("<HHI", tag, kind, count) + data.ljust(4, b"\0"))
            continue
        handle.write(b"\0" * (handle.tell() % 2))
        entries.append(struct.pack("<HHII", tag, kind, count, handle.tell()))
        handle.write(data)
    handle.write(b"\0" * (handle.tell() % 2))
    start = handle.tell()
    handle.write(struct.pack("<H", len(entries)) + b"".join(entries) + bytes(4))
    end = handle.tell()
    handle.seek(link)
    handle.write(struct.pack("<I", start))
    handle.seek(end)
    return end - 4
