"""The cache of enhanced crops holds exactly what enhancing gives, and never serves anything else."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from glomedge.errors import OutputError
from glomedge.imaging import images
from glomedge.imaging.enhance import enhance
from glomedge.model.spec import Recipe
from glomedge_export.data import enhanced
from glomedge_export.data.dataset import Dataset, read_dataset
from helpers.labelled import write_crops


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return read_dataset(write_crops(tmp_path / "data"))


@pytest.mark.parametrize("recipe", ["seed", "published", "plain"])
def test_holds_what_enhance_gives(dataset: Dataset, tmp_path: Path, recipe: str) -> None:
    crops = enhanced.enhanced(dataset, Recipe.named(recipe), tmp_path / "cache")
    assert crops.shape == (len(dataset.items), 224, 224, 3)
    assert crops.dtype == np.uint8
    assert not crops.flags.writeable
    for crop, item in zip(crops, dataset.items, strict=True):
        expected = enhance(images.decode(item.path.read_bytes()).pixels_hwc, recipe)
        np.testing.assert_array_equal(crop, expected)


def test_second_call_reads_no_image(dataset: Dataset, tmp_path: Path) -> None:
    first = enhanced.enhanced(dataset, Recipe(), tmp_path / "cache")
    for item in dataset.items:
        item.path.unlink()
    np.testing.assert_array_equal(enhanced.enhanced(dataset, Recipe(), tmp_path / "cache"), first)


def test_progress_counts_every_crop(dataset: Dataset, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    enhanced.enhanced(dataset, Recipe(), tmp_path, lambda done, total: calls.append((done, total)))
    assert calls == [(i, len(dataset.items)) for i in range(1, len(dataset.items) + 1)]


def test_another_recipe_or_data_is_another_file(tmp_path: Path) -> None:
    paths = {
        enhanced.cache_path(tmp_path, sha256, recipe)
        for sha256 in ("0" * 64, "1" * 64)
        for recipe in (Recipe(), Recipe(hue_degrees=9.0), Recipe.named("plain"))
    }
    assert len(paths) == 6


@pytest.mark.parametrize("content", [b"", b"rubbish", b"\x93NUMPY"])
def test_damaged_cache_is_made_anew(dataset: Dataset, tmp_path: Path, content: bytes) -> None:
    good = np.array(enhanced.enhanced(dataset, Recipe(), tmp_path / "cache"))
    path = enhanced.cache_path(tmp_path / "cache", dataset.sha256, Recipe())
    path.write_bytes(content)
    np.testing.assert_array_equal(enhanced.enhanced(dataset, Recipe(), tmp_path / "cache"), good)


def test_interrupted_making_leaves_nothing(dataset: Dataset, tmp_path: Path) -> None:
    def stop(done: int, _: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        enhanced.enhanced(dataset, Recipe(), tmp_path / "cache", stop)
    assert list((tmp_path / "cache").iterdir()) == []


def test_unwritable_place_says_how_much_room_is_needed(dataset: Dataset, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match=r"1 MB there or name another place with --cache-dir"):
        enhanced.enhanced(dataset, Recipe(), tmp_path / "file" / "inside")
