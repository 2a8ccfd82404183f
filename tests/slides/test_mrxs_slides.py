"""MRXS, whose pixels lie in files beside the one that is named, and of which QuPath shows the scanned part alone."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glomedge.engine.options import EngineOptions
from glomedge.errors import GlomedgeError, ImageError
from glomedge.runs.folder import Options, infer_folder
from glomedge.slides.reader import Box, Slide
from helpers.annotation_files import dsa, encoded, polyline
from helpers.drawn_slides import picture
from helpers.mrxs_slides import write_mrxs
from helpers.qupath_rules import qupath_problems
from helpers.run_kit import outputs, table
from helpers.slide_runs import outline, square

NOT_SCANNED = {(0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (3, 2)}
"""The first column and the last row of 4 x 3 tiles."""
LEFT_PX = 256
PLACES = [(20, 30), (300, 40), (500, 150), (100, 300), (400, 330)]
"""Upper left corners of outlines, as QuPath counts; the first three on tiles of the first data file alone."""


def write(path: Path) -> Path:
    return write_mrxs(path, picture(768, 1024), NOT_SCANNED)


@pytest.fixture
def options(tmp_path: Path, tiny_model: Path) -> Options:
    """A run over a slide of five outlines, not begun."""
    (tmp_path / "slides").mkdir()
    outline(write(tmp_path / "slides" / "S-1.mrxs"), *(square(n, x, y) for n, (x, y) in enumerate(PLACES)))
    engine = EngineOptions("cpu")
    return Options(tmp_path / "slides", tiny_model, tmp_path / "out", engine=engine, formats=("geojson",), report=False)


def test_what_was_not_scanned_is_white_and_qupath_counts_from_what_was(tmp_path: Path) -> None:
    with Slide(write(tmp_path / "S-1.mrxs")) as slide:
        assert (slide.info.vendor, slide.info.mpp) == ("mirax", 0.25)
        assert slide.info.bounds == Box(LEFT_PX, 0, 768, 512)
        assert slide.qupath_origin_px == (LEFT_PX, 0)
        scanned = slide.read(Box(300, 10, 200, 300)).pixels_hwc
        assert np.abs(scanned.astype(int) - picture(768, 1024)[10:310, 300:500]).max() <= 8
        assert slide.read(Box(10, 10, 100, 100)).pixels_hwc.min() == 255


def test_a_file_of_qupath_in_and_out_lands_on_the_same_place(options: Options) -> None:
    infer_folder(options)
    rows = table(options.output)
    assert [(int(row["x"]), int(row["y"])) for row in rows] == [(x + LEFT_PX, y) for x, y in PLACES]
    written = (options.output / "annotations" / "S-1.geojson").read_bytes()
    assert qupath_problems(written) == []
    corners = [np.array(each["geometry"]["coordinates"][0]).min(axis=0) for each in json.loads(written)["features"]]
    assert [tuple(corner) for corner in corners] == PLACES
    # The Digital Slide Archive counts from the corner of the whole slide.
    (options.folder / "S-1.geojson").unlink()
    elements = [
        polyline(n, points=[[x + LEFT_PX + dx, y + dy, 0] for dx, dy in ((0, 0), (90, 0), (90, 90), (0, 90))])
        for n, (x, y) in enumerate(PLACES)
    ]
    (options.folder / "S-1.json").write_bytes(encoded(dsa(*elements)))
    infer_folder(replace(options, output=options.output / "archive"))
    told = ("x", "y", "width", "height", "probability", "sha256")
    assert [[row[name] for name in told] for row in table(options.output / "archive")] == [
        [row[name] for name in told] for row in rows
    ]


def _no_folder(slide: Path) -> None:
    slide.with_suffix("").rename(slide.with_name("elsewhere"))


def _no_index(slide: Path) -> None:
    (slide.with_suffix("") / "Index.dat").unlink()


def _no_data(slide: Path) -> None:
    (slide.with_suffix("") / "Data0001.dat").unlink()


@pytest.mark.parametrize("fault", [_no_folder, _no_index, _no_data])
def test_a_missing_companion_is_a_row_and_alone_refused(fault: Callable[[Path], None], options: Options) -> None:
    slide = options.folder / "S-1.mrxs"
    fault(slide)
    with pytest.raises(ImageError):
        Slide(slide)
    assert infer_folder(options).exit_code == 2
    (row,) = table(options.output)
    assert row["status"] in ("error:format", "error:corrupt")
    assert "beside it" in row["message"]
    with pytest.raises(GlomedgeError, match="beside it"):
        infer_folder(replace(options, folder=slide))


def test_a_damaged_data_file_takes_only_its_own_rows_until_it_is_mended(options: Options) -> None:
    whole = replace(options, output=options.output / "whole")
    infer_folder(whole)
    data = options.folder / "S-1" / "Data0001.dat"
    kept = data.read_bytes()
    data.write_bytes(bytes(len(kept)))
    outcome = infer_folder(options)
    rows, good = table(options.output), table(whole.output)
    assert [row["status"] for row in rows[3:]] == ["error:corrupt"] * 2
    assert rows[:3] == good[:3]
    assert outcome.exit_code == 2
    data.write_bytes(kept)
    # The pixels are those of the first run, but the slide's files are not: so all of it is read again.
    assert infer_folder(replace(options, resume=True)).predicted == 5
    assert outputs(options.output) == outputs(whole.output)


def test_a_data_file_is_replaced_after_its_rows_were_ok(options: Options) -> None:
    infer_folder(options)
    before = table(options.output)
    assert infer_folder(replace(options, resume=True)).predicted == 0
    slide = options.folder / "S-1.mrxs"
    status = slide.stat()
    write_mrxs(slide, np.roll(picture(768, 1024), 100, axis=1), NOT_SCANNED)
    os.utime(slide, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert slide.stat().st_size == status.st_size
    assert infer_folder(replace(options, resume=True)).predicted == 5
    assert all(row["sha256"] != old["sha256"] for row, old in zip(table(options.output), before, strict=True))
