"""Image files written byte by byte, so that tests do not check a codec against itself."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np
import numpy.typing as npt
from PIL import Image

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
ADAM7 = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
CHANNELS_OF = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


def chunk(kind: bytes, data: bytes) -> bytes:
    """One PNG chunk with its right CRC."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _scanlines(samples: npt.NDArray[np.integer], depth: int) -> bytes:
    """Filter type 0 in front of each packed row of samples [H, W, C]."""
    rows = samples.reshape(samples.shape[0], -1)
    if rows.size == 0:
        return b""
    if depth == 16:
        packed = [row.astype(">u2").tobytes() for row in rows]
    elif depth == 8:
        packed = [row.astype(np.uint8).tobytes() for row in rows]
    else:
        shifts = np.arange(depth - 1, -1, -1)
        packed = [np.packbits(((row[:, None] >> shifts) & 1).astype(np.uint8)).tobytes() for row in rows]
    return b"".join(b"\0" + row for row in packed)


def png(
    samples: npt.NDArray[np.integer],
    *,
    depth: int = 8,
    colour_type: int = 2,
    interlaced: bool = False,
    before: Sequence[tuple[bytes, bytes]] = (),
    after: Sequence[tuple[bytes, bytes]] = (),
    idat_bytes: int = 1 << 30,
) -> bytes:
    """A PNG of raw samples [H, W, C]; ``before``/``after`` are chunks on either side of the pixel data."""
    samples = samples.reshape(samples.shape[0], samples.shape[1], CHANNELS_OF[colour_type])
    height_px, width_px = samples.shape[:2]
    if interlaced:
        raw = b"".join(_scanlines(samples[y::dy, x::dx], depth) for x, y, dx, dy in ADAM7)
    else:
        raw = _scanlines(samples, depth)
    stream = zlib.compress(raw, 6)
    header = struct.pack(">IIBBBBB", width_px, height_px, depth, colour_type, 0, 0, int(interlaced))
    parts = [PNG_SIGNATURE, chunk(b"IHDR", header)]
    parts += [chunk(kind, data) for kind, data in before]
    parts += [chunk(b"IDAT", stream[at : at + idat_bytes]) for at in range(0, len(stream), idat_bytes)]
    parts += [chunk(kind, data) for kind, data in after]
    return b"".join([*parts, chunk(b"IEND", b"")])


def exif(orientation: int, *, little_endian: bool = True) -> bytes:
    """A TIFF structure that holds one tag: Orientation."""
    order = "<" if little_endian else ">"
    head = struct.pack(order + "2sHI", b"II" if little_endian else b"MM", 42, 8)
    return head + struct.pack(order + "HHHIHHI", 1, 274, 3, 1, orientation, 0, 0)


def lzw(raw: bytes) -> bytes:
    """LZW as TIFF has it (TIFF 6.0, section 13): codes of 9 to 12 bits, most significant bit first."""
    bits: list[str] = []
    table: dict[bytes, int] = {}

    def emit(code: int) -> None:
        width = max(9, (len(table) + 258).bit_length()) if len(table) < 3838 else 12
        bits.append(f"{code:0{width}b}")

    emit(256)
    held = b""
    for value in raw:
        longer = held + bytes([value])
        if len(longer) == 1 or longer in table:
            held = longer
            continue
        emit(held[0] if len(held) == 1 else table[held])
        table[longer] = 258 + len(table)
        if len(table) == 4093 - 258:
            emit(256)
            table.clear()
        held = longer[-1:]
    if held:
        emit(held[0] if len(held) == 1 else table[held])
        table[raw + b"end"] = -1  # the decoder's table has grown by one before it reads the next code
    emit(257)
    stream = "".join(bits)
    return int(stream.ljust(-(-len(stream) // 8) * 8, "0"), 2).to_bytes(-(-len(stream) // 8), "big")


def packbits(raw: bytes) -> bytes:
    """PackBits of literal runs, and of one repeat where the data begin with one."""
    same = len(raw) - len(raw.lstrip(raw[:1]))
    head, rest = (bytes([257 - min(same, 128)]) + raw[:1], raw[min(same, 128) :]) if same > 1 else (b"", raw)
    return head + b"".join(
        bytes([len(rest[at : at + 128]) - 1]) + rest[at : at + 128] for at in range(0, len(rest), 128)
    )


COMPRESS: dict[int, Callable[[bytes], bytes]] = {
    5: lzw, 8: zlib.compress, 32773: packbits, 32946: zlib.compress,
}  # fmt: skip
TYPE_CODE = {3: "H", 4: "I", 16: "Q"}


def tiff(
    samples: npt.NDArray[np.integer],
    *,
    photometric: int = 2,
    bits: int = 8,
    little_endian: bool = True,
    big: bool = False,
    orientation: int | None = None,
    rows_per_strip: int | None = None,
    planar: bool = False,
    compression: int = 1,
    extra_samples: Sequence[int] = (),
    colour_map: npt.NDArray[np.integer] | None = None,
    tile_px: int | None = None,
    pages: int = 1,
    sample_format: int | None = None,
    ifd_first: bool = False,
    predictor: int | None = None,
    page_sizes: Sequence[tuple[int, int]] = (),
) -> bytes:
    """A (Big)TIFF of samples [H, W, C]: strips or square tiles, compressed as ``COMPRESS`` says, else as they are.

    ``page_sizes``: (width, height) that further pages declare, over the same pixel data.
    """
    order = "<" if little_endian else ">"
    samples = samples.reshape(*samples.shape[:2], -1)
    height_px, width_px, channels = samples.shape

    def packed(block: npt.NDArray[np.integer]) -> bytes:
        if block.dtype.kind == "f":
            raw = block.astype(order + f"f{bits // 8}").tobytes()
        elif bits in (8, 16, 32):
            raw = block.astype(order + f"u{bits // 8}").tobytes()
        else:
            shifts = np.arange(bits - 1, -1, -1)
            rows = block.reshape(block.shape[0], -1)
            raw = b"".join(np.packbits(((row[:, None] >> shifts) & 1).astype(np.uint8)).tobytes() for row in rows)
        return COMPRESS.get(compression, bytes)(raw)

    def blocks() -> Iterable[bytes]:
        planes = [samples[..., c : c + 1] for c in range(channels)] if planar else [samples]
        for plane in planes:
            if tile_px:
                for y in range(0, height_px, tile_px):
                    for x in range(0, width_px, tile_px):
                        part = plane[y : y + tile_px, x : x + tile_px]
                        tile = np.zeros((tile_px, tile_px, plane.shape[2]), plane.dtype)
                        tile[: part.shape[0], : part.shape[1]] = part
                        yield packed(tile)
            else:
                step = rows_per_strip or height_px
                for y in range(0, height_px, step):
                    yield packed(plane[y : y + step])

    data = list(blocks())
    entries: list[tuple[int, int, list[int]]] = [
        (256, 4, [width_px]),
        (257, 4, [height_px]),
        (258, 3, [bits] * channels),
        (259, 3, [compression]),
        (262, 3, [photometric]),
        (277, 3, [channels]),
        (284, 3, [2 if planar else 1]),
    ]
    if orientation is not None:
        entries.append((274, 3, [orientation]))
    if tile_px:
        entries += [(322, 4, [tile_px]), (323, 4, [tile_px]), (325, 4, [len(d) for d in data])]
    else:
        entries += [(278, 4, [rows_per_strip or height_px]), (279, 4, [len(d) for d in data])]
    if extra_samples:
        entries.append((338, 3, list(extra_samples)))
    if colour_map is not None:
        entries.append((320, 3, [int(v) for v in colour_map.reshape(-1)]))
    if predictor is not None:
        entries.append((317, 3, [predictor]))
    if sample_format is not None:
        entries.append((339, 3, [sample_format] * channels))
    offsets_tag = 324 if tile_px else 273
    head_bytes = 16 if big else 8
    body = bytearray()
    data_at: list[int] = []

    def lay_data() -> None:
        for part in data:
            data_at.append(head_bytes + len(body))
            body.extend(part)
        if len(body) % 2:
            body.append(0)

    inline, word = (8, "Q") if big else (4, "I")
    count_code, next_code, entry_bytes = ("Q", "Q", 20) if big else ("H", "I", 12)
    first_ifd = 0
    link_at = -1
    if not ifd_first:
        lay_data()
    for declared in [(width_px, height_px)] * pages + list(page_sizes):
        sized = [(256, 4, [declared[0]]), (257, 4, [declared[1]]), *entries[2:]]
        all_entries = sorted([*sized, (offsets_tag, 4, data_at or [0] * len(data))])
        ifd_at = head_bytes + len(body)
        if link_at >= 0:
            body[link_at : link_at + inline] = struct.pack(order + next_code, ifd_at)
        else:
            first_ifd = ifd_at
        size = struct.calcsize(order + count_code) + entry_bytes * len(all_entries) + inline
        spill = bytearray()
        table = bytearray(struct.pack(order + count_code, len(all_entries)))
        patch = -1
        for tag, kind, values in all_entries:
            raw = struct.pack(order + TYPE_CODE[kind] * len(values), *values)
            table += struct.pack(order + "HH" + word, tag, kind, len(values))
            if len(raw) > inline:
                if tag == offsets_tag:
                    patch = size + len(spill)
                table += struct.pack(order + word, ifd_at + size + len(spill))
                spill += raw + b"\0" * (len(raw) % 2)
            else:
                if tag == offsets_tag:
                    patch = len(table)
                table += raw.ljust(inline, b"\0")
        link_at = len(body) + len(table)
        table += b"\0" * inline
        start = len(body)
        body += table + spill
        if ifd_first and not data_at:
            lay_data()
            raw = struct.pack(order + "I" * len(data_at), *data_at)
            body[start + patch : start + patch + len(raw)] = raw
    mark = b"II" if little_endian else b"MM"
    if big:
        return struct.pack(order + "2sHHHQ", mark, 43, 8, 0, first_ifd) + bytes(body)
    return struct.pack(order + "2sHI", mark, 42, first_ifd) + bytes(body)


def saved(pixels: npt.NDArray[np.uint8], image_format: str, mode: str | None = None, **options: object) -> bytes:
    """The file that Pillow writes for these pixels."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    if mode is not None:
        image = image.convert(mode)
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def mpo(pixels: npt.NDArray[np.uint8], sizes: Sequence[tuple[int, int]]) -> bytes:
    """A multi-picture JPEG: these pixels and, behind them, pictures of these sizes (width, height)."""
    buffer = io.BytesIO()
    image = Image.fromarray(pixels)
    image.save(buffer, "MPO", save_all=True, append_images=[image.resize(size) for size in sizes])
    return buffer.getvalue()


def crop(height_px: int = 48, width_px: int = 64, channels: int = 3, seed: int = 0) -> npt.NDArray[np.uint8]:
    """Smooth random pixels [H, W, C]: every corner differs, so any wrong turn shows."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height_px // 8 + 2, width_px // 8 + 2, channels), dtype=np.uint8)
    fine = coarse.repeat(8, axis=0).repeat(8, axis=1)[:height_px, :width_px].astype(np.int16)
    noisy: npt.NDArray[np.int16] = fine + rng.integers(-12, 13, fine.shape)
    return noisy.clip(0, 255).astype(np.uint8)
