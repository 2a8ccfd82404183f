"""TIFF of every kind that is let through, written byte by byte here, against its own samples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.errors import ImageError
from glomedge.imaging import images
from helpers import image_files

RNG = np.random.default_rng(4)
RGB = image_files.crop()
RGB16 = RNG.integers(0, 65_536, (48, 64, 3)).astype(np.uint16)
ALPHA = RNG.integers(0, 256, (48, 64, 1)).astype(np.uint8)
GRAY = RGB[..., :1]
COLOUR_MAP = RNG.integers(0, 256, (3, 256)) * 257


def scaled(samples: npt.NDArray[np.integer], bits: int) -> npt.NDArray[np.uint8]:
    top = (1 << bits) - 1
    flat = [(int(v) * 510 + top) // (2 * top) for v in samples.reshape(-1)]
    return np.array(flat, np.uint8).reshape(samples.shape)


def three(gray: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    return gray.repeat(3, axis=2)


def on_white(rgb: npt.NDArray[np.uint8], alpha: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    weight = alpha.astype(np.float64) / 255.0
    return np.floor(rgb * weight + 255.0 * (1.0 - weight) + 0.5).astype(np.uint8)


@pytest.mark.parametrize("little_endian", [True, False])
@pytest.mark.parametrize("big", [False, True])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize(
    "layout", [{}, {"rows_per_strip": 7}, {"tile_px": 16}, {"rows_per_strip": 5, "ifd_first": True}]
)
def test_rgb(little_endian: bool, big: bool, compression: int, layout: dict[str, int]) -> None:
    rows, tile = layout.get("rows_per_strip"), layout.get("tile_px")
    data = image_files.tiff(
        RGB,
        little_endian=little_endian,
        big=big,
        compression=compression,
        rows_per_strip=rows,
        tile_px=tile,
        ifd_first=bool(layout.get("ifd_first")),
    )
    if tile and big and compression == 1 and not little_endian:
        # OpenCV reads no uncompressed tiles, Pillow no big-endian BigTIFF.
        with pytest.raises(ImageError) as caught:
            images.decode(data)
        assert caught.value.code == "format"
        return
    decoded = images.decode(data)
    np.testing.assert_array_equal(decoded.pixels_hwc, RGB)
    assert (decoded.format, decoded.flags) == ("tiff", ())


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 12, 16])
@pytest.mark.parametrize("inverted", [False, True])
@pytest.mark.parametrize("layout", [(None, 1), (16, 1), (16, 8)])
def test_gray(bits: int, inverted: bool, layout: tuple[int | None, int]) -> None:
    samples = RGB16[..., :1] >> (16 - bits)
    tile_px, compression = layout
    data = image_files.tiff(
        samples, photometric=0 if inverted else 1, bits=bits, tile_px=tile_px, compression=compression
    )
    if bits == 12 and inverted:
        with pytest.raises(ImageError) as caught:
            images.decode(data)
        assert caught.value.code == "format"
        return
    decoded = images.decode(data)
    gray = scaled((1 << bits) - 1 - samples if inverted else samples, bits)
    np.testing.assert_array_equal(decoded.pixels_hwc, three(gray))
    assert decoded.flags == (("grayscale", "sixteen_bit") if bits > 8 else ("grayscale",))


@pytest.mark.parametrize("bits", [10, 12, 14, 16])
@pytest.mark.parametrize("compression", [1, 8])
@pytest.mark.parametrize("tile_px", [None, 16])
def test_rgb_of_many_bits(bits: int, compression: int, tile_px: int | None) -> None:
    samples = RGB16 >> (16 - bits)
    decoded = images.decode(image_files.tiff(samples, bits=bits, compression=compression, tile_px=tile_px))
    np.testing.assert_array_equal(decoded.pixels_hwc, scaled(samples, bits))
    assert decoded.flags == ("sixteen_bit",)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
@pytest.mark.parametrize("layout", [(None, 1), (16, 1), (16, 8)])
def test_palette(bits: int, layout: tuple[int | None, int]) -> None:
    index = ALPHA >> (8 - bits)
    tile_px, compression = layout
    colours = COLOUR_MAP[:, : 1 << bits]
    data = image_files.tiff(
        index, photometric=3, bits=bits, colour_map=colours, tile_px=tile_px, compression=compression
    )
    decoded = images.decode(data)
    np.testing.assert_array_equal(decoded.pixels_hwc, (COLOUR_MAP // 257).T[index[..., 0]].astype(np.uint8))
    assert decoded.flags == ("palette",)


@pytest.mark.parametrize("tile_px", [None, 16])
def test_planes(tile_px: int | None) -> None:
    data = image_files.tiff(RGB, planar=True, tile_px=tile_px)
    np.testing.assert_array_equal(images.decode(data).pixels_hwc, RGB)


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("layout", [(None, 1), (16, 1), (16, 8)])
def test_straight_alpha(bits: int, layout: tuple[int | None, int]) -> None:
    factor = 1 if bits == 8 else 257
    rgba = np.dstack([RGB, ALPHA]).astype(np.uint16) * factor
    decoded = images.decode(
        image_files.tiff(rgba, bits=bits, extra_samples=(2,), tile_px=layout[0], compression=layout[1])
    )
    np.testing.assert_array_equal(decoded.pixels_hwc, on_white(RGB, ALPHA))
    assert "transparency" in decoded.flags
    opaque = images.decode(image_files.tiff(np.dstack([RGB, ALPHA | 255]), extra_samples=(2,)))
    np.testing.assert_array_equal(opaque.pixels_hwc, RGB)
    assert opaque.flags == ()


def test_premultiplied_alpha() -> None:
    multiplied = (RGB.astype(np.uint32) * ALPHA // 255).astype(np.uint8)
    decoded = images.decode(image_files.tiff(np.dstack([multiplied, ALPHA]), extra_samples=(1,)))
    np.testing.assert_array_equal(decoded.pixels_hwc, multiplied + (255 - ALPHA))
    assert decoded.flags == ("transparency",)


def test_fourth_sample_that_is_no_alpha() -> None:
    decoded = images.decode(image_files.tiff(np.dstack([RGB, ALPHA]), extra_samples=(0,)))
    np.testing.assert_array_equal(decoded.pixels_hwc, RGB)
    assert decoded.flags == ()


def test_gray_with_alpha() -> None:
    decoded = images.decode(image_files.tiff(np.dstack([GRAY, ALPHA]), photometric=1, extra_samples=(2,)))
    np.testing.assert_array_equal(decoded.pixels_hwc, on_white(three(GRAY), ALPHA))
    assert decoded.flags == ("grayscale", "transparency")


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "packbits", "raw"])
def test_compressions_that_lose_nothing(compression: str) -> None:
    np.testing.assert_array_equal(
        images.decode(image_files.saved(RGB, "TIFF", compression=compression)).pixels_hwc, RGB
    )


@pytest.mark.parametrize("mode", ["RGB", "YCbCr"])
def test_jpeg_within_tiff(mode: str) -> None:
    decoded = images.decode(image_files.saved(RGB, "TIFF", mode=mode, compression="jpeg", quality=95))
    assert np.abs(decoded.pixels_hwc.astype(int) - RGB).mean() < 8
    assert decoded.flags == ()


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (image_files.tiff(np.dstack([RGB, ALPHA]), photometric=5), "colourspace"),
        (image_files.tiff(RGB, photometric=8), "colourspace"),
        (image_files.tiff(RGB, pages=2), "multiframe"),
        (image_files.tiff(RGB.astype(np.float32), bits=32, sample_format=3), "format"),
        (image_files.tiff(RGB.astype(np.uint32), bits=32), "format"),
        (image_files.tiff(RGB16, bits=16, planar=True), "format"),
        (image_files.tiff(np.dstack([RGB, ALPHA, ALPHA]), extra_samples=(0, 0)), "format"),
        (image_files.tiff(RGB, planar=True, big=True, little_endian=False), "format"),
    ],
    ids=["cmyk", "lab", "pages", "float", "32 bits", "16-bit planes", "five samples", "big-endian BigTIFF planes"],
)
def test_kinds_that_are_refused(data: bytes, code: str) -> None:
    with pytest.raises(ImageError) as caught:
        images.decode(data)
    assert caught.value.code == code
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("layout", [{}, {"rows_per_strip": 7}, {"tile_px": 16}])
@pytest.mark.parametrize("ifd_first", [True, False])
def test_any_cut_is_noticed(layout: dict[str, int], ifd_first: bool) -> None:
    data = image_files.tiff(
        RGB, rows_per_strip=layout.get("rows_per_strip"), tile_px=layout.get("tile_px"), ifd_first=ifd_first
    )
    for cut in np.linspace(1, len(data) - 1, 60).astype(int):
        with pytest.raises(ImageError) as caught:
            images.decode(data[:cut])
        assert caught.value.code in ("truncated", "format")


KINDS: dict[str, tuple[npt.NDArray[np.integer], dict[str, object]]] = {
    "gray": (GRAY, {"photometric": 1}),
    "gray 1": (GRAY >> 7, {"photometric": 1, "bits": 1}),
    "gray 4": (GRAY >> 4, {"photometric": 1, "bits": 4}),
    "gray 16": (RGB16[..., :1], {"photometric": 1, "bits": 16}),
    "inverted": (GRAY, {"photometric": 0}),
    "inverted 16": (RGB16[..., :1], {"photometric": 0, "bits": 16}),
    "rgb 16": (RGB16, {"bits": 16}),
    "rgb 16 tiles": (RGB16, {"bits": 16, "tile_px": 16, "compression": 8}),
    "rgb 12": (RGB16 >> 4, {"bits": 12}),
    "palette": (ALPHA, {"photometric": 3, "colour_map": COLOUR_MAP}),
    "palette 1": (ALPHA >> 7, {"photometric": 3, "bits": 1, "colour_map": COLOUR_MAP[:, :2]}),
    "palette 4": (ALPHA >> 4, {"photometric": 3, "bits": 4, "colour_map": COLOUR_MAP[:, :16]}),
    "straight": (np.dstack([RGB, ALPHA]), {"extra_samples": (2,)}),
    "straight 16": (np.dstack([RGB, ALPHA]).astype(np.uint16) * 257, {"bits": 16, "extra_samples": (2,)}),
    "premultiplied": (np.dstack([RGB // 2, ALPHA | 128]), {"extra_samples": (1,)}),
    "fourth sample": (np.dstack([RGB, ALPHA]), {"extra_samples": (0,)}),
    "planes": (RGB, {"planar": True}),
    "raw tiles": (RGB, {"tile_px": 16}),
    "big": (RGB, {"big": True, "little_endian": False}),
}


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_turned_once(kind: str, orientation: int) -> None:
    samples, options = KINDS[kind]
    upright = images.decode(image_files.tiff(samples, **options)).pixels_hwc  # type: ignore[arg-type]
    across = samples.transpose(1, 0, 2)
    stored = {
        2: samples[:, ::-1],
        3: samples[::-1, ::-1],
        4: samples[::-1],
        5: across,
        6: across[::-1],
        7: across[::-1, ::-1],
        8: across[:, ::-1],
    }[orientation]
    data = image_files.tiff(stored.copy(), orientation=orientation, **options)  # type: ignore[arg-type]
    np.testing.assert_array_equal(images.decode(data).pixels_hwc, upright)
