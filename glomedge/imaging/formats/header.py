"""What the header of an image tells, common to all formats."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from glomedge.errors import ImageError

if TYPE_CHECKING:
    from glomedge.imaging.formats.tiff_blocks import Blocks

Format = Literal["png", "jpeg", "tiff", "bmp", "webp"]
Colour = Literal["gray", "palette", "rgb"]
#: ``part(position, count)``: up to ``count`` bytes from a position on.
Part = Callable[[int, int], bytes]
Alpha = Literal["none", "straight", "premultiplied", "ignored"]


@dataclass(frozen=True)
class Header:
    """One image's properties, as its file declares them.

    ``width_px``/``height_px`` are as stored, before ``orientation`` (1 to 8, EXIF) is applied. ``bits`` is per
    sample as stored, ``significant_bits`` what the file declares to be used of them (PNG ``sBIT``). ``blocks`` says
    where a TIFF's pixels lie. ``first_of_several``: reduced copies of the picture follow in the file.
    """

    format: Format
    width_px: int
    height_px: int
    bits: int = 8
    colour: Colour = "rgb"
    alpha: Alpha = "none"
    orientation: int = 1
    significant_bits: int | None = None
    transparent_gray: int | None = None
    inverted: bool = False
    decoder: Literal["opencv", "pillow", "fast"] = "opencv"
    blocks: Blocks | None = None
    first_of_several: bool = False


def truncated(what: str) -> ImageError:
    """The error of a file that ends too early."""
    return ImageError("truncated", f"The file ends before {what}. Copy it again from its source.")
