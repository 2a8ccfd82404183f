"""The chunks of a PNG, walked without decoding (W3C REC-png-3).

Every chunk's CRC is checked except those of IDAT: the decoders check these themselves (docs/decoding.md; a test
verifies it), and they are nearly all of the file.
"""

from __future__ import annotations

import struct
import zlib

from glomedge.errors import ImageError
from glomedge.imaging.formats.header import Colour, Header, Part, truncated
from glomedge.imaging.formats.tiff import exif_orientation

# Chunks that change no pixel in any of the decoders; the fast decoder is used only when a file has no others.
_HARMLESS = frozenset(
    (b"tEXt", b"zTXt", b"iTXt", b"tIME", b"pHYs", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"bKGD", b"sBIT", b"eXIf")
)
_COLOUR: dict[int, Colour] = {0: "gray", 2: "rgb", 3: "palette", 4: "gray", 6: "rgb"}
_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}


def _corrupt(what: str) -> ImageError:
    return ImageError("corrupt", f"The PNG is damaged ({what}). Copy it again from its source.")


def read(data: bytes) -> Header:
    """The header of a PNG.

    Raises:
        ImageError: ``truncated`` when it ends before IEND, ``corrupt`` when a chunk's CRC or order is wrong,
            ``multiframe`` for APNG.
    """
    at, size = 8, len(data)
    extra: dict[bytes, bytes] = {}
    names: set[bytes] = set()
    last_idat = (0, 0)
    while True:
        if at + 12 > size:
            raise truncated("the PNG's end mark")
        length = int.from_bytes(data[at : at + 4], "big")
        kind = data[at + 4 : at + 8]
        if not kind.isalpha() or length > 0x7FFFFFFF or (at == 8 and kind != b"IHDR"):
            raise _corrupt("its chunks are out of order")
        end = at + 12 + length
        if end > size:
            raise truncated("the PNG's end mark")
        if kind == b"IDAT":
            last_idat = (at, end)
        elif not _sound(data, at, end):
            raise _corrupt(f"checksum of chunk {kind.decode('ascii')}")
        elif kind in (b"IHDR", b"sBIT", b"tRNS", b"eXIf", b"acTL"):
            extra.setdefault(kind, data[at + 8 : end - 4])
        names.add(kind)
        at = end
        if kind == b"IEND":
            break
    if last_idat == (0, 0):
        raise _corrupt("no pixel data")
    # A decoder may stop reading after the last pixel, before the checksum of the chunk that holds it.
    if not _sound(data, *last_idat):
        raise _corrupt("checksum of chunk IDAT")
    return _header(extra, names)


def declared_size(part: Part) -> tuple[int, int] | None:
    """Width and height from IHDR, the first chunk."""
    start = part(12, 12)
    return struct.unpack(">II", start[4:]) if len(start) == 12 and start.startswith(b"IHDR") else None


def _sound(data: bytes, at: int, end: int) -> bool:
    return zlib.crc32(memoryview(data)[at + 4 : end - 4]) == int.from_bytes(data[end - 4 : end], "big")


def _header(extra: dict[bytes, bytes], names: set[bytes]) -> Header:
    ihdr = extra[b"IHDR"]
    if len(ihdr) != 13:
        raise _corrupt("chunk IHDR")
    width_px, height_px, bits, kind, compression, filtering, interlace = struct.unpack(">IIBBBBB", ihdr)
    if bits not in _DEPTHS.get(kind, ()) or compression or filtering or interlace > 1:
        raise _corrupt("chunk IHDR")
    frames = extra.get(b"acTL", b"")
    if len(frames) == 8 and int.from_bytes(frames[:4], "big") > 1:
        raise ImageError("multiframe", "The PNG is animated. Save one image as a separate file.")
    transparency = extra.get(b"tRNS")
    # sBIT gives one number per channel; the samples of a gray or RGB image all have the same depth.
    significant = max(extra.get(b"sBIT", b"")[: 3 if kind in (2, 6) else 1], default=0)
    plain = bits == 8 and kind in (2, 6) and not interlace and names <= _HARMLESS | {b"IHDR", b"IDAT", b"IEND"}
    return Header(
        "png",
        width_px,
        height_px,
        bits=bits,
        colour=_COLOUR[kind],
        alpha="straight" if kind in (4, 6) or transparency is not None else "none",
        orientation=exif_orientation(extra[b"eXIf"]) if b"eXIf" in extra else 1,
        significant_bits=significant if bits == 16 and 8 <= significant < 16 else None,
        transparent_gray=int.from_bytes(transparency, "big") if kind == 0 and transparency is not None else None,
        decoder="fast" if plain else "opencv",
    )
