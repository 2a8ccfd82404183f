"""Colour enhancement against oracles that share no code with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageEnhance

from glomedge.errors import UsageError
from glomedge.imaging import enhance as preprocess
from glomedge.imaging.enhance import enhance, hue_steps
from glomedge.model.spec import Recipe
from helpers.colour_crops import every_colour_of_red, in_crops, random_crop
from helpers.enhance_oracles import naive_axis, naive_equalised, notebook, shifted_hue

Pixels = npt.NDArray[np.uint8]

RESIZED_ONLY: dict[str, Any] = {"equalise": False, "saturation_factor": 1.0, "hue_degrees": 0.0}


# --- the steps ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
def test_equalisation_equals_a_naive_loop(seed: int) -> None:
    crop = random_crop(seed)
    recipe = Recipe(saturation_factor=1.0, hue_degrees=0.0)
    assert np.array_equal(enhance(crop, recipe), naive_equalised(crop))


@pytest.mark.parametrize("red", [0, 1, 85, 127, 128, 254, 255])
def test_luma_equals_pillow_on_every_colour(red: int) -> None:
    for crop in in_crops(every_colour_of_red(red)):
        recipe = Recipe(**{**RESIZED_ONLY, "saturation_factor": 0.0})  # factor 0 leaves nothing but the luma
        assert np.array_equal(enhance(crop, recipe)[..., 0], np.asarray(Image.fromarray(crop).convert("L")))


def test_luma_ties_round_up_as_in_pillow() -> None:
    # Colours whose luma is exactly a half: where a rounding to even would show. All of them, from the definition.
    red, green = np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    ties = []
    for blue in range(256):
        remainder = (19595 * red + 38470 * green + 7471 * blue) % 65536
        ties += [(r, g, blue) for r, g in np.argwhere(remainder == 32768)]
    assert len(ties) > 100
    (crop,) = in_crops(np.array(ties, np.uint8))
    recipe = Recipe(**{**RESIZED_ONLY, "saturation_factor": 0.0})
    assert np.array_equal(enhance(crop, recipe)[..., 0], np.asarray(Image.fromarray(crop).convert("L")))


# 1.2 is a factor where OpenCV's blend is not exact here and the table takes over; 1.5 is the default.
@pytest.mark.parametrize("factor", [0.0, 0.3, 0.5, 0.99, 1.1, 1.2, 1.3, 1.5, 2.0, 2.7, 10.0])
def test_saturation_equals_pillow_to_the_bit(factor: float) -> None:
    crops = [random_crop(seed) for seed in range(4)] + in_crops(every_colour_of_red(200))
    for crop in crops:
        expected = np.asarray(ImageEnhance.Color(Image.fromarray(crop)).enhance(factor))
        recipe = Recipe(**{**RESIZED_ONLY, "saturation_factor": factor})
        assert np.array_equal(enhance(crop, recipe), expected)


@pytest.mark.parametrize("factor", [0.5, 1.2, 1.5, 2.7])
def test_the_table_alone_equals_pillow(factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # The slower way, taken where OpenCV's blend is not exact on a machine: forced here, so that it is always tested.
    monkeypatch.setattr(preprocess, "_blend_is_exact", lambda _: False)
    for crop in [random_crop(seed) for seed in range(4)]:
        expected = np.asarray(ImageEnhance.Color(Image.fromarray(crop)).enhance(factor))
        assert np.array_equal(enhance(crop, Recipe(**{**RESIZED_ONLY, "saturation_factor": factor})), expected)


def test_the_default_factor_is_a_whole_number_formula() -> None:
    level = np.arange(256)
    expected = np.clip((3 * level[None, :] - level[:, None]) >> 1, 0, 255)  # L + 1.5 (v - L), fraction cut off
    assert np.array_equal(preprocess._saturation_table(1.5), expected)


@pytest.mark.parametrize("degrees", [8.0, -8.0, 2.0, 90.0, 178.0, -180.0, 180.0])
def test_hue_equals_exact_integers(degrees: float) -> None:
    recipe = Recipe(**{**RESIZED_ONLY, "hue_degrees": degrees})
    differing = total = 0
    for crop in [random_crop(seed) for seed in range(4)] + in_crops(every_colour_of_red(140)):
        difference = np.abs(enhance(crop, recipe).astype(int) - shifted_hue(crop, int(degrees / 2) % 180))
        assert difference.max() <= 1
        differing, total = differing + int((difference > 0).sum()), total + difference.size
    # OpenCV's 8-bit saturation misses the chroma by one level for 3 of the 32,896 pairs of value and chroma.
    assert differing / total < 1e-3


def test_hue_shift_keeps_grey_and_wraps_round() -> None:
    grey = np.repeat(np.arange(224, dtype=np.uint8)[None, :, None], 224, axis=0).repeat(3, axis=2)
    assert np.array_equal(enhance(grey, Recipe(**{**RESIZED_ONLY, "hue_degrees": 8.0})), grey)
    red = np.zeros((224, 224, 3), np.uint8)
    red[..., 0] = 240
    third = enhance(red, Recipe(**{**RESIZED_ONLY, "hue_degrees": 120.0}))
    assert third[0, 0].tolist() == [0, 240, 0]
    back = enhance(red, Recipe(**{**RESIZED_ONLY, "hue_degrees": -120.0}))
    assert back[0, 0].tolist() == [0, 0, 240]


@pytest.mark.keras
def test_hue_has_the_semantics_of_tensorflow() -> None:
    tf = pytest.importorskip("tensorflow")
    recipe = Recipe(**{**RESIZED_ONLY, "hue_degrees": 8.0})
    for seed in range(4):
        crop = random_crop(seed)
        difference = enhance(crop, recipe).astype(int) - tf.image.adjust_hue(crop, 8 / 360).numpy().astype(int)
        # 8-bit hue is rounded to 2 degrees, so it is off by up to 1, and a channel changes by chroma / 60 per degree:
        # 255 / 60 = 4.25 levels, and one more for rounding to whole levels on both sides.
        assert np.abs(difference).max() <= 5
        assert np.abs(difference).mean() < 1.5


@pytest.mark.parametrize("degrees", [1.0, -7.0, 8.5])
def test_hue_that_cannot_be_done_exactly_is_refused(degrees: float) -> None:
    with pytest.raises(UsageError, match=r"Choose -?\d+ or -?\d+\.$"):
        enhance(random_crop(0), Recipe(hue_degrees=degrees))


def test_hue_steps() -> None:
    assert [hue_steps(degrees) for degrees in (0.0, 8.0, -8.0, 180.0, -180.0)] == [0, 4, 176, 90, 90]


# --- recipes --------------------------------------------------------------------------------------------------------


def test_published_equals_the_notebook_on_200_crops() -> None:
    for seed in range(200):
        rng = np.random.default_rng(seed)
        height_px, width_px = (int(side) for side in rng.integers(32, 600, 2))
        crop = random_crop(seed, height_px, width_px)
        assert np.array_equal(enhance(crop, "published"), notebook(np.ascontiguousarray(crop[..., ::-1]))), seed


def test_published_equals_the_notebook_on_real_crops(real_data: Path) -> None:
    paths = sorted(real_data.glob("*/*.png"))[::20]
    assert len(paths) > 30
    for path in paths:
        bgr = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        assert bgr is not None
        assert np.array_equal(enhance(cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB), "published"), notebook(bgr)), path.name


def test_seed_is_its_steps_in_order() -> None:
    crop = random_crop(1, 500, 400)
    expected = cv2.resize(crop, (224, 224), interpolation=cv2.INTER_AREA)
    expected = naive_equalised(expected)
    expected = np.asarray(ImageEnhance.Color(Image.fromarray(expected)).enhance(1.5))
    expected = shifted_hue(np.ascontiguousarray(expected), 4)
    difference = np.abs(enhance(crop).astype(int) - expected)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 1e-3


def test_plain_and_neutral_parameters_only_resize() -> None:
    crop = random_crop(1)
    assert np.array_equal(enhance(crop, "plain"), crop)
    assert np.array_equal(enhance(crop, Recipe(**RESIZED_ONLY)), crop)
    assert not np.array_equal(enhance(crop, "seed"), crop)


@pytest.mark.parametrize(
    "size",
    [(300, 500), (224, 500), (500, 224), (100, 50), (224, 100), (600, 60), (60, 600), (1, 1), (1, 700), (448, 448)],
)
def test_each_axis_is_resized_by_its_own_rule(size: tuple[int, int]) -> None:
    crop = random_crop(0, *size)
    expected = naive_axis(naive_axis(crop.astype(float), 224).transpose(1, 0, 2), 224).transpose(1, 0, 2)
    # Rounding once or twice, and OpenCV's 11-bit weights when growing: never more than a level and a half.
    assert np.abs(enhance(crop, "plain") - expected).max() < 1.5
