"""A small MRXS slide: tiles in data files beside an index, as OpenSlide documents the format (its page "MIRAX format").

One level, JPEG tiles without overlap, no position map; tiles that were not scanned are not in the index.
"""

from __future__ import annotations

import struct
from collections.abc import Collection
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

TILE_PX = 256
_SLIDE_ID = "0123456789abcdef0123456789abcdef"
_SLIDEDAT = """[GENERAL]
SLIDE_VERSION = 01.02
SLIDE_ID = {slide_id}
IMAGENUMBER_X = {across}
IMAGENUMBER_Y = {down}
OBJECTIVE_MAGNIFICATION = 40
[HIERARCHICAL]
HIER_COUNT = 1
HIER_0_NAME = Slide zoom level
HIER_0_COUNT = 1
HIER_0_VAL_0 = ZoomLevel_0
HIER_0_VAL_0_SECTION = LAYER_0_LEVEL_0_SECTION
NONHIER_COUNT = 0
INDEXFILE = Index.dat
[DATAFILE]
FILE_COUNT = 2
FILE_0 = Data0000.dat
FILE_1 = Data0001.dat
[LAYER_0_LEVEL_0_SECTION]
OVERLAP_X = 0.000000
OVERLAP_Y = 0.000000
MICROMETER_PER_PIXEL_X = {mpp}
MICROMETER_PER_PIXEL_Y = {mpp}
IMAGE_FORMAT = JPEG
IMAGE_FILL_COLOR_BGR = 16777215
DIGITIZER_WIDTH = {tile}
DIGITIZER_HEIGHT = {tile}
IMAGE_CONCAT_FACTOR = 0
"""


def write_mrxs(
    path: Path, pixels: npt.NDArray[np.uint8], not_scanned: Collection[tuple[int, int]] = (), mpp: float = 0.25
) -> Path:
    """Write a slide, or write over it.

    Args:
        path: of the ``.mrxs`` file; the others lie in the folder of its name.
        pixels: uint8 ``[H, W, 3]``, RGB, whole tiles.
        not_scanned: columns and rows of tiles that are left out.
        mpp: microns per pixel.
    """
    folder = path.with_suffix("")
    folder.mkdir(exist_ok=True)
    path.write_bytes(b"\xff\xd8\xff\xe0 a picture of the slide")
    down, across = pixels.shape[0] // TILE_PX, pixels.shape[1] // TILE_PX
    text = _SLIDEDAT.format(slide_id=_SLIDE_ID, across=across, down=down, mpp=mpp, tile=TILE_PX)
    (folder / "Slidedat.ini").write_bytes(b"\xef\xbb\xbf" + text.encode("ascii"))
    data = [bytearray(), bytearray()]
    entries = []
    for row in range(down):
        for column in range(across):
            if (column, row) in not_scanned:
                continue
            tile = pixels[row * TILE_PX : (row + 1) * TILE_PX, column * TILE_PX : (column + 1) * TILE_PX]
            done, packed = cv2.imencode(".jpg", cv2.cvtColor(tile, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])
            assert done
            file = row % 2
            entries.append((row * across + column, len(data[file]), len(packed), file))
            data[file] += packed.tobytes()
    for number, content in enumerate(data):
        (folder / f"Data{number:04d}.dat").write_bytes(content)
    (folder / "Index.dat").write_bytes(_index(entries))
    return path


def _index(entries: list[tuple[int, int, int, int]]) -> bytes:
    """Version, id, two roots; then where the levels' lists are, the list of the one level, and its one page."""
    begin = b"01.02" + _SLIDE_ID.encode("ascii")
    levels = len(begin) + 8
    head = levels + 4
    page = head + 8
    return (
        begin
        + struct.pack("<ii", levels, 0)
        + struct.pack("<i", head)
        + struct.pack("<ii", 0, page)
        + struct.pack("<ii", len(entries), 0)
        + b"".join(struct.pack("<iiii", *entry) for entry in entries)
    )
