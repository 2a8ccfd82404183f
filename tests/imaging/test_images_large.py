"""Large files: their header is checked before they are read."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fuzz.test_fuzz_decode import seeds
from glomedge.errors import ImageError
from glomedge.imaging import images
from glomedge.imaging.formats import declared_size, read_header
from helpers import image_files
from helpers.paths import ROOT

EXIF = b"Exif\0\0" + image_files.exif(6)


def more_kinds() -> dict[str, bytes]:
    """Kinds whose header is in another place than in the seeds of the fuzzer."""
    pixels = image_files.crop(40, 52)
    rows = b"".join(row[:, ::-1].tobytes() for row in pixels[::-1])
    return {
        "tiff directory first": image_files.tiff(pixels, ifd_first=True),
        "tiff big-endian": image_files.tiff(pixels, little_endian=False),
        "tiff big big-endian": image_files.tiff(pixels, little_endian=False, big=True),
        "jpeg behind metadata": image_files.saved(pixels, "JPEG", exif=EXIF, icc_profile=bytes(300_000)),
        "jpeg fill bytes": image_files.saved(pixels, "JPEG").replace(b"\xff\xdb", b"\xff\xff\xff\xdb"),
        "webp lossy": image_files.saved(pixels, "WEBP", quality=50),
        "bmp core header": b"BM" + struct.pack("<IHHIIHHHH", 26 + len(rows), 0, 0, 26, 12, 52, 40, 1, 24) + rows,
        "bmp top down": b"BM" + struct.pack("<IHHI", 54 + len(rows), 0, 0, 54)
        + struct.pack("<IiiHHIIiiII", 40, 52, -40, 1, 24, 0, 0, 0, 0, 0, 0) + rows,
    }  # fmt: skip


@pytest.mark.parametrize("name", [*seeds(), *more_kinds()])
def test_the_size_looked_up_first_is_the_headers(name: str) -> None:
    data = (seeds() | more_kinds())[name]
    header = read_header(data)
    assert declared_size(lambda at, count: data[at : at + count]) == (header.width_px, header.height_px)


@pytest.mark.parametrize("name", [*seeds(), *more_kinds()])
def test_a_cut_header_says_its_size_or_nothing(name: str) -> None:
    data = (seeds() | more_kinds())[name]
    header = read_header(data)
    for cut in range(0, min(len(data), 400)):
        size = declared_size(lambda at, count, end=cut: data[at : min(end, at + count)])  # type: ignore[misc]
        assert size in (None, (header.width_px, header.height_px))


def declared(image_format: str, side_px: int) -> tuple[bytes, int]:
    """The beginning of a file that declares this size, and how many bytes such a file may have."""
    raw_bytes = side_px * side_px * 3
    match image_format:
        case "png":
            return image_files.PNG_SIGNATURE + image_files.chunk(
                b"IHDR", struct.pack(">IIBBBBB", side_px, side_px, 8, 2, 0, 0, 0)
            ), raw_bytes // 2
        case "jpeg":
            data = bytearray(image_files.saved(image_files.crop(), "JPEG", exif=EXIF, icc_profile=bytes(200_000)))
            at = data.index(b"\xff\xc0")
            data[at + 5 : at + 9] = struct.pack(">HH", side_px, side_px)
            return bytes(data), raw_bytes // 8
        case "webp":
            data = bytearray(image_files.saved(image_files.crop(), "WEBP"))
            at = data.index(b"\x9d\x01\x2a")
            data[at + 3 : at + 7] = struct.pack("<HH", side_px, side_px)
            return bytes(data), raw_bytes // 8
        case "bmp":
            head = struct.pack("<IiiHHIIiiII", 40, side_px, side_px, 1, 24, 0, 0, 0, 0, 0, 0)
            return b"BM" + struct.pack("<IHHI", 54 + raw_bytes, 0, 0, 54) + head, 54 + raw_bytes
    tags = ((256, side_px), (257, side_px), (258, 8), (262, 2), (273, 8), (277, 3), (279, raw_bytes))
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    # As most writers do it, the directory stands behind the pixels.
    return struct.pack("<2sHI", b"II", 42, 8 + raw_bytes) + b"\0" * 8 + directory, 8 + raw_bytes + len(directory)


def write_declared(path: Path, image_format: str, side_px: int) -> int:
    """Write such a file, sparse; return its size in bytes."""
    start, size = declared(image_format, side_px)
    with path.open("wb") as file:
        file.write(start[:8] if image_format == "tiff" else start)
        file.truncate(size)
        if image_format == "tiff":
            file.seek(size - (len(start) - 16))
            file.write(start[16:])
    return size


@pytest.mark.parametrize("image_format", ["png", "jpeg", "tiff", "bmp", "webp"])
def test_a_large_picture_is_refused_before_it_is_read(
    image_format: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large"
    size = write_declared(path, image_format, 14_000)
    assert 1 << 24 < size < images.MAX_FILE_BYTES
    real, asked = os.read, [0]

    def counted(descriptor: int, count: int) -> bytes:
        data = real(descriptor, count)
        asked[0] += len(data)
        return data

    monkeypatch.setattr(os, "read", counted)
    with pytest.raises(ImageError, match="14000 x 14000 pixels is more than 64 MP") as caught:
        images.read(path)
    assert caught.value.code == "too_large"
    assert asked[0] < 100_000


@pytest.mark.parametrize("image_format", ["png", "jpeg", "tiff", "bmp", "webp"])
def test_a_large_file_of_a_picture_within_the_limit_is_read_whole(image_format: str, tmp_path: Path) -> None:
    path = tmp_path / "large"
    write_declared(path, image_format, 4000)
    with path.open("r+b") as file:
        file.truncate(max(path.stat().st_size, 20_000_001))
    assert images.read(path) == path.read_bytes()


def test_a_raw_tiff_of_588_mb_costs_neither_memory_nor_time(tmp_path: Path) -> None:
    path = tmp_path / "large.tif"
    assert write_declared(path, "tiff", 14_000) > 588_000_000
    script = """
import resource, sys, time
from glomedge.imaging import images
from glomedge.errors import ImageError
before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
try:
    images.read(sys.argv[1])
except ImageError as error:
    extra_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
    print(error.code, extra_mb, time.process_time() - start)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=True
    )
    code, extra_mb, seconds = done.stdout.split()
    assert code == "too_large"
    assert int(extra_mb) < 20
    assert float(seconds) < 1.0


def test_a_large_sound_file_is_decoded(tmp_path: Path) -> None:
    pixels = np.random.default_rng(4).integers(0, 256, (2400, 2400, 3), np.uint8)
    for name, data in (("a.bmp", image_files.saved(pixels, "BMP")), ("a.tif", image_files.tiff(pixels))):
        path = tmp_path / name
        path.write_bytes(data)
        assert path.stat().st_size > 1 << 24
        np.testing.assert_array_equal(images.decode(images.read(path)).pixels_hwc, pixels)
