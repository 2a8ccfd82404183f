"""The scale beside a heatmap."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageDraw, ImageFont

from glomedge.reports.colour_scale import _TALLEST_EM, _above, _text, strip, viridis


def test_viridis_is_opencvs_and_monotonous_in_lightness() -> None:
    rgb = viridis(bgr=False)
    assert np.array_equal(rgb[:, :, ::-1], viridis(bgr=True))
    levels = np.arange(256, dtype=np.uint8)[:, None]
    assert np.array_equal(viridis(bgr=True), cv2.applyColorMap(levels, cv2.COLORMAP_VIRIDIS))
    assert (np.diff(cv2.cvtColor(rgb, cv2.COLOR_RGB2LAB)[:, 0, 0].astype(int)) >= 0).all()
    assert np.abs(viridis(bgr=False, share=0.45) - 0.45 * rgb).max() <= 0.5


def _bar(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """The rows of the bar, whose column 16 has colours of the map."""
    return np.flatnonzero((image[:, 16] == viridis(bgr=False)).all(axis=2).any(axis=0))


@pytest.mark.parametrize("height_px", [224, 577, 1200])
def test_colours_of_the_bar_stand_where_the_labels_say(height_px: int) -> None:
    image = strip(height_px, -2.0, 2.0, None, bgr=False)
    colours = viridis(bgr=False)[:, 0]
    rows = _bar(image)
    assert len(rows) > 0.8 * height_px
    shown = [int(np.flatnonzero((colours == image[row, 16]).all(axis=1))[0]) for row in rows]
    expected = 255.0 * (rows[-1] - rows) / (rows[-1] - rows[0])
    assert np.abs(shown - expected).max() < 2.0  # some neighbours in the map are one colour


@pytest.mark.parametrize("cap_px", [8, 12, 22])
def test_letters_can_be_told_apart(cap_px: int) -> None:
    inks = [_text(digit, cap_px).astype(int) for digit in "0123456789"]
    size = max(ink.shape[1] for ink in inks)
    inks = [np.pad(ink, ((0, 0), (0, size - ink.shape[1]), (0, 0))) for ink in inks]
    for one, other in itertools.combinations(inks, 2):
        assert np.abs(one - other)[..., 0].sum() >= 3 * 128


@pytest.mark.parametrize("cap_px", [8, 9, 15, 22])
@pytest.mark.parametrize("word", [*"0123456789+-.", "logit"])
def test_no_letter_is_cut(word: str, cap_px: int) -> None:
    ink = _text(word, cap_px)[..., 0]
    roomy = Image.new("L", (ink.shape[1] + 20, ink.shape[0] + 20))
    font = ImageFont.load_default(cap_px / _TALLEST_EM)
    ImageDraw.Draw(roomy).text((10, 10 + _above(len(ink))), word, fill=255, font=font, anchor="ls")
    assert ink.max() > 128
    assert ink.sum(dtype=int) == np.asarray(roomy).sum(dtype=int)


@pytest.mark.parametrize("value", [-10.72, 0.04, -0.04, 3.0, 12345.6])
def test_every_number_can_be_written(value: float) -> None:
    assert strip(300, value, value + 1.0, value + 0.5, bgr=False).shape[0] == 300


def test_decision_is_marked_on_the_scale_and_only_there() -> None:
    plain = strip(500, -4.0, 4.0, None, bgr=False)
    marked = strip(500, -4.0, 4.0, 2.0, bgr=False)
    rows = np.flatnonzero((plain[:, :45] != marked[:, :45]).any(axis=(1, 2)))
    top, bottom = _bar(plain)[[0, -1]]
    assert abs(rows.mean() - (bottom - 0.75 * (bottom - top))) <= 1.0
    assert np.ptp(rows) < 8
    assert np.array_equal(strip(500, -4.0, 4.0, 9.0, bgr=False), plain)
