"""A short, seeded run of the decode target over every format; the long one needs atheris (marked slow)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import decode_target
from glomedge.errors import ImageError
from glomedge.imaging import decoders
from glomedge.imaging.formats import read_header
from helpers import image_files

ROOT = Path(__file__).resolve().parent.parent.parent


def seeds() -> dict[str, bytes]:
    """One small file of each kind that takes another way through the code."""
    rgb = image_files.crop(40, 52)
    rgba = np.dstack([rgb, image_files.crop(40, 52, 1, seed=4)])
    gray, deep = rgb[..., :1], rgb.astype(np.uint16) * 257
    palette = [(b"PLTE", image_files.crop(16, 16).tobytes()), (b"tRNS", bytes(range(256)))]
    key = [(b"tRNS", b"\0\x44"), (b"eXIf", image_files.exif(6))]
    return {
        "png rgb": image_files.png(rgb),
        "png rgba": image_files.png(rgba, colour_type=6, idat_bytes=500),
        "png interlaced": image_files.png(rgb, interlaced=True),
        "png palette": image_files.png(gray, colour_type=3, before=palette),
        "png 16": image_files.png(deep, depth=16, before=[(b"sBIT", b"\x0c\x0c\x0c")]),
        "png gray key": image_files.png(gray, colour_type=0, before=key),
        "jpeg": image_files.saved(rgb, "JPEG"),
        "jpeg progressive": image_files.saved(rgb, "JPEG", progressive=True, exif=b"Exif\0\0" + image_files.exif(5)),
        "jpeg gray": image_files.saved(gray[..., 0], "JPEG"),
        "webp": image_files.saved(rgb, "WEBP", lossless=True),
        "webp alpha exif": image_files.saved(rgba, "WEBP", quality=70, exif=image_files.exif(3)),
        "bmp": image_files.saved(rgb, "BMP"),
        "bmp palette": image_files.saved(rgb, "BMP", mode="P"),
        "tiff": image_files.tiff(rgb),
        "tiff tiles": image_files.tiff(rgb, compression=8, tile_px=16),
        "tiff 16": image_files.tiff(deep, bits=16),
        "tiff 12": image_files.tiff(deep >> 4, bits=12),
        "tiff alpha": image_files.tiff(rgba, extra_samples=(2,)),
        "tiff inverted": image_files.tiff(gray, photometric=0, orientation=6),
        "tiff big": image_files.tiff(rgb, big=True),
        "tiff lzw": image_files.saved(rgb, "TIFF", compression="tiff_lzw"),
        "tiff jpeg": image_files.saved(rgb, "TIFF", compression="jpeg"),
        "tiff planes": image_files.tiff(rgb, planar=True),
        "tiff packbits tiles": image_files.tiff(rgb, compression=32773, tile_px=16),
        "tiff lzw 16": image_files.tiff(deep, bits=16, compression=5, rows_per_strip=8),
        "tiff pyramid": image_files.tiff(rgb, compression=8, page_sizes=[(26, 20)]),
        "mpo": image_files.mpo(rgb, [(26, 20)]),
    }


@pytest.mark.parametrize("name", seeds())
def test_mutated_files(name: str) -> None:
    data = seeds()[name]
    assert decode_target.one_input(data) == "ok"
    rng = np.random.default_rng(list(name.encode()))
    for turn in range(150):
        broken = decode_target.mutated(data, rng)
        decode_target.one_input(decode_target.repaired_png(broken) if turn % 2 else broken)


@settings(max_examples=300, deadline=None)
@given(
    start=st.sampled_from(
        (b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff\xe0", b"II*\0", b"MM\0+", b"BM", b"RIFF\0\0\0\0WEBP", b"")
    ),
    rest=st.binary(max_size=300),
)
def test_noise_behind_a_known_beginning(start: bytes, rest: bytes) -> None:
    decode_target.one_input(start + rest)


@pytest.mark.parametrize("name", ["png rgb", "png rgba"])
def test_fast_decoder_never_gives_other_pixels_than_opencv(name: str) -> None:
    """It may accept what OpenCV refuses (it trusts the CRCs and skips the Adler-32), never differ."""
    decode = decoders.fast_png_decoder()
    if decode is None:
        pytest.skip("kornia_rs not installed: pip install 'glomedge[fast]'")
    rng = np.random.default_rng(12)
    whole = seeds()[name]
    compared = 0
    for _ in range(400):
        data = decode_target.repaired_png(decode_target.mutated(whole, rng))
        try:
            header = read_header(data)
            if header.decoder != "fast" or header.width_px * header.height_px > 1_000_000:
                continue
            expected = decoders.with_opencv(data, header)
        except ImageError:
            continue
        mode = "rgba" if header.alpha != "none" else "rgb"
        fast = decoders.quietly(decode, data, (header.height_px, header.width_px), mode)
        if fast is not None:
            np.testing.assert_array_equal(fast, expected)
            compared += 1
    assert compared > 5
