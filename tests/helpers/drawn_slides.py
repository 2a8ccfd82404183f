"""Small slides whose every pixel is known."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import numpy.typing as npt

from glomedge_export.synthetic.tiled_tiff import pyramid, write_slide

APERIO = "Aperio Image Library v12.0\n{width}x{height} [0,0 {width}x{height}] (256x256) JPEG/RGB Q=85|AppMag = 40"


def picture(height: int, width: int) -> npt.NDArray[np.uint8]:
    """A smooth picture, different everywhere."""
    y, x = np.mgrid[:height, :width]
    waves = [127 + 100 * np.sin(x / 37 + phase) * np.cos(y / 53 - phase) for phase in (0.0, 1.5, 3.0)]
    return np.stack(waves, 2).astype(np.uint8)


def write(
    path: Path,
    pixels: npt.NDArray[np.uint8] | None = None,
    *,
    mpp_text: str | None = "0.25",
    aperio: bool = True,
    tags_mpp: float | None = None,
) -> Path:
    """A slide of 900 x 700 pixels (width x height), three levels, as an Aperio scanner or another program writes it."""
    pixels = picture(700, 900) if pixels is None else pixels
    height, width = pixels.shape[:2]
    description = APERIO.format(width=width, height=height) if aperio else "plain"
    if aperio and mpp_text is not None:
        description += f"|MPP = {mpp_text}"
    write_slide(path, pyramid(pixels, 3), description, tags_mpp, quality=95)
    return path


def damage_tile(path: Path, offset: int) -> None:
    """Overwrite the beginning of the JPEG stream at ``offset``."""
    data = bytearray(path.read_bytes())
    data[offset : offset + 64] = bytes(64)
    path.write_bytes(bytes(data))


def add_colour_profile(path: Path, profile: bytes) -> None:
    """Put an ICC profile into the slide's first directory, in the place of its last field.

    That field is YCbCrSubSampling (530) with the value that readers take where it is missing (TIFF 6.0, section 21).
    """
    data = bytearray(path.read_bytes())
    (directory,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, directory)
    last = directory + 2 + 12 * (count - 1)
    assert struct.unpack_from("<HHIHH", data, last) == (530, 3, 2, 2, 2)
    struct.pack_into("<HHII", data, last, 34675, 7, len(profile), len(data))
    path.write_bytes(bytes(data) + profile)
