"""Whether every strip or tile of a TIFF holds all of its pixels, checked before a library decodes it.

libtiff reports damage on stderr only and returns whatever it decoded, the rest black. A file whose copy was
interrupted would then be classified on a partly black picture. So each block is checked here first: docs/decoding.md
says how for each compression, and what cannot be noticed.
"""

from __future__ import annotations

import functools
import zlib
from dataclasses import dataclass
from typing import NoReturn

import numpy as np
import numpy.typing as npt

from glomedge.errors import ImageError
from glomedge.imaging.formats import jpeg_scan
from glomedge.imaging.formats.zero_runs import hole_in_strips, hole_in_tiles

NONE, LZW, JPEG, ADOBE_DEFLATE, DEFLATE, PACKBITS = 1, 5, 7, 8, 32946, 32773
#: Compressions that are read; every other one is refused by name.
READABLE = frozenset((NONE, LZW, JPEG, ADOBE_DEFLATE, DEFLATE, PACKBITS))
NAMES = {
    2: "CCITT modified Huffman", 3: "CCITT Group 3 fax", 4: "CCITT Group 4 fax", 6: "old-style JPEG", 9: "JBIG (T.85)",
    10: "JBIG (T.43)", 32766: "NeXT RLE", 32771: "CCITT RLE with word alignment", 32809: "ThunderScan RLE",
    32895: "IT8 raster", 32908: "Pixar film", 32909: "Pixar log", 33003: "JPEG 2000 (Aperio, YCbCr)",
    33004: "lossy JPEG 2000", 33005: "JPEG 2000 (Aperio, RGB)", 33007: "JPEG (alternative code)",
    34661: "JBIG", 34676: "SGI LogLuv", 34677: "SGI LogLuv 24", 34712: "JPEG 2000", 34713: "Nikon NEF",
    34887: "LERC", 34892: "lossy JPEG (DNG)", 34925: "LZMA", 34926: "Zstandard (old code)", 34927: "WebP (old code)",
    34933: "PNG", 34934: "JPEG XR", 50000: "Zstandard", 50001: "WebP", 50002: "JPEG XL", 50013: "Pixtiff",
    52546: "JPEG XL (DNG)", 65000: "Kodak DCR", 65535: "Pentax PEF",
}  # fmt: skip

_AGAIN = "Copy it again from its source."
_REVERSED_BITS = bytes(int(f"{value:08b}"[::-1], 2) for value in range(256))
_CHUNK_BYTES = 1 << 20
# One sector of a disk: nothing smaller gets lost in a copy.
LEAST_HOLE_BYTES = 512
# No writer pads the last tile or strip to more than this many times a picture of the largest size allowed.
_MAX_BLOCK_BYTES = 1 << 31


@dataclass(frozen=True)
class Blocks:
    """Where a TIFF's pixels lie and how many bytes each block must hold once decompressed.

    Attributes:
        compression: code of tag 259, one of ``READABLE``.
        offsets: position of each strip or tile in the file.
        lengths: its stored bytes.
        width_px: of the picture; ``height_px`` likewise.
        block_width_px: of a tile; the picture's width for strips. ``block_height_px``: of a tile, or rows per strip.
        planes: 1, or the number of samples where each has blocks of its own.
        pixel_bits: of one pixel within one plane.
        tiled: tiles are always stored whole, the last strip is not.
        subsampling: horizontal and vertical, of YCbCr that is not JPEG; (1, 1) elsewhere.
        reversed_bits: FillOrder 2.
        jpeg_tables: tag 347, the tables that JPEG blocks share.
        zero_is_black: an all-zero picture holds nothing.
    """

    compression: int
    offsets: tuple[int, ...]
    lengths: tuple[int, ...]
    width_px: int
    height_px: int
    block_width_px: int
    block_height_px: int
    planes: int
    pixel_bits: int
    tiled: bool
    subsampling: tuple[int, int] = (1, 1)
    reversed_bits: bool = False
    jpeg_tables: bytes = b""
    zero_is_black: bool = True

    @property
    def across(self) -> int:
        """Blocks in one row."""
        return -(-self.width_px // self.block_width_px)

    @property
    def down(self) -> int:
        """Rows of blocks in one plane."""
        return -(-self.height_px // self.block_height_px)

    def rows(self, number: int) -> int:
        """Rows of pixels in one block."""
        if self.tiled:
            return self.block_height_px
        top_px = number % self.down * self.block_height_px
        return min(self.block_height_px, self.height_px - top_px)

    def decoded_bytes(self, number: int) -> int:
        """Bytes of one block once decompressed."""
        rows, width_px = self.rows(number), self.block_width_px
        if self.subsampling != (1, 1):
            across, down = self.subsampling
            return -(-width_px // across) * -(-rows // down) * (across * down + 2)
        return -(-width_px * self.pixel_bits // 8) * rows


def check(data: bytes, blocks: Blocks) -> None:
    """Refuse a file of which a strip or tile does not hold all of its pixels. Call after the size limits.

    Raises:
        ImageError: ``corrupt``.
    """
    wanted = blocks.across * blocks.down * blocks.planes
    if wanted > len(blocks.offsets):
        _damaged(blocks, f"the TIFF lists {len(blocks.offsets)} of its {wanted}")
    if blocks.decoded_bytes(0) > _MAX_BLOCK_BYTES:
        _damaged(blocks, "one is declared larger than any picture")
    complete = _COMPLETE[blocks.compression]
    for number in range(wanted):
        at, length = blocks.offsets[number], blocks.lengths[number]
        block = data[at : at + length]
        if blocks.reversed_bits and blocks.compression in (LZW, ADOBE_DEFLATE, DEFLATE, PACKBITS):
            block = block.translate(_REVERSED_BITS)
        if not block or not complete(block, blocks.decoded_bytes(number), blocks):
            _damaged(blocks, f"number {number + 1} of {wanted} is damaged or incomplete")
    if blocks.compression == NONE:
        _check_stored(data, blocks, wanted)


def _damaged(blocks: Blocks, what: str) -> NoReturn:
    raise ImageError("corrupt", f"The TIFF's {'tiles' if blocks.tiled else 'strips'} are damaged: {what}. {_AGAIN}")


def _check_stored(data: bytes, blocks: Blocks, wanted: int) -> None:
    """Uncompressed pixels have no structure that could break; what is left is the shape of a hole."""
    parts = [data[at : at + blocks.decoded_bytes(number)] for number, at in enumerate(blocks.offsets[:wanted])]
    # Nearly every file ends here.
    run = bytes(max(1, min(LEAST_HOLE_BYTES, blocks.block_width_px * blocks.pixel_bits // 8)))
    if not any(run in part for part in parts):
        return
    stored = [np.frombuffer(part, np.uint8) for part in parts]
    if not any(block.any() for block in stored):
        if blocks.zero_is_black:
            _damaged(blocks, "all of their bytes are zero")
        return
    if blocks.pixel_bits % 8 or blocks.subsampling != (1, 1):
        return
    per_plane = blocks.across * blocks.down
    for plane in range(blocks.planes):
        part = stored[plane * per_plane : (plane + 1) * per_plane]
        zero = [_zero_pixels(block, blocks) for block in part]
        least_px = max(1, LEAST_HOLE_BYTES * 8 // blocks.pixel_bits)
        hole = (
            hole_in_tiles(zero, blocks.across, (blocks.width_px, blocks.height_px), least_px)
            if blocks.tiled
            else hole_in_strips(zero, least_px)
        )
        # A plane that is zero throughout, among planes that are not, was never written.
        if hole or (blocks.planes > 1 and plane > 0 and all(block.all() for block in zero)):
            _damaged(
                blocks,
                "a stretch of them is zero, as after an interrupted copy (a black area that is meant: save as PNG)",
            )


def _zero_pixels(block: npt.NDArray[np.uint8], blocks: Blocks) -> npt.NDArray[np.bool_]:
    """[rows, width]: whether all bytes of a pixel are zero."""
    pixels = block.reshape(-1, blocks.block_width_px, blocks.pixel_bits // 8)
    zero: npt.NDArray[np.bool_] = np.logical_not(pixels.any(axis=2))
    return zero


def _stored_whole(block: bytes, decoded_bytes: int, _: Blocks) -> bool:
    return len(block) >= decoded_bytes


def _inflates(block: bytes, decoded_bytes: int, _: Blocks) -> bool:
    """A zlib stream of at least that many bytes, up to its end and with the right Adler-32."""
    stream = zlib.decompressobj()
    count, rest = 0, block
    try:
        while not stream.eof:
            part = stream.decompress(rest, _CHUNK_BYTES)
            rest = stream.unconsumed_tail
            count += len(part)
            if (not part and not rest and not stream.eof) or count > _MAX_BLOCK_BYTES:
                return False
    except zlib.error:
        return False
    return count >= decoded_bytes


def _unpacks(block: bytes, decoded_bytes: int, _: Blocks) -> bool:
    """PackBits (TIFF 6.0, section 9) of exactly that many bytes, but for a pad byte."""
    at, count, size = 0, 0, len(block)
    while count < decoded_bytes and at < size:
        head = block[at]
        if head < 128:
            at += 2 + head
            count += 1 + head
        elif head > 128:
            at += 2
            count += 257 - head
        else:
            at += 1
    return count == decoded_bytes and size - 1 <= at <= size


# TIFF 6.0, section 13. A code is as wide as the largest number it could have, and one code earlier than needed.
_CLEAR, _END, _FIRST = 256, 257, 258
# libtiff's table ends here; a writer starts it anew at 4,094.
_MAX_CODES = 5119 - _FIRST


@functools.cache
def _code_positions() -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Of each code since the last Clear: bits before it, bits up to its end, and the mask of its width."""
    index = np.arange(_MAX_CODES)
    widths = np.select([index < 254, index < 766, index < 1790], [9, 10, 11], 12)
    ends = np.cumsum(widths)
    return (ends - widths).astype(np.int32), ends.astype(np.int32), ((1 << widths) - 1).astype(np.int32)


def lzw_decoded_bytes(block: bytes) -> int | None:
    """Bytes that an LZW stream decodes to; None when a code cannot stand where it does.

    Only the lengths are followed: entry 258 + k is string k and one byte, so a code's length is its depth in a
    forest, found for a whole table at once by pointer jumping.
    """
    starts, ends, masks = _code_positions()
    padded = np.frombuffer(block + b"\0\0\0", np.uint8).astype(np.int32)
    windows = padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]
    total_bits, begin_bit, count = 8 * len(block), 0, 0
    if total_bits < 9 or int(windows[0]) >> 15 != _CLEAR:
        return None
    while True:
        room = int(np.searchsorted(ends, total_bits - begin_bit, side="right"))
        first_byte, phase = divmod(begin_bit, 8)
        bits = starts[:room] + phase
        ends_in_window = ends[:room] + phase - (bits & ~7)
        codes = windows[first_byte + (bits >> 3)] >> (24 - ends_in_window) & masks[:room]
        # Clear (256) and End (257) differ in the lowest bit alone.
        stops = codes & ~1 == _CLEAR
        end = int(stops.argmax()) if room else 0
        stopped = bool(room and stops[end])
        if not stopped and room == _MAX_CODES:
            return None
        lengths = _string_lengths(codes[: end if stopped else room])
        if lengths is None:
            return None
        count += int(lengths.sum())
        if not stopped or codes[end] == _END:
            return count
        begin_bit += int(ends[end])


def _string_lengths(codes: npt.NDArray[np.int32]) -> npt.NDArray[np.int32] | None:
    index = np.arange(len(codes), dtype=np.int32)
    refers = codes >= _FIRST
    parents = np.where(refers, codes - _FIRST, index)
    depth = refers.astype(np.int32)
    # The newest entry a code may name is the one that it completes itself.
    if int(np.count_nonzero(parents == index)) != len(codes) - int(depth.sum()) or bool((parents > index).any()):
        return None
    while True:
        more = depth[parents]
        if not more.any():
            return depth + 1
        depth += more
        parents = parents[parents]


def _lzw_whole(block: bytes, decoded_bytes: int, blocks: Blocks) -> bool:
    # Some writers fill the last strip up.
    return lzw_decoded_bytes(block) in (decoded_bytes, blocks.decoded_bytes(0))


def _jpeg_whole(block: bytes, _: int, blocks: Blocks) -> bool:
    return jpeg_scan.ends(block) and jpeg_scan.complete(block, blocks.jpeg_tables) is not False


_COMPLETE = {
    NONE: _stored_whole,
    LZW: _lzw_whole,
    JPEG: _jpeg_whole,
    ADOBE_DEFLATE: _inflates,
    DEFLATE: _inflates,
    PACKBITS: _unpacks,
}
