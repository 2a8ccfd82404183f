"""Colour enhancement for networks of other sides than 224 px, against the same oracles."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageEnhance

import glomedge
from glomedge.errors import UsageError
from glomedge.imaging.enhance import enhance
from glomedge.model.spec import Recipe
from helpers.colour_crops import random_crop
from helpers.enhance_oracles import naive_axis, naive_equalised, notebook, shifted_hue

RECIPES = ("seed", "published", "plain")
SIDES_PX = (32, 97, 299, 331)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("side_px", [*SIDES_PX, 224, 1024])
def test_the_recipe_says_the_side(recipe: str, side_px: int) -> None:
    crop = random_crop(0, 210, 330)
    sized = Recipe.named(recipe).model_copy(update={"size_px": side_px})
    result = enhance(crop, sized)
    assert result.shape == (side_px, side_px, 3)
    assert np.array_equal(result, glomedge.enhance(crop, recipe, size_px=side_px))
    assert np.array_equal(result, enhance(crop, sized, size_px=side_px))
    batch = np.zeros((2, side_px, side_px, 3), np.uint8)
    assert np.array_equal(enhance(crop, sized, out=batch[1]), result)


@pytest.mark.parametrize("side_px", SIDES_PX)
def test_published_equals_the_notebook(side_px: int) -> None:
    for seed, size in enumerate([(side_px, side_px), (500, 310), (40, 600), (20, 30)]):
        crop = random_crop(seed, *size)
        expected = notebook(np.ascontiguousarray(crop[..., ::-1]), side_px)
        assert np.array_equal(enhance(crop, "published", size_px=side_px), expected), size


@pytest.mark.parametrize("side_px", [97, 299])
def test_seed_is_its_steps_in_order(side_px: int) -> None:
    crop = random_crop(1, side_px, side_px)
    expected = np.asarray(ImageEnhance.Color(Image.fromarray(naive_equalised(crop))).enhance(1.5))
    expected = shifted_hue(np.ascontiguousarray(expected), 4)
    difference = np.abs(enhance(crop, "seed", size_px=side_px).astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


@pytest.mark.parametrize("side_px", [96, 299])
@pytest.mark.parametrize("size", [(300, 500), (299, 500), (100, 50), (600, 60), (60, 600), (1, 1), (598, 598)])
def test_each_axis_is_resized_by_its_own_rule(side_px: int, size: tuple[int, int]) -> None:
    crop = random_crop(0, *size)
    expected = naive_axis(naive_axis(crop.astype(float), side_px).transpose(1, 0, 2), side_px).transpose(1, 0, 2)
    assert np.abs(enhance(crop, "plain", size_px=side_px) - expected).max() < 1.5


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("side_px", [33, 97, 299, 1023])
def test_bytes_do_not_depend_on_where_a_pixel_lies(recipe: str, side_px: int) -> None:
    # Rows of no whole number of vector registers: their last pixels are computed by other instructions.
    colours: npt.NDArray[np.uint8] = np.random.default_rng(1).integers(0, 256, (side_px**2, 3), dtype=np.uint8)
    order = np.random.default_rng(0).permutation(side_px**2)
    shape = (side_px, side_px, 3)
    expected = enhance(colours.reshape(shape), recipe, size_px=side_px).reshape(-1, 3)[order]
    shuffled = enhance(colours[order].reshape(shape), recipe, size_px=side_px)
    assert np.array_equal(shuffled.reshape(-1, 3), expected)


def test_threads_may_mix_sides() -> None:
    crops = [random_crop(seed, 150 + 31 * seed, 500 - 23 * seed) for seed in range(8)]
    work = [(crop, recipe, side_px) for crop in crops for recipe in RECIPES for side_px in (96, 224, 299)]
    expected = [enhance(crop, recipe, size_px=side_px) for crop, recipe, side_px in work]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda item: enhance(item[0], item[1], size_px=item[2]), work))
    assert all(np.array_equal(a, b) for a, b in zip(results, expected, strict=True))


@pytest.mark.parametrize("size_px", [0, 31, 1025, 99.5, "96", -224])
def test_other_sides_are_refused(size_px: Any) -> None:
    with pytest.raises(UsageError, match="from 32 to 1024"):
        enhance(random_crop(0), "seed", size_px=size_px)


def test_a_recipe_of_another_side_is_refused() -> None:
    with pytest.raises(UsageError, match="resizes to 224 px, not to 96"):
        enhance(random_crop(0), Recipe(), size_px=96)


def test_a_buffer_of_another_side_is_refused() -> None:
    with pytest.raises(UsageError, match=r"shape \[299, 299, 3\]"):
        enhance(random_crop(0), "seed", np.zeros((224, 224, 3), np.uint8), size_px=299)
