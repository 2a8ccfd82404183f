"""Drawn slides: what is drawn is outlined, in every format alike, and any reader opens it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import openslide
import pytest

from glomedge.errors import UsageError
from glomedge.slides.annotations.classes import choose, survey
from glomedge.slides.annotations.reading import read_outlines
from glomedge.slides.crop_folder import cut_crops
from glomedge.slides.crops import box_of
from glomedge.slides.reader import Slide
from glomedge_export.data.dataset import read_dataset
from glomedge_export.synthetic.annotation_files import FORMATS
from glomedge_export.synthetic.dataset import plan_dataset
from glomedge_export.synthetic.slide import DrawnSlides, write_slides
from glomedge_export.synthetic.tiled_tiff import pyramid, write_slide


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> DrawnSlides:
    return write_slides(
        tmp_path_factory.mktemp("drawn") / "slides", glomeruli=8, cases=2, seed=3, positive_fraction=0.5
    )


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_counts(drawn: DrawnSlides) -> None:
    assert (drawn.glomeruli, drawn.positive, drawn.cases) == (8, 4, 2)
    assert len(drawn.slides) >= 2
    assert all((drawn.directory / name).stat().st_size < 3_000_000 for name in drawn.slides)


def test_every_format_outlines_the_same_boxes_and_classes(drawn: DrawnSlides) -> None:
    for name in drawn.slides:
        stem = name.removesuffix(".svs")
        found = {}
        for ending in FORMATS:
            folder = drawn.directory if ending == ".geojson" else drawn.directory / "other-formats"
            outlines = list(read_outlines(folder / f"{stem}{ending}"))
            assert all(outline.error is None and not outline.flags for outline in outlines)
            found[ending] = sorted((outline.label.class_name, box_of(outline)) for outline in outlines)
        assert all(each == found[".geojson"] for each in found.values())


def test_crops_cut_from_them_have_the_names_that_were_planned(drawn: DrawnSlides, tmp_path: Path) -> None:
    for name in drawn.slides:
        outlines = drawn.directory / "other-formats" / name.replace(".svs", ".dsa.json")
        assert choose("x", survey(read_outlines(outlines))).left_out == {"tissue": 1}
        with Slide(drawn.directory / name) as slide:
            assert slide.info.mpp == 0.25
            assert slide.info.vendor == "aperio"
            assert len(slide.info.levels) == 3
            cut_crops(slide, outlines, tmp_path / "crops")
    dataset = read_dataset(tmp_path / "crops", min_cases=0)
    planned = {crop.name: (crop.label, crop.case) for crop in plan_dataset(8, 2, 3, 0.5)}
    assert {item.name: (item.label, item.case) for item in dataset.items} == planned
    lines = (tmp_path / "crops" / "public.csv").read_text().splitlines()[1:]
    assert sorted(lines) == sorted(f"{crop.name},{crop.label}" for crop in plan_dataset(8, 2, 3, 0.5))


def test_the_same_seed_gives_the_same_bytes(drawn: DrawnSlides, tmp_path: Path) -> None:
    write_slides(tmp_path / "a", glomeruli=8, cases=2, seed=3, positive_fraction=0.5)
    assert digests(tmp_path / "a") == digests(drawn.directory)
    write_slides(tmp_path / "a", glomeruli=4, cases=2, seed=4)
    listed = json.loads((tmp_path / "a" / "synthetic-slides.json").read_text())["files"]
    assert digests(tmp_path / "a").keys() == {*listed, "README.txt", "synthetic-slides.json"}


def test_a_folder_with_other_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.svs").write_bytes(b"x")
    with pytest.raises(UsageError, match=r"not empty \(mine.svs\)"):
        write_slides(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.svs"]


def test_what_was_added_to_a_drawn_set_is_not_removed(tmp_path: Path) -> None:
    write_slides(tmp_path, glomeruli=2, cases=1)
    (tmp_path / "other-formats" / "notes.txt").write_text("mine")
    with pytest.raises(UsageError, match=r"notes.txt"):
        write_slides(tmp_path, glomeruli=2, cases=1)


@pytest.mark.parametrize("size", [(1, 1), (256, 256), (257, 511), (600, 300)])
def test_pyramids_of_any_size_are_read(size: tuple[int, int], tmp_path: Path) -> None:
    pixels = np.full((*size, 3), (200, 100, 150), np.uint8)
    write_slide(tmp_path / "a.tif", pyramid(pixels, 2), "plain", 0.5)
    with openslide.OpenSlide(str(tmp_path / "a.tif")) as slide:
        assert slide.dimensions == size[::-1]
        assert float(slide.properties["openslide.mpp-x"]) == pytest.approx(0.5)
        read = np.asarray(slide.read_region((0, 0), 0, slide.dimensions)).astype(int)
    assert np.abs(read[..., :3] - (200, 100, 150)).max() <= 3


def test_a_thumbnail_follows_the_first_level_as_on_aperio_slides(drawn: DrawnSlides) -> None:
    with openslide.OpenSlide(str(drawn.directory / drawn.slides[0])) as slide:
        thumbnail = np.asarray(slide.associated_images["thumbnail"].convert("RGB"), float)
        assert max(thumbnail.shape) == 512
        whole = np.asarray(slide.get_thumbnail((512, 512)).convert("RGB"), float)
        assert np.abs(thumbnail[: len(whole)] - whole[: len(thumbnail)]).mean() < 6
