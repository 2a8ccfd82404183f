"""Progressive JPEG: whole files are never refused, holes and cuts that can be told are."""

from __future__ import annotations

import io
import re
from itertools import pairwise
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from glomedge.errors import ImageError
from glomedge.imaging import images
from glomedge.imaging.formats import jpeg_progressive, jpeg_scan

Pixels = npt.NDArray[np.uint8]
_SCAN = re.compile(rb"\xff\xda")
_MARK = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


def pattern(height_px: int, width_px: int, seed: int) -> Pixels:
    """Noise, smooth colours, or smooth colours above a flat area."""
    rng = np.random.default_rng(seed)
    if seed % 3 == 0:
        return rng.integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)
    small = rng.integers(0, 256, (max(2, height_px // 16), max(2, width_px // 16), 3), dtype=np.uint8)
    rgb: Pixels = cv2.resize(small, (width_px, height_px), interpolation=cv2.INTER_CUBIC)
    if seed % 3 == 1:
        rgb[height_px // 3 :] = (240, 240, 240)
    return rgb


def progressive(rgb: Pixels, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, "JPEG", progressive=True, **options)
    return file.getvalue()


def saved(seed: int) -> bytes:
    """Any size, quality, subsampling and restart interval; gray at times."""
    rng = np.random.default_rng(seed)
    rgb = pattern(int(rng.integers(1, 120)), int(rng.integers(1, 120)), seed)
    options: dict[str, Any] = {"quality": int(rng.integers(5, 100))}
    if seed % 4 == 0:
        options["restart_marker_blocks"] = int(rng.integers(1, 20))
    if seed % 5 == 0:
        return progressive(np.ascontiguousarray(rgb[..., 0]), **options)
    return progressive(rgb, subsampling=int(rng.integers(0, 3)), **options)


def test_no_whole_file_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jpeg_scan, "_SUSPICIOUS", b"")  # every file is followed
    assert [jpeg_scan.complete(saved(seed)) for seed in range(60)] == [True] * 60


def test_whole_files_are_not_even_followed() -> None:
    assert not any(jpeg_progressive.may_be_cut(saved(seed)) for seed in range(60))


@pytest.mark.parametrize("length", [64, 512, 4096])
def test_a_hole_is_found(length: int, capfd: pytest.CaptureFixture[str]) -> None:
    found = tried = 0
    for seed in range(40):
        data = progressive(pattern(190, 150, seed), quality=80 + seed % 20)
        begin = data.index(b"\xff\xda") + 14
        if len(data) - begin < length + 100:
            continue
        at = int(np.random.default_rng(seed).integers(begin, len(data) - length - 2))
        tried += 1
        try:
            images.decode(data[:at] + bytes(length) + data[at + length :])
        except ImageError as error:
            found += error.code == "corrupt"
    assert tried >= 10
    assert found >= 0.9 * tried
    # What libjpeg would fill in, it says there.
    assert len(capfd.readouterr().err.splitlines()) <= tried - found


def test_a_cut_that_was_given_an_end_mark_is_found_but_in_the_last_scan() -> None:
    data = progressive(pattern(190, 150, 0), quality=90)
    scans = [match.start() for match in _SCAN.finditer(data)]
    assert len(scans) > 5
    for scan, following in pairwise(scans):
        middle = (scan + 10 + following) // 2
        with pytest.raises(ImageError, match="a part of its pixels is missing"):
            images.decode(data[:middle] + b"\xff\xd9")


def test_fewer_scans_are_a_valid_picture_of_less_detail() -> None:
    data = progressive(pattern(190, 150, 2), quality=90)
    second = [match.start() for match in _SCAN.finditer(data)][1]
    # The tables of a scan stand before it.
    end = data.rindex(b"\xff\xc4", 0, second)
    less = data[:end] + b"\xff\xd9"
    assert jpeg_progressive.may_be_cut(less)
    assert images.decode(less).pixels_hwc.shape == (190, 150, 3)


def test_a_scan_that_is_missing() -> None:
    data = progressive(pattern(64, 64, 2), quality=90)
    scans = [match.start() for match in _SCAN.finditer(data)]
    needed = []
    for scan in scans:
        end = _MARK.search(data, scan + 2 + data[scan + 3])
        assert end is not None
        lost = data[:scan] + data[end.start() :]
        assert jpeg_scan.may_have_hole(lost)
        needed.append(jpeg_scan.complete(lost) is False)
    # A later scan corrects what the first six sent; without one of the last corrections there is less detail.
    assert needed == [True] * 6 + [False] * 4


def test_large_pictures_are_left_to_the_decoder() -> None:
    data = progressive(np.full((3000, 3500, 3), 200, np.uint8), quality=50)
    cut = data[:-2] + bytes(64) + data[-2:]
    assert jpeg_scan.complete(cut) is None
