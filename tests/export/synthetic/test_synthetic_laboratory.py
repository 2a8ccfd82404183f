"""The second laboratory: other dyes and another scanner over the same tissue; neither tells the classes apart."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from glomedge.errors import UsageError
from glomedge_export.synthetic.crop import draw_crop
from glomedge_export.synthetic.dataset import plan_dataset, write_dataset
from glomedge_export.synthetic.laboratory import LABORATORIES, Scanner
from glomedge_export.synthetic.optics import Stain

SIZE_PX = (220, 220)


def drawn(seed: int, laboratory: int, sclerotic: bool) -> npt.NDArray[np.uint8]:
    """One crop, RGB; the stain of its biopsy is the seed's."""
    stain = Stain.draw(np.random.default_rng([1, seed]), LABORATORIES[laboratory])
    return draw_crop(np.random.default_rng([2, seed]), sclerotic, SIZE_PX, stain)[..., :3]


@pytest.fixture(scope="module")
def pairs() -> list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]]:
    """Crops of laboratory 1 and 2, drawn from the same seeds, both classes in turn."""
    return [(drawn(seed, 1, seed % 2 == 1), drawn(seed, 2, seed % 2 == 1)) for seed in range(60)]


def test_the_tissue_is_the_same_and_the_colour_is_not(
    pairs: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]],
) -> None:
    likeness, tint = [], []
    for home, away in pairs:
        blurred = [cv2.GaussianBlur(crop[..., 1], (0, 0), 2).ravel().astype(float) for crop in (home, away)]
        likeness.append(np.corrcoef(blurred)[0, 1])
        # Purple against pink: blue over red, of the mean colour.
        tint.append([crop[..., 2].mean() / crop[..., 0].mean() for crop in (home, away)])
    assert np.median(likeness) > 0.9
    home_tint, away_tint = np.array(tint).T
    assert abs(np.median(away_tint) - np.median(home_tint)) > home_tint.std(), "further than biopsies differ among them"


def test_no_first_order_statistic_gives_the_class_away(
    pairs: list[tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]],
) -> None:
    label = np.arange(len(pairs)) % 2 == 1
    table = np.array([away.reshape(-1, 3).mean(0) for _, away in pairs])
    for column in table.T:
        difference = column[label][:, None] - column[~label][None]
        assert 0.25 < (difference > 0).mean() < 0.75


def test_a_set_of_it_differs_in_nothing_but_the_pixels(tmp_path: Path) -> None:
    for laboratory in (1, 2):
        write_dataset(tmp_path / str(laboratory), crops=4, cases=2, seed=7, laboratory=laboratory)
    home, away = (json.loads((tmp_path / folder / "synthetic.json").read_text()) for folder in "12")
    assert (home.pop("laboratory"), away.pop("laboratory")) == (1, 2)
    assert home == away
    for name in home["files"]:
        one, other = (cv2.imread(str(tmp_path / folder / name), cv2.IMREAD_UNCHANGED) for folder in "12")
        assert one is not None
        assert other is not None
        assert one.shape == other.shape
        assert not np.array_equal(one, other)
        assert (other[..., 3] == 255).all()


def test_an_unknown_laboratory_is_refused() -> None:
    with pytest.raises(UsageError, match="choose --laboratory 1 or 2"):
        plan_dataset(4, 2, 0, 0.4, laboratory=3)


def test_a_scanner_without_a_character_changes_hardly_anything() -> None:
    pixels = cv2.GaussianBlur(np.random.default_rng(0).integers(0, 256, (64, 80, 3), np.uint8), (0, 0), 3)
    plain = Scanner(gamma=(1.0, 1.0, 1.0), jpeg_quality=100).render(pixels)
    assert plain.shape == pixels.shape
    assert np.abs(plain.astype(int) - pixels).max() <= 6
    darker = Scanner(gamma=(2.0, 1.0, 1.0), jpeg_quality=100).render(pixels)
    expected = 255 * (pixels[..., 0] / 255) ** 2
    assert np.abs(darker[..., 0] - expected).max() <= 8
