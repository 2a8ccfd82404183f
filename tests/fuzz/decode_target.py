"""Fuzz target: any bytes through decode, quality and enhance; only ImageError may come out.

The default suite runs it on seeded mutations (test_fuzz_decode.py), decode_atheris.py under a coverage-guided fuzzer.
"""

from __future__ import annotations

import zlib

import numpy as np

from glomedge.errors import ImageError
from glomedge.imaging import images, quality
from glomedge.imaging.enhance import enhance
from glomedge.imaging.formats import declared_size

# A mutated header may declare any size under the limit; half a minute on one input would tell nothing new.
_MAX_PIXELS_TO_ENHANCE = 4_000_000


def one_input(data: bytes) -> str:
    """Carry one input the whole way; returns ``ok`` or the error code. Raises AssertionError on a broken promise."""
    declared_size(lambda at, count: data[at : at + count])
    refused: ImageError | None = None
    try:
        decoded = images.decode(data)
    except ImageError as error:
        refused = error
    if refused is not None:
        assert refused.code in CODES, refused.code
        assert str(refused).endswith("."), str(refused)
        return refused.code
    pixels_hwc = decoded.pixels_hwc
    height_px, width_px, channels = pixels_hwc.shape
    assert channels == 3
    assert pixels_hwc.dtype == np.uint8
    assert pixels_hwc.flags.c_contiguous
    assert min(height_px, width_px) >= images.MIN_SIDE_PX
    assert height_px * width_px <= images.MAX_PIXELS
    assert set(decoded.flags) <= {"first_of_several", "grayscale", "palette", "sixteen_bit", "transparency"}
    if height_px * width_px <= _MAX_PIXELS_TO_ENHANCE:
        quality.assess(pixels_hwc)
        enhanced = enhance(pixels_hwc)
        assert enhanced.shape == (224, 224, 3)
        assert enhanced.dtype == np.uint8
    return "ok"


CODES = frozenset(("format", "truncated", "corrupt", "colourspace", "multiframe", "too_large", "too_small"))


def repaired_png(data: bytes) -> bytes:
    """The same PNG with every chunk's CRC made right, so that mutations reach past the checksums."""
    if not data.startswith(b"\x89PNG\r\n\x1a\n"):
        return data
    out, at = bytearray(data), 8
    while at + 12 <= len(out):
        end = at + 12 + int.from_bytes(out[at : at + 4], "big")
        if end > len(out):
            break
        out[end - 4 : end] = zlib.crc32(bytes(out[at + 4 : end - 4])).to_bytes(4, "big")
        at = end
    return bytes(out)


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """One to eight edits: flipped bits, set bytes, cut, removed, doubled or foreign pieces."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 9))):
        if not out:
            break
        # Headers are where the decisions are: half of the edits go into the first 128 bytes.
        at = int(rng.integers(min(len(out), 128 if rng.random() < 0.5 else len(out))))
        length = int(rng.integers(1, 17))
        match int(rng.integers(6)):
            case 0:
                out[at] ^= 1 << int(rng.integers(8))
            case 1:
                out[at : at + length] = rng.bytes(length)
            case 2:
                del out[at : at + length]
            case 3:
                out[at:at] = out[at : at + length]
            case 4:
                out[at : at + 4] = EDGES[int(rng.integers(len(EDGES)))]
            case 5 if rng.random() < 0.2:
                del out[at:]
    return bytes(out)


EDGES = (
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\0\0\0\1",
    b"\1\0\0\0",
    b"\0\x80",
)
