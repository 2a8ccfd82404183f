"""What an image file declares, read without decoding a pixel.

The header gives everything that must be known before memory is allocated: the real format, the size, the kind of
colour, the number of pictures, and the orientation. One module per format; all return ``header.Header``.
"""

from __future__ import annotations

from glomedge.errors import ImageError
from glomedge.imaging.formats import bmp, jpeg, jpeg_scan, png, tiff, tiff_blocks, webp
from glomedge.imaging.formats.header import Format, Header, Part

_SIZES = {
    "png": png.declared_size,
    "jpeg": jpeg.declared_size,
    "tiff": tiff.declared_size,
    "bmp": bmp.declared_size,
    "webp": webp.declared_size,
}
_READERS = {"png": png.read, "jpeg": jpeg.read, "tiff": tiff.read, "bmp": bmp.read, "webp": webp.read}


def sniff(data: bytes) -> Format:
    """The format by its first bytes. Raises ImageError ``format`` for everything else."""
    if data.startswith(b"\x89PNG\r\n\x1a\n"):
        return "png"
    if data.startswith(b"\xff\xd8\xff"):
        return "jpeg"
    if data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
        return "tiff"
    if data.startswith(b"BM") and len(data) >= 14 and data[6:10] == b"\0\0\0\0":
        return "bmp"
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return "webp"
    if not data:
        raise ImageError("format", "The file is empty. Copy it again from its source.")
    if any(magic.startswith(data) for magic in (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\0", b"MM\0*", b"BM")) or (
        data.startswith(b"RIFF") and len(data) < 12
    ):
        raise ImageError("truncated", "The file ends within its first bytes. Copy it again from its source.")
    raise ImageError("format", "This is not a PNG, JPEG, TIFF, BMP or WebP file. Save the crop as PNG.")


def read_header(data: bytes) -> Header:
    """Read the header of a file's bytes.

    Raises:
        ImageError: ``format``, ``truncated``, ``corrupt``, ``colourspace`` or ``multiframe``.
    """
    return _READERS[sniff(data)](data)


def check_pixel_data(data: bytes, header: Header) -> None:
    """Refuse compressed pixels that a decoder would fill in without an error. Call after the size limits.

    Raises:
        ImageError: ``corrupt``.
    """
    if header.blocks is not None:
        tiff_blocks.check(data, header.blocks)
    elif header.format == "jpeg" and jpeg_scan.may_have_hole(data) and jpeg_scan.complete(data) is False:
        raise ImageError(
            "corrupt", "The JPEG is damaged: a part of its pixels is missing or zero. Copy it again from its source."
        )


def declared_size(part: Part) -> tuple[int, int] | None:
    """Width and height, for refusing a large file before it is read; None where only ``read_header`` can tell.

    Does not check that the file is valid.
    """
    try:
        return _SIZES[sniff(part(0, 16))](part)
    except ImageError:
        return None
