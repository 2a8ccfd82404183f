"""The first directory of a TIFF, walked without decoding, and the orientation tag of EXIF (which is a TIFF too).

TIFF 6.0 and BigTIFF. Only kinds that tests/imaging/test_images_tiff.py proves to be decoded correctly are accepted.
``_decoder_for`` chooses the library, since each gets some kinds wrong (docs/decoding.md).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

from glomedge.errors import ImageError
from glomedge.imaging.formats import tiff_blocks
from glomedge.imaging.formats.header import Alpha, Colour, Header, Part, truncated

_TYPE_BYTES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
_INTEGER_CODES = {1: "B", 3: "H", 4: "I", 13: "I", 16: "Q", 18: "Q"}
_MAX_ENTRIES = 4096
_SAVE_AS_PNG = "Save the crop as 8-bit RGB PNG."
_COLOUR: dict[int, Colour] = {0: "gray", 1: "gray", 2: "rgb", 3: "palette", 6: "rgb"}


class _BrokenError(Exception):
    """An offset or a count points beyond the end of the data."""


@dataclass(frozen=True)
class _Reader:
    """Fields of a TIFF structure of either byte order and either width of offsets."""

    data: bytes
    order: Literal["<", ">"]
    big: bool

    @staticmethod
    def over(data: bytes) -> _Reader:
        if data[:4] not in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            raise _BrokenError
        return _Reader(data, "<" if data[:2] == b"II" else ">", b"+" in data[2:4])

    def number(self, at: int, code: str) -> int:
        if at + struct.calcsize(code) > len(self.data):
            raise _BrokenError
        return int(struct.unpack_from(self.order + code, self.data, at)[0])

    @property
    def offset_code(self) -> str:
        return "Q" if self.big else "I"

    def first_directory(self) -> int:
        return self.number(8 if self.big else 4, self.offset_code)

    def entries(self, directory: int) -> Iterator[tuple[int, int, int, int]]:
        """(tag, type, count, position of the value) of one directory."""
        count = self.number(directory, "Q" if self.big else "H")
        if count > _MAX_ENTRIES:
            raise _BrokenError
        at, width, inline = (directory + 8, 20, 8) if self.big else (directory + 2, 12, 4)
        for position in range(at, at + count * width, width):
            tag, kind = self.number(position, "H"), self.number(position + 2, "H")
            values = self.number(position + 4, self.offset_code)
            value_at = position + width - inline
            if _TYPE_BYTES.get(kind, 1) * values > inline:
                value_at = self.number(value_at, self.offset_code)
            yield tag, kind, values, value_at

    def next_directory(self, directory: int) -> int:
        count = self.number(directory, "Q" if self.big else "H")
        return self.number(directory + (8 + count * 20 if self.big else 2 + count * 12), self.offset_code)

    def integers(self, kind: int, count: int, at: int) -> tuple[int, ...]:
        code = _INTEGER_CODES.get(kind)
        if code is None or at + count * _TYPE_BYTES[kind] > len(self.data):
            raise _BrokenError
        return struct.unpack_from(f"{self.order}{count}{code}", self.data, at)


def exif_orientation(block: bytes) -> int:
    """The orientation, 1 to 8, in an EXIF block (with or without its ``Exif\\0\\0`` prefix); 1 when it says none.

    Broken metadata is no reason to refuse a picture: it counts as 1.
    """
    try:
        reader = _Reader.over(block.removeprefix(b"Exif\0\0"))
        for tag, kind, count, at in reader.entries(reader.first_directory()):
            if tag == 274 and kind == 3 and count == 1:
                value = reader.number(at, "H")
                return value if 1 <= value <= 8 else 1
    except _BrokenError:
        return 1
    return 1


def multi_picture_entries(block: bytes) -> list[tuple[int, int]]:
    """(bytes, offset from the block) of every picture that the index of a multi-picture JPEG names, the first included.

    CIPA DC-007: the index is a TIFF structure with a table of 16 bytes a picture. Empty where it is broken.
    """
    try:
        reader = _Reader.over(block)
        for tag, _, count, at in reader.entries(reader.first_directory()):
            if tag == 0xB002 and at + count <= len(block):
                return [
                    (reader.number(start + 4, "I"), reader.number(start + 8, "I"))
                    for start in range(at, at + count // 16 * 16, 16)
                ]
    except _BrokenError:
        pass
    return []


def read(data: bytes) -> Header:
    """The header of a TIFF: of its first page, where the other pages are reduced copies of it.

    Raises:
        ImageError: ``truncated`` when a directory, a value or a strip lies beyond the end, ``multiframe``,
            ``colourspace`` for CMYK, Lab and the like, ``format`` for a kind of TIFF that is not read here,
            ``corrupt`` when the directory does not say where the pixels lie.
    """
    try:
        reader = _Reader.over(data)
        directory = reader.first_directory()
        tags = _tags(reader, directory, _WANTED)
        jpeg_tables = next(
            (data[at : at + count] for tag, _, count, at in reader.entries(directory) if tag == _JPEG_TABLES), b""
        )
        sizes = _sizes_of_pages(reader, directory)
    except _BrokenError:
        raise truncated("the parts its directory names (or the directory is damaged)") from None
    if not is_pyramid(sizes):
        raise ImageError("multiframe", "The TIFF has several pages. Save one page by itself.")
    _check_extent(tags, len(data))
    header = _header(tags, big_endian_big=reader.big and reader.order == ">")
    return replace(header, blocks=_blocks(tags, header, jpeg_tables), first_of_several=len(sizes) > 1)


def _tags(reader: _Reader, directory: int, wanted: frozenset[int]) -> dict[int, tuple[int, ...]]:
    tags: dict[int, tuple[int, ...]] = {}
    for tag, kind, count, at in reader.entries(directory):
        if at + _TYPE_BYTES.get(kind, 1) * count > len(reader.data):
            raise _BrokenError
        if tag in wanted:
            tags[tag] = reader.integers(kind, count, at)
    return tags


def _sizes_of_pages(reader: _Reader, directory: int) -> list[tuple[int, int]]:
    """(width, height) of every page in file order; (0, 0) where a page does not state it."""
    sizes: list[tuple[int, int]] = []
    seen: set[int] = set()
    while directory and len(sizes) < _MAX_PAGES:
        if directory in seen:
            raise _BrokenError
        seen.add(directory)
        tags = _tags(reader, directory, frozenset((256, 257)))
        sizes.append((_one(tags, 256, 0), _one(tags, 257, 0)))
        directory = reader.next_directory(directory)
    return sizes


def is_pyramid(sizes: list[tuple[int, int]]) -> bool:
    """Whether all pictures but the first are smaller ones of the same shape, to a pixel of rounding."""
    width_px, height_px = sizes[0]
    return all(
        0 < width < width_px
        and 0 < height < height_px
        and abs(width * height_px - height * width_px) <= max(width_px, height_px)
        for width, height in sizes[1:]
    )


def declared_size(part: Part) -> tuple[int, int] | None:
    """Width and height by the first directory, wherever it lies."""
    try:
        reader = _Reader.over(part(0, 16))
        # Only the directory is at hand: values stored elsewhere cannot be read, but a size fits into its entry.
        directory = replace(reader, data=part(reader.first_directory(), 8 + 20 * _MAX_ENTRIES))
        sizes = {
            tag: directory.integers(kind, count, at)[0]
            for tag, kind, count, at in directory.entries(0)
            if tag in (256, 257) and count == 1
        }
    except _BrokenError:
        return None
    return (sizes[256], sizes[257]) if len(sizes) == 2 else None


_WANTED = frozenset(
    (256, 257, 258, 259, 262, 266, 273, 274, 277, 278, 279, 284, 317, 322, 323, 324, 325, 338, 339, 530)
)
_JPEG_TABLES = 347
# A pyramid halves from page to page; a file with more pages than this is something else.
_MAX_PAGES = 64


def _one(tags: dict[int, tuple[int, ...]], tag: int, default: int) -> int:
    values = tags.get(tag, ())
    return values[0] if values else default


def _check_extent(tags: dict[int, tuple[int, ...]], size: int) -> None:
    """Every strip or tile must lie within the file."""
    offsets = tags.get(324) or tags.get(273) or ()
    lengths = tags.get(325) or tags.get(279) or ()
    if not offsets or len(offsets) != len(lengths):
        raise ImageError("corrupt", f"The TIFF does not say where its pixels lie. {_SAVE_AS_PNG}")
    if any(at + length > size for at, length in zip(offsets, lengths, strict=True)):
        raise truncated("its pixels do")


def _blocks(tags: dict[int, tuple[int, ...]], header: Header, jpeg_tables: bytes) -> tiff_blocks.Blocks:
    """How the pixels are stored.

    Raises:
        ImageError: ``corrupt``.
    """
    tiled = 322 in tags
    compression, photometric, channels = _one(tags, 259, 1), _one(tags, 262, -1), _one(tags, 277, 1)
    planes = channels if _one(tags, 284, 1) == 2 else 1
    block_width_px = _one(tags, 322, 0) if tiled else header.width_px
    block_height_px = _one(tags, 323, 0) if tiled else min(_one(tags, 278, header.height_px), header.height_px)
    if min(block_width_px, block_height_px) < 1:
        raise ImageError("corrupt", f"The TIFF does not say where its pixels lie. {_SAVE_AS_PNG}")
    halved = tags.get(530, (2, 2))
    subsampled = photometric == 6 and compression != tiff_blocks.JPEG and planes == 1 and len(halved) == 2
    if subsampled and not set(halved) <= {1, 2, 4}:
        raise ImageError("corrupt", f"The TIFF's colours are stored in a way that no writer uses. {_SAVE_AS_PNG}")
    return tiff_blocks.Blocks(
        compression,
        tags.get(324) or tags[273],
        tags.get(325) or tags[279],
        header.width_px,
        header.height_px,
        block_width_px,
        block_height_px,
        planes,
        header.bits * (channels // planes),
        tiled,
        subsampling=(halved[0], halved[1]) if subsampled else (1, 1),
        reversed_bits=_one(tags, 266, 1) == 2,
        jpeg_tables=jpeg_tables,
        zero_is_black=photometric in (1, 2),
    )


def _check_compression(compression: int, predictor: int) -> None:
    if compression == tiff_blocks.PACKBITS and predictor != 1:
        # libtiff leaves the differences as they are.
        raise ImageError("format", f"The TIFF's compression (PackBits with a predictor) is not read. {_SAVE_AS_PNG}")
    if compression in tiff_blocks.READABLE:
        return
    name = tiff_blocks.NAMES.get(compression)
    known = f"{name}, code {compression}" if name else f"code {compression}"
    raise ImageError("format", f"The TIFF's compression ({known}) is not read. {_SAVE_AS_PNG}")


def _header(tags: dict[int, tuple[int, ...]], *, big_endian_big: bool) -> Header:
    # Before the colours: some compressions have colour codes of their own, and an error about those would say less.
    _check_compression(_one(tags, 259, 1), _one(tags, 317, 1))
    photometric = _one(tags, 262, -1)
    colour = _COLOUR.get(photometric)
    if colour is None:
        raise ImageError("colourspace", "The TIFF is not gray, palette or RGB (CMYK or Lab?). Convert it to RGB.")
    depths = tags.get(258, (1,))
    bits = depths[0] if depths else 1
    channels = _one(tags, 277, 1)
    extras = channels - (3 if colour == "rgb" else 1)
    alpha = _alpha(extras, tags.get(338), colour)
    if len(set(depths)) > 1 or set(tags.get(339, (1,))) != {1} or alpha is None or extras < 0:
        raise ImageError("format", f"The TIFF's samples are of a kind that is not read here. {_SAVE_AS_PNG}")
    planar = _one(tags, 284, 1) == 2 and channels > 1
    raw_tiles = 322 in tags and _one(tags, 259, 1) == 1
    decoder = _decoder_for(photometric, bits, alpha, planar=planar, raw_tiles=raw_tiles, channels=channels)
    if decoder is None or (decoder == "pillow" and big_endian_big):
        raise ImageError("format", f"A TIFF with {bits}-bit samples laid out like this is not read. {_SAVE_AS_PNG}")
    orientation = _one(tags, 274, 1)
    return Header(
        "tiff",
        _one(tags, 256, 0),
        _one(tags, 257, 0),
        bits=bits,
        colour=colour,
        alpha=alpha,
        orientation=orientation if 1 <= orientation <= 8 else 1,
        inverted=photometric == 0 and bits > 8,
        decoder=decoder,
    )


def _alpha(extras: int, kinds: tuple[int, ...] | None, colour: Colour) -> Alpha | None:
    """What the sample after the colours means (tag ExtraSamples); None when it is not understood."""
    if extras <= 0:
        return "none"
    if extras > 1 or colour == "palette":
        return None
    if kinds is None:
        return "straight"  # most writers who leave the tag out mean this, Pillow reads it so; opaque either way
    match kinds:
        case (0,):
            return "ignored"
        case (1,):
            return "premultiplied"
        case (2,):
            return "straight"
    return None


def _decoder_for(
    photometric: int, bits: int, alpha: Alpha, *, planar: bool, raw_tiles: bool, channels: int
) -> Literal["opencv", "pillow"] | None:
    """The library whose pixels are right for this kind; None when neither's are.

    OpenCV 5 multiplies straight 8-bit alpha in, drops gray's alpha, leaves 16-bit planes in disorder, swaps 1-bit
    palettes and does not read tiled planes, uncompressed 8-bit tiles, 2- or 4-bit gray; Pillow 13 cannot keep 16
    bits of RGB and knows no 12-bit RGB.
    """
    if bits == 8 and alpha == "premultiplied":
        return "opencv" if channels == 4 and not planar and not raw_tiles else None
    if bits == 8 and (planar or raw_tiles or alpha != "none"):
        return "pillow" if photometric != 6 else None
    if bits == 8 or (not raw_tiles and (photometric, bits) in ((0, 1), (1, 1), (3, 4))):
        return "opencv"
    if bits in (1, 2, 4) and photometric in (0, 1, 3) and alpha == "none":
        return "pillow"
    if bits == 16 and not planar and photometric in (0, 1, 2) and (alpha == "none" or channels == 4):
        return "opencv"
    if bits in (10, 12, 14) and not planar and photometric in (1, 2) and alpha == "none":
        return "opencv"
    return None
