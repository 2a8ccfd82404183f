"""Decoding of all formats under one rule: format by content, size limits, orientation, flags."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomedge.errors import ImageError
from glomedge.imaging import images
from glomedge.imaging.enhance import enhance
from helpers import image_files

Pixels = npt.NDArray[np.uint8]

# Formats that keep every pixel, and JPEG.
WRITERS: dict[str, Callable[[Pixels], bytes]] = {
    "png": lambda pixels: image_files.saved(pixels, "PNG"),
    "jpeg": lambda pixels: image_files.saved(pixels, "JPEG", quality=95, subsampling=0),
    "tiff": lambda pixels: image_files.saved(pixels, "TIFF"),
    "bmp": lambda pixels: image_files.saved(pixels, "BMP"),
    "webp": lambda pixels: image_files.saved(pixels, "WEBP", lossless=True),
}


def code_of(data: bytes) -> str:
    with pytest.raises(ImageError) as caught:
        images.decode(data)
    assert str(caught.value).endswith("."), "a message ends with what to do next"
    return caught.value.code


@pytest.mark.parametrize("image_format", WRITERS)
def test_pixels_and_format(image_format: str) -> None:
    pixels = image_files.crop()
    decoded = images.decode(WRITERS[image_format](pixels))
    assert decoded.format == image_format
    assert decoded.flags == ()
    assert decoded.pixels_hwc.flags.c_contiguous
    assert decoded.pixels_hwc.flags.writeable
    if image_format == "jpeg":
        difference = np.abs(decoded.pixels_hwc.astype(int) - pixels)
        assert difference.mean() < 4
        assert np.abs(decoded.pixels_hwc[..., ::-1].astype(int) - pixels).mean() > 20, "red and blue are not swapped"
    else:
        np.testing.assert_array_equal(decoded.pixels_hwc, pixels)


@pytest.mark.parametrize(
    ("image_format", "wrong_name"),
    [
        ("png", "crop.jpg"),
        ("png", "crop.webp"),
        ("jpeg", "crop.png"),
        ("jpeg", "crop.tif"),
        ("tiff", "crop.png"),
        ("tiff", "crop.jpeg"),
        ("bmp", "crop.tiff"),
        ("webp", "crop.png"),
        ("webp", "crop.bmp"),
        ("png", "crop.txt"),
        ("jpeg", "crop"),
    ],
)
def test_the_name_does_not_matter(image_format: str, wrong_name: str, tmp_path: Path) -> None:
    path = tmp_path / wrong_name
    data = WRITERS[image_format](image_files.crop())
    path.write_bytes(data)
    decoded = images.decode(images.read(path))
    assert decoded.format == image_format
    np.testing.assert_array_equal(decoded.pixels_hwc, images.decode(data).pixels_hwc)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"name,ground truth\na.png,1\n",
        b"%PDF-1.7\n",
        b"GIF89a" + bytes(100),
        b"\0" * 1000,
        b"BM but no bitmap at all",
    ],
)
def test_not_an_image(data: bytes) -> None:
    assert code_of(data) == "format"


def turned(pixels: Pixels, orientation: int) -> Pixels:
    """The stored raster that EXIF 2.32 says will be seen as ``pixels`` under this orientation (inverse by cases)."""
    across = pixels.transpose(1, 0, 2)
    stored = {
        1: pixels,
        2: pixels[:, ::-1],  # mirrored left to right
        3: pixels[::-1, ::-1],  # half a turn
        4: pixels[::-1],  # mirrored top to bottom
        5: across,  # row 0 is the left side, column 0 the top
        6: across[::-1],  # row 0 is the right side, column 0 the top
        7: across[::-1, ::-1],  # row 0 is the right side, column 0 the bottom
        8: across[:, ::-1],  # row 0 is the left side, column 0 the bottom
    }
    return stored[orientation].copy()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation_is_one_rule_for_all_formats(orientation: int) -> None:
    upright = image_files.crop(48, 64)
    stored = turned(upright, orientation)
    block = image_files.exif(orientation)
    files = {
        "png": image_files.png(stored, before=[(b"eXIf", block)]),
        "tiff": image_files.tiff(stored, orientation=orientation),
        "tiff tiles": image_files.tiff(stored, orientation=orientation, tile_px=16, little_endian=False),
        "tiff planes": image_files.tiff(stored, orientation=orientation, planar=True),
        "webp": image_files.saved(stored, "WEBP", lossless=True, exif=block),
    }
    for name, data in files.items():
        np.testing.assert_array_equal(images.decode(data).pixels_hwc, upright, err_msg=name)
    # JPEG loses a little, so it is compared with itself stored upright before being turned.
    plain = images.decode(image_files.saved(stored, "JPEG")).pixels_hwc
    for big in (False, True):
        marked = b"Exif\0\0" + image_files.exif(orientation, little_endian=not big)
        seen = images.decode(image_files.saved(stored, "JPEG", exif=marked)).pixels_hwc
        np.testing.assert_array_equal(turned(seen, orientation), plain)


@pytest.mark.parametrize("block", [b"", b"Exif", b"II*\0\xff\xff\xff\xff", image_files.exif(0), image_files.exif(9)])
def test_orientation_that_says_nothing(block: bytes) -> None:
    pixels = image_files.crop()
    np.testing.assert_array_equal(images.decode(image_files.png(pixels, before=[(b"eXIf", block)])).pixels_hwc, pixels)


def test_gray_jpeg() -> None:
    gray = image_files.crop()[..., 0]
    decoded = images.decode(image_files.saved(gray, "JPEG", quality=95))
    assert decoded.flags == ("grayscale",)
    assert (np.ptp(decoded.pixels_hwc, axis=2) == 0).all()
    assert np.abs(decoded.pixels_hwc[..., 0].astype(int) - gray).mean() < 3


def test_progressive_jpeg_equals_baseline() -> None:
    pixels = image_files.crop()
    plain = images.decode(image_files.saved(pixels, "JPEG", quality=90)).pixels_hwc
    progressive = images.decode(image_files.saved(pixels, "JPEG", quality=90, progressive=True)).pixels_hwc
    np.testing.assert_array_equal(plain, progressive)


def test_cmyk_jpeg() -> None:
    assert code_of(image_files.saved(image_files.crop(), "JPEG", mode="CMYK")) == "colourspace"


def test_jpeg_of_too_many_scans() -> None:
    data = image_files.saved(image_files.crop(), "JPEG", progressive=True)
    scan = data.index(b"\xff\xda")
    assert code_of(data[:scan] + data[scan:-2] * 600 + b"\xff\xd9") == "corrupt"


def test_jpeg_with_bytes_after_its_end() -> None:
    data = image_files.saved(image_files.crop(), "JPEG")
    np.testing.assert_array_equal(images.decode(data + bytes(50)).pixels_hwc, images.decode(data).pixels_hwc)


@pytest.mark.parametrize("alpha", [0, 128, 255])
def test_webp_alpha(alpha: int) -> None:
    rgba = np.dstack([image_files.crop(), np.full((48, 64), 255, np.uint8)])
    rgba[10:20, 10:20, 3] = alpha
    decoded = images.decode(image_files.saved(rgba, "WEBP", lossless=True, exact=True))
    assert decoded.flags == (("transparency",) if alpha < 255 else ())
    weight = rgba[..., 3:].astype(float) / 255
    expected = np.floor(rgba[..., :3] * weight + 255 * (1 - weight) + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(decoded.pixels_hwc, expected)


@pytest.mark.parametrize(("mode", "flags"), [("P", ("palette",)), ("L", ("palette",)), ("1", ("palette",))])
def test_bmp_of_few_colours(mode: str, flags: tuple[str, ...]) -> None:
    from PIL import Image

    pixels = image_files.crop()
    expected = np.asarray(Image.fromarray(pixels).convert(mode).convert("RGB"))
    decoded = images.decode(image_files.saved(pixels, "BMP", mode=mode))
    assert decoded.flags == flags
    np.testing.assert_array_equal(decoded.pixels_hwc, expected)


def test_bmp_whose_fourth_byte_means_nothing() -> None:
    pixels = image_files.crop()
    bgrx = np.dstack([pixels[::-1, :, ::-1], np.zeros(pixels.shape[:2], np.uint8)])
    header = struct.pack("<IiiHHIIiiII", 40, 64, 48, 1, 32, 0, bgrx.size, 0, 0, 0, 0)
    data = b"BM" + struct.pack("<IHHI", 54 + bgrx.size, 0, 0, 54) + header + bgrx.tobytes()
    decoded = images.decode(data)
    assert decoded.flags == ()
    np.testing.assert_array_equal(decoded.pixels_hwc, pixels)
    top_down = bytearray(data)
    top_down[22:26] = struct.pack("<i", -48)
    np.testing.assert_array_equal(images.decode(bytes(top_down)).pixels_hwc, pixels[::-1])


@pytest.mark.parametrize("alpha", [128, 255])
def test_bmp_whose_fourth_byte_is_alpha(alpha: int) -> None:
    pixels = image_files.crop()
    bgra = np.dstack([pixels[::-1, :, ::-1], np.full(pixels.shape[:2], alpha, np.uint8)])
    masks = struct.pack("<IIII", 0x00FF0000, 0x0000FF00, 0x000000FF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, 64, 48, 1, 32, 3, bgra.size, 0, 0, 0, 0) + masks + bytes(52)
    data = b"BM" + struct.pack("<IHHI", 122 + bgra.size, 0, 0, 122) + header + bgra.tobytes()
    decoded = images.decode(data)
    assert decoded.flags == (("transparency",) if alpha < 255 else ())
    expected = np.floor(pixels * (alpha / 255) + 255 * (1 - alpha / 255) + 0.5).astype(np.uint8)
    np.testing.assert_array_equal(decoded.pixels_hwc, expected)


@pytest.mark.parametrize("image_format", ["WEBP", "TIFF", "PNG"])
def test_several_pictures_in_one_file(image_format: str) -> None:
    import io

    from PIL import Image

    pages = [Image.fromarray(image_files.crop(seed=seed)) for seed in range(3)]
    buffer = io.BytesIO()
    pages[0].save(buffer, image_format, save_all=True, append_images=pages[1:])
    assert code_of(buffer.getvalue()) == "multiframe"


def test_jpeg_of_several_pictures() -> None:
    import io

    from PIL import Image

    pages = [Image.fromarray(image_files.crop(seed=seed)) for seed in range(2)]
    buffer = io.BytesIO()
    pages[0].save(buffer, "MPO", save_all=True, append_images=pages[1:])
    assert code_of(buffer.getvalue()) == "multiframe"


@settings(max_examples=500, deadline=None)
@given(
    height_px=st.integers(1, 150),
    width_px=st.integers(1, 150),
    stretch=st.sampled_from((1, 1, 1, 60)),
    turn=st.booleans(),
)
def test_any_shape_is_decoded_or_too_small(height_px: int, width_px: int, stretch: int, turn: bool) -> None:
    height_px *= stretch
    pixels = np.broadcast_to(np.array([200, 120, 170], np.uint8), (height_px, width_px, 3))
    if turn:
        pixels = pixels.transpose(1, 0, 2)
    data = image_files.png(pixels)
    if min(height_px, width_px) < images.MIN_SIDE_PX:
        assert code_of(data) == "too_small"
        return
    decoded = images.decode(data)
    assert decoded.pixels_hwc.shape == pixels.shape
    assert enhance(decoded.pixels_hwc).shape == (224, 224, 3)


@pytest.mark.parametrize("image_format", WRITERS)
def test_limit_of_size_is_exact(image_format: str) -> None:
    assert code_of(WRITERS[image_format](image_files.crop(31, 64))) == "too_small"
    assert code_of(WRITERS[image_format](image_files.crop(64, 31))) == "too_small"
    assert images.decode(WRITERS[image_format](image_files.crop(32, 32))).pixels_hwc.shape == (32, 32, 3)


@pytest.mark.parametrize("edge", ["at", "over"])
def test_limit_of_pixels_is_exact(edge: str) -> None:
    # Declared only: neither file holds that many pixels, so one is refused for its size and one for what it lacks.
    width_px = 8000
    height_px = images.MAX_PIXELS // width_px + (edge == "over")
    header = struct.pack(">IIBBBBB", width_px, height_px, 8, 2, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", b"\x78\x9c\x03\0\0\0\0\1"), (b"IEND", b""))
    data = image_files.PNG_SIGNATURE + b"".join(image_files.chunk(kind, body) for kind, body in parts)
    assert code_of(data) == ("too_large" if edge == "over" else "corrupt")
