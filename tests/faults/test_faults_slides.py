"""What can be wrong with a slide or its outlines: a row or a refusal that says so, and every other row as it was."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from glomedge.engine.options import EngineOptions
from glomedge.errors import GlomedgeError
from glomedge.runs.folder import Options, infer_folder
from glomedge.runs.slide_parts import SlideParts
from glomedge.slides import reader
from glomedge.slides.reader import Box, Region, Slide
from helpers.drawn_slides import damage_tile, write
from helpers.run_kit import outputs, run_in_child, table
from helpers.slide_runs import outline, square, squares, write_outlined

GOOD = "S-2.svs"


@pytest.fixture
def options(tmp_path: Path, tiny_model: Path) -> Options:
    """A run over a good slide of four outlines, beside which faulty ones are put."""
    write_outlined(tmp_path / "slides", (GOOD,), 4)
    return Options(tmp_path / "slides", tiny_model, tmp_path / "out", engine=EngineOptions("cpu"))


def good_rows(options: Options) -> list[dict[str, str]]:
    return [row for row in table(options.output) if row["slide"] == "S-2"]


def other_rows(options: Options) -> list[dict[str, str]]:
    return [row for row in table(options.output) if row["slide"] != "S-2"]


def _no_resolution(slide: Path) -> None:
    write(slide, mpp_text=None)


def _absurd_resolution(slide: Path) -> None:
    write(slide, mpp_text="352.8")


def _half(slide: Path) -> None:
    data = write(slide).read_bytes()
    slide.write_bytes(data[: len(data) // 2])


def _companion_missing(slide: Path) -> None:
    # Of MRXS the file itself is only a picture: all tiles lie in the folder of its name.
    slide.with_suffix(".mrxs").write_bytes(b"\xff\xd8\xff\xe0" + bytes(200))


def _no_slide(slide: Path) -> None:
    slide.write_bytes(b"\x89PNG" + bytes(2000))


def _two_files(slide: Path) -> None:
    write(slide).with_suffix(".xml").write_text("<ASAP_Annotations/>")


def _cut_off(slide: Path) -> None:
    marks = outline(write(slide), *squares(3))
    marks.write_bytes(marks.read_bytes()[:-40])


def _entities(slide: Path) -> None:
    write(slide).with_suffix(".geojson").unlink(missing_ok=True)
    slide.with_suffix(".xml").write_text('<!DOCTYPE a [<!ENTITY b "c">]><Annotations>&b;</Annotations>')


def _only_tissue(slide: Path) -> None:
    outline(write(slide), square(1, 5, 5, 100, "tissue"))


def _empty(slide: Path) -> None:
    outline(write(slide))


@pytest.mark.parametrize(
    ("fault", "code", "words"),
    [
        (_no_resolution, "mpp", "--mpp 0.25"),
        (_absurd_resolution, "mpp", "--mpp"),
        (_half, "corrupt|format", "whole one|Copy it again"),
        (_companion_missing, "corrupt|format", "files beside it|everything beside it"),
        (_no_slide, "format", "no slide that OpenSlide reads"),
        (_two_files, "outlines", "S-1.geojson, S-1.xml"),
        (_cut_off, "outlines", "S-1.geojson"),
        (_entities, "outlines", "S-1.xml"),
        (_only_tissue, "outlines", "--class Glomerulus"),
        (_empty, "outlines", "holds no outline"),
    ],
)
def test_a_slide_that_cannot_be_used_is_one_row_and_alone_refused(
    fault: Callable[[Path], None], code: str, words: str, options: Options
) -> None:
    infer_folder(options)
    expected = good_rows(options)
    slide = options.folder / "S-1.svs"
    outline(slide, square(1, 37, 91))
    fault(slide)
    outcome = infer_folder(options)
    (row,) = other_rows(options)
    slide = slide if slide.exists() else slide.with_suffix(".mrxs")
    assert outcome.exit_code == 2
    assert row["status"].removeprefix("error:") in code.split("|")
    assert any(each in row["message"] for each in words.split("|"))
    assert len(row["message"]) < 500
    assert (row["path"], row["case"], row["probability"], row["x"], row["mpp"]) == (f"{slide.name}#", "S-1", "", "", "")
    assert good_rows(options) == expected
    with pytest.raises(GlomedgeError) as refusal:
        infer_folder(replace(options, folder=slide))
    assert any(each in str(refusal.value) for each in words.split("|"))


def test_outlines_at_the_edge_outside_and_of_no_use_have_their_rows(options: Options) -> None:
    bad_number = square(6, 10, 10)
    bad_number["geometry"]["coordinates"] = [[[1e300, 5], [9, 5], [9, 9], [1e300, 5]]]
    outline(
        options.folder / GOOD,
        square(1, 37, 91),
        square(2, 800, 300, 150),
        square(3, 900, 100),
        square(4, -500, 100),
        square(5, 899, 10),
        bad_number,
    )
    outcome = infer_folder(options)
    rows = table(options.output)
    statuses = [row["status"].replace("+blank", "").replace("flagged:blank", "ok") for row in rows]
    assert statuses == [
        "ok", "flagged:at_edge", "error:outside", "error:outside", "error:too_small", "error:outline",
    ]  # fmt: skip
    assert [row["width"] for row in rows] == ["90", "100", "", "", "1", ""]
    assert "out of range" in rows[5]["message"]
    assert outcome.exit_code == 2


def test_a_damaged_tile_takes_only_its_own_rows(options: Options) -> None:
    slide = options.folder / GOOD
    marks = [square(number, 20 + 150 * (number % 5), 30 + 200 * (number // 5), 100) for number in range(15)]
    outline(slide, *marks)
    infer_folder(options)
    whole = table(options.output)
    damage_tile(slide, 8)  # the tile at the upper left corner comes first in the file
    for name, run in {"1": replace(options, workers=1), "4": replace(options, workers=4)}.items():
        run = replace(run, output=options.output / name)
        infer_folder(run)
        rows = table(run.output)
        damaged = [int(row["x"]) < 256 and int(row["y"]) < 256 for row in rows]
        assert [row["status"] == "error:corrupt" for row in rows] == damaged
        assert sum(damaged) == 4
        assert [row["x"] for row in rows] == [row["x"] for row in whole], "where it is stands in the row"
        assert [row for row, bad in zip(rows, damaged, strict=True) if not bad] == [
            row for row, bad in zip(whole, damaged, strict=True) if not bad
        ]


def test_outlines_on_a_damaged_part_are_read_again_although_their_file_has_no_new_time(options: Options) -> None:
    """As of MRXS and DICOM, whose pixels lie in other files than the one that is the slide."""
    slide = options.folder / GOOD
    whole = slide.read_bytes()
    damage_tile(slide, 8)
    status = slide.stat()
    outcome = infer_folder(options)
    damaged = outcome.errors["corrupt"]
    assert 0 < damaged < outcome.answered
    slide.write_bytes(whole)
    os.utime(slide, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert slide.stat().st_size == status.st_size
    outcome = infer_folder(replace(options, resume=True))
    assert (outcome.predicted, outcome.errors) == (damaged, {})


def test_a_slide_that_vanishes_during_the_run_is_answered_when_it_is_back(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    slide, away = options.folder / GOOD, options.folder.parent / "away.svs"
    infer_folder(replace(options, output=options.output / "whole"))
    open_slide, calls = SlideParts._slide, []

    def vanishing(self: SlideParts, place: int) -> Slide:
        calls.append(place)
        if len(calls) == 3:
            slide.rename(away)
            self._opened.clear()
        return open_slide(self, place)

    monkeypatch.setattr(SlideParts, "_slide", vanishing)
    outcome = infer_folder(replace(options, workers=1))
    assert outcome.errors == {"vanished": 2}
    assert "there is no such slide" in table(options.output)[-1]["message"]
    with pytest.raises(GlomedgeError, match=r"no image|the outlines of S-2\.svs"):
        infer_folder(replace(options, resume=True))
    away.rename(slide)
    assert infer_folder(replace(options, resume=True)).predicted == 2
    assert [row["status"] for row in table(options.output)] == [
        row["status"] for row in table(options.output / "whole")
    ]


def _dies_at_a_box() -> None:
    read = reader.Slide.read

    def fatal(self: Slide, box: Box) -> Region:
        if box.x == 74:
            os.kill(os.getpid(), signal.SIGKILL)
        return read(self, box)

    reader.Slide.read = fatal  # type: ignore[method-assign]


def test_a_crash_while_a_slide_is_read_moves_reading_into_processes(options: Options) -> None:
    whole = replace(options, output=options.output / "whole")
    infer_folder(whole)
    assert run_in_child(options, _dies_at_a_box) == -signal.SIGKILL
    assert infer_folder(replace(options, resume=True)).exit_code == 0
    assert json.loads((options.output / "run.json").read_bytes())["decoding"]["in"] == "processes"
    assert outputs(options.output) == outputs(whole.output)


def test_slides_that_share_a_file_of_outlines(options: Options) -> None:
    for name in ("S-1.svs", "S-1.tif"):
        outline(write(options.folder / name), square(1, 37, 91))
    outcome = infer_folder(options)
    rows = other_rows(options)
    assert [row["path"] for row in rows] == ["S-1.svs#", "S-1.tif#"]
    assert all("S-1.geojson may be of either" in row["message"] for row in rows)
    assert outcome.errors == {"outlines": 2}
