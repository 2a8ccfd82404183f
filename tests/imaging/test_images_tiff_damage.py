"""TIFF whose compression is not read, and TIFF of which a part of the pixels is missing: never black pixels."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from glomedge.errors import ImageError
from glomedge.imaging import images
from glomedge.imaging.formats import read_header, tiff_blocks
from helpers import image_files

RGB = np.maximum(image_files.crop(96, 120), 1).astype(np.uint8)  # no zero samples: what is zero afterwards was made so
RGB16 = RGB.astype(np.uint16) * 257
LAYOUTS: dict[str, tuple[npt.NDArray[np.integer], Mapping[str, object]]] = {
    "one strip": (RGB, {}),
    "strips": (RGB, {"rows_per_strip": 16}),
    "tiles": (RGB, {"tile_px": 32}),
    "planar": (RGB, {"planar": True, "rows_per_strip": 16}),
    "16-bit": (RGB16, {"bits": 16, "rows_per_strip": 16}),
    "16-bit tiles": (RGB16, {"bits": 16, "tile_px": 32}),
}
UNREAD = {
    2: "CCITT", 3: "CCITT", 4: "CCITT", 6: "old-style JPEG", 33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000",
    50002: "JPEG XL", 52546: "JPEG XL", 34933: "PNG", 50000: "Zstandard", 50001: "WebP", 34925: "LZMA", 34887: "LERC",
    34934: "JPEG XR", 34661: "JBIG", 32809: "ThunderScan", 12345: "code 12345",
}  # fmt: skip
READ = {"none": 1, "lzw": 5, "deflate": 8, "old deflate": 32946, "packbits": 32773}


def written(layout: str, compression: int) -> bytes:
    samples, options = LAYOUTS[layout]
    return image_files.tiff(samples, compression=compression, **options)  # type: ignore[arg-type]


def error_of(data: bytes) -> ImageError:
    with pytest.raises(ImageError) as caught:
        images.decode(data)
    assert str(caught.value).endswith(".")
    return caught.value


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("code", UNREAD)
def test_a_compression_that_is_not_read_is_named(code: int, layout: str, capfd: pytest.CaptureFixture[str]) -> None:
    error = error_of(written(layout, code))
    assert error.code == "format"
    assert UNREAD[code] in str(error)
    assert str(code) in str(error)
    assert capfd.readouterr().err == ""


def test_packbits_with_a_predictor_is_not_read() -> None:
    """libtiff returns the differences as if they were pixels."""
    assert error_of(image_files.tiff(RGB, compression=32773, predictor=2)).code == "format"


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", READ)
def test_whole_files_are_read(compression: str, layout: str, capfd: pytest.CaptureFixture[str]) -> None:
    np.testing.assert_array_equal(images.decode(written(layout, READ[compression])).pixels_hwc, RGB)
    assert capfd.readouterr().err == ""


def extent(data: bytes) -> tuple[int, int]:
    """Where the pixel data begin and end."""
    blocks = read_header(data).blocks
    assert blocks is not None
    ends = [at + length for at, length in zip(blocks.offsets, blocks.lengths, strict=True)]
    return min(blocks.offsets), max(ends)


def zeroed(data: bytes, begin: int, end: int) -> bytes:
    return data[:begin] + bytes(end - begin) + data[end:]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("compression", READ)
@pytest.mark.parametrize("part", ["half", "last block", "middle block", "everything", "sectors"])
def test_a_hole_is_noticed(compression: str, layout: str, part: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = written(layout, READ[compression])
    blocks = read_header(data).blocks
    assert blocks is not None
    begin, end = extent(data)
    if part == "half":
        begin = (begin + end) // 2 + 1
    elif part == "sectors":
        begin = begin // 1024 * 1024 + 4096
        end = min(end, begin + 4096)
    elif part != "everything":
        number = len(blocks.offsets) // 2 if part == "middle block" else len(blocks.offsets) - 1
        begin, end = blocks.offsets[number], blocks.offsets[number] + blocks.lengths[number]
    assert error_of(zeroed(data, begin, end)).code == "corrupt"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("layout", ["one strip", "strips", "tiles"])
@pytest.mark.parametrize("compression", ["deflate", "lzw"])
def test_no_damage_passes_with_other_pixels_that_are_partly_black(compression: str, layout: str) -> None:
    data = written(layout, READ[compression])
    begin, end = extent(data)
    rng = np.random.default_rng(3)
    for _ in range(60):
        at = int(rng.integers(begin, end - 64))
        assert error_of(zeroed(data, at, min(end, at + 600))).code == "corrupt"


@pytest.mark.parametrize("mode", ["RGB", "YCbCr"])
@pytest.mark.parametrize("part", ["tail", "middle", "scan", "header", "marks"])
def test_a_hole_in_jpeg_within_tiff(mode: str, part: str, capfd: pytest.CaptureFixture[str]) -> None:
    data = image_files.saved(RGB.repeat(4, 0).repeat(4, 1), "TIFF", mode=mode, compression="jpeg", quality=95)
    assert images.decode(data).pixels_hwc.shape == (384, 480, 3)
    begin, end = extent(data)
    if part == "header":
        end = begin + 40
    elif part == "marks":
        begin, end = begin + 4, begin + 1028
    elif part == "scan":
        begin, end = begin + 4000, begin + 5024
    else:
        begin = (begin + end) // 2
        end = end if part == "tail" else begin + 1024
    assert error_of(zeroed(data, begin, end)).code == "corrupt"
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"subsampling": 0}, {"restart_marker_blocks": 5}])
def test_a_hole_in_a_jpeg(options: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    data = image_files.saved(RGB.repeat(3, 0).repeat(3, 1), "JPEG", quality=90, **options)
    images.decode(data)
    middle = len(data) // 2
    assert error_of(zeroed(data, middle, middle + 1024)).code == "corrupt"
    assert capfd.readouterr().err == ""


def test_a_flat_jpeg_is_not_taken_for_one_with_a_hole() -> None:
    """With tables of its own a flat area compresses to zero bits; such a file is followed code by code and is whole."""
    flat = np.full((700, 900, 3), 210, np.uint8)
    flat[:60, :60] = RGB[:60, :60]
    data = image_files.saved(flat, "JPEG", optimize=True, quality=60)
    assert bytes(64) in data
    assert images.decode(data).pixels_hwc.shape == flat.shape


def test_the_padding_that_an_encoder_adds_is_no_damage() -> None:
    data = image_files.tiff(RGB, compression=8)
    begin, end = extent(data)
    longer = data[begin:end] + b"\0\0\0"
    entry = (end - begin).to_bytes(4, "little")
    moved = bytearray(data + longer)
    directory = int.from_bytes(data[4:8], "little")
    count = int.from_bytes(data[directory : directory + 2], "little")
    for at in range(directory + 2, directory + 2 + 12 * count, 12):
        tag = int.from_bytes(data[at : at + 2], "little")
        if tag == 273:
            moved[at + 8 : at + 12] = len(data).to_bytes(4, "little")
        if tag == 279:
            assert data[at + 8 : at + 12] == entry
            moved[at + 8 : at + 12] = len(longer).to_bytes(4, "little")
    np.testing.assert_array_equal(images.decode(bytes(moved)).pixels_hwc, RGB)


def test_too_few_strips_are_corrupt() -> None:
    data = bytearray(image_files.tiff(RGB, rows_per_strip=16))
    at = data.index((278).to_bytes(2, "little") + (4).to_bytes(2, "little"))
    data[at + 8 : at + 12] = (8).to_bytes(4, "little")
    assert "lists 6 of its 12" in str(error_of(bytes(data)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("shape", ["ellipse", "rotated", "sides", "top and bottom"])
def test_a_painted_surround_is_no_hole(layout: str, shape: str) -> None:
    samples, options = LAYOUTS[layout]
    mask = np.zeros(samples.shape[:2], np.uint8)
    if shape == "sides":
        mask[:, 13:-17] = 1
    elif shape == "top and bottom":
        mask[9:-20] = 1
    elif shape == "ellipse":
        cv2.ellipse(mask, (62, 47), (55, 41), 12, 0, 360, 1, -1)
    else:
        cv2.fillPoly(mask, [np.array([[60, 3], [117, 50], [58, 93], [2, 44]])], 1)
    painted = (samples * mask[..., None]).astype(samples.dtype)
    decoded = images.decode(image_files.tiff(painted, **options))  # type: ignore[arg-type]
    np.testing.assert_array_equal(decoded.pixels_hwc, RGB * mask[..., None])


def naive_lzw_length(block: bytes) -> int:
    """A plain decoder, one code at a time."""
    bits = "".join(f"{byte:08b}" for byte in block)
    table: list[bytes] = []
    at, width, last, out = 0, 9, b"", 0
    while at + width <= len(bits):
        code, at = int(bits[at : at + width], 2), at + width
        if code == 257:
            break
        if code == 256:
            table, width, last = [bytes([value]) for value in range(256)] + [b"", b""], 9, b""
            continue
        entry = table[code] if code < len(table) else last + last[:1]
        if last:
            table.append(last + entry[:1])
        last, out = entry, out + len(entry)
        width = 9 if len(table) < 511 else 10 if len(table) < 1023 else 11 if len(table) < 2047 else 12
    return out


@pytest.mark.parametrize("size", [1, 2, 300, 5000, 60_000])
@pytest.mark.parametrize("values", [1, 3, 256])
def test_lzw_lengths_against_a_plain_decoder(size: int, values: int) -> None:
    raw = np.random.default_rng(size).integers(0, values, size).astype(np.uint8).tobytes()
    block = image_files.lzw(raw)
    assert tiff_blocks.lzw_decoded_bytes(block) == naive_lzw_length(block) == size


def test_lzw_of_libtiff_has_the_right_length() -> None:
    large = RGB.repeat(4, 0).repeat(4, 1)
    buffer = io.BytesIO()
    Image.fromarray(large).save(buffer, "TIFF", compression="tiff_lzw")
    data = buffer.getvalue()
    blocks = read_header(data).blocks
    assert blocks is not None
    for number, (at, length) in enumerate(zip(blocks.offsets, blocks.lengths, strict=True)):
        assert tiff_blocks.lzw_decoded_bytes(data[at : at + length]) == blocks.decoded_bytes(number)


@pytest.mark.parametrize("block", [b"", b"\0\0\0\0", b"\x80", b"\x80\x7f\xff\xff"])
def test_lzw_that_cannot_be(block: bytes) -> None:
    assert tiff_blocks.lzw_decoded_bytes(block) is None


def test_reduced_copies_behind_the_picture_are_left_out() -> None:
    for little_endian in (True, False):
        data = image_files.tiff(RGB, page_sizes=[(60, 48), (30, 24)], little_endian=little_endian)
        decoded = images.decode(data)
        np.testing.assert_array_equal(decoded.pixels_hwc, RGB)
        assert decoded.flags == ("first_of_several",)


@pytest.mark.parametrize("sizes", [[(120, 96)], [(60, 96)], [(60, 48), (120, 96)], [(240, 192)], [(0, 0)]])
def test_other_pages_are_several_pictures(sizes: list[tuple[int, int]]) -> None:
    assert error_of(image_files.tiff(RGB, page_sizes=sizes)).code == "multiframe"


def test_reduced_copies_behind_a_jpeg_are_left_out() -> None:
    data = image_files.mpo(RGB, [(60, 48), (30, 24)])
    decoded = images.decode(data)
    np.testing.assert_array_equal(decoded.pixels_hwc, images.decode(image_files.saved(RGB, "JPEG")).pixels_hwc)
    assert decoded.flags == ("first_of_several",)


@pytest.mark.parametrize("sizes", [[(120, 96)], [(60, 60)], [(60, 48), (240, 192)]])
def test_other_pictures_behind_a_jpeg_are_several(sizes: list[tuple[int, int]]) -> None:
    assert error_of(image_files.mpo(RGB, sizes)).code == "multiframe"


def test_the_first_of_several_jpegs_must_end_by_itself() -> None:
    data = bytearray(image_files.mpo(RGB, [(60, 48)]))
    second = data.index(b"\xff\xd8\xff", 2)
    end = data.rindex(b"\xff\xd9", 0, second)
    data[end : end + 2] = b"\0\0"
    assert error_of(bytes(data)).code == "truncated"
