"""What crops are painted with, against naive references."""

from __future__ import annotations

import math

import cv2
import numpy as np
import pytest

from glomedge_export.synthetic.optics import Stain, scan, to_rgb
from glomedge_export.synthetic.tissue import (
    Canvas,
    blobs,
    fibres,
    inside,
    lamellae,
    scatter,
    smooth_noise,
    soften,
    turned,
)


def canvas_of(value: tuple[int, int, int], size_px: int = 64, seed: int = 0) -> Canvas:
    return Canvas(np.full((size_px, size_px, 3), value, np.uint8), 1.5, np.random.default_rng(seed))


def test_colour_follows_beer_and_lambert() -> None:
    rng = np.random.default_rng(0)
    stain = Stain.draw(rng)
    density = rng.integers(0, 256, (5, 7, 3), np.uint8)
    got = to_rgb(density, stain, (1.3, 0.8))
    for row, column, channel in np.ndindex(5, 7, 3):
        optical_density = sum(
            1.9 / 255 * gain * float(density[row, column, reagent]) * stain.absorbance[reagent, channel]
            for reagent, gain in enumerate((1.3, 0.8, 1.0))
        )
        expected = stain.white[channel] * math.exp(-optical_density)
        assert got[row, column, channel] == pytest.approx(expected, rel=1e-4)


def test_bare_glass_is_white_and_more_stain_is_darker() -> None:
    stain = Stain.draw(np.random.default_rng(1))
    ramp = np.zeros((1, 256, 3), np.uint8)
    ramp[0, :, 0] = np.arange(256)
    rgb = to_rgb(ramp, stain, (1.0, 1.0))[0]
    assert rgb[0] == pytest.approx(stain.white, rel=1e-5)
    assert (np.diff(rgb, axis=0) < 0).all()
    assert rgb[128, 0] > rgb[128, 2] > rgb[128, 1]  # magenta: PAS takes green most and red least


@pytest.mark.parametrize("seed", range(8))
def test_brightness_does_not_depend_on_how_much_was_painted(seed: int) -> None:
    """The strength of the stain is solved for a brightness drawn beforehand: same generator, same brightness."""
    stain = Stain(Stain.draw(np.random.default_rng(2)).absorbance, np.full(3, 243.0), wash=0.0)
    sparse, dense = (scan(canvas_of((pas, 20, 0), seed=seed), stain, 64, 64)[..., 1].mean() for pas in (50, 75))
    without = [float(to_rgb(canvas_of((pas, 20, 0)).density, stain, (1, 1))[..., 1].mean()) for pas in (50, 75)]
    assert without[0] - without[1] > 20
    # Unless the strength is at its limit (0.5 to 2.8), where the rest of the difference stays.
    assert abs(sparse - dense) < (6 if sparse < 145 else 25)


def test_scan_enlarges_and_is_opaque() -> None:
    pixels = scan(canvas_of((80, 20, 0)), Stain.draw(np.random.default_rng(0)), 130, 190)
    assert pixels.shape == (130, 190, 4)
    assert pixels.dtype == np.uint8
    assert (pixels[..., 3] == 255).all()


def test_paste_blends_as_arithmetic_says() -> None:
    rng = np.random.default_rng(0)
    canvas = Canvas(rng.integers(0, 256, (9, 11, 3), np.uint8), 1.0, rng)
    before, layer = canvas.density.copy(), rng.integers(0, 256, (9, 11, 3), np.uint8)
    mask = rng.integers(0, 256, (9, 11), np.uint8)
    mask[0], mask[1] = 0, 255
    canvas.paste(layer, mask)
    for row, column, channel in np.ndindex(9, 11, 3):
        weight = int(mask[row, column]) / 255
        expected = weight * int(layer[row, column, channel]) + (1 - weight) * int(before[row, column, channel])
        assert abs(int(canvas.density[row, column, channel]) - expected) <= 1  # two roundings of a half each
    assert (canvas.density[0] == before[0]).all()
    assert (canvas.density[1] == layer[1]).all()


def test_ellipses_are_painted_in_turn_and_saturate() -> None:
    canvas = canvas_of((0, 0, 0))
    centre, axes = np.full((2, 2), 32.0), np.array([[20.0, 20.0], [5.0, 5.0]])
    canvas.ellipses(centre, axes, np.zeros(2), np.array([[300.0, 0.0, 0.0], [10.0, 20.0, 30.0]]))
    assert canvas.density[32, 32].tolist() == [10, 20, 30]
    assert canvas.density[32, 45].tolist() == [255, 0, 0]
    assert canvas.density[32, 60].tolist() == [0, 0, 0]


def test_inside_agrees_with_a_loop_and_drops_what_is_off_the_canvas() -> None:
    rng = np.random.default_rng(3)
    mask = rng.integers(0, 2, (12, 17), np.uint8) * 255
    points = rng.uniform(-5, 22, (300, 2))
    got = inside(mask, points)
    for (x, y), found in zip(points, got, strict=True):
        column, row = math.floor(x), math.floor(y)
        on_canvas = 0 <= column < 17 and 0 <= row < 12
        assert found == (on_canvas and mask[row, column] == 255)


def test_blobs_without_wobble_are_ellipses_of_the_same_area() -> None:
    rng = np.random.default_rng(0)
    outlines = blobs(rng, np.array([[50.0, 60.0], [10.0, 20.0]]), np.array([20.0, 8.0]), 0.0, np.array([1.0, 4.0]), 256)
    assert outlines.shape == (2, 256, 2)
    assert np.hypot(*(outlines[0] - (50, 60)).T) == pytest.approx(np.full(256, 20.0))
    assert np.ptp(outlines[1], axis=0) == pytest.approx([32.0, 8.0])
    for outline, radius in zip(outlines, (20, 8), strict=True):
        assert cv2.contourArea(outline.astype(np.float32)) == pytest.approx(math.pi * radius**2, rel=0.01)


def test_turning_keeps_the_centre_and_the_shape() -> None:
    rng = np.random.default_rng(0)
    outlines = blobs(rng, np.array([[50.0, 60.0]]), np.array([20.0]), 0.2, np.array([2.0]), 64)
    quarter = turned(outlines, np.array([math.pi / 2]))
    assert quarter.mean(1) == pytest.approx(outlines.mean(1))
    offset, after = outlines[0] - outlines[0].mean(0), quarter[0] - outlines[0].mean(0)
    assert after == pytest.approx(np.stack([-offset[:, 1], offset[:, 0]], 1))


def test_scatter_covers_the_box_evenly() -> None:
    points = scatter(np.random.default_rng(0), np.zeros(2), np.array([200.0, 100.0]), 10.0)
    assert len(points) == pytest.approx(200 * 100 / (10 * 8.7), rel=0.15)
    cells = np.histogram2d(points[:, 0], points[:, 1], bins=(8, 4), range=((0, 200), (0, 100)))[0]
    assert cells.min() >= 2


@pytest.mark.parametrize("size_px", [(8, 8), (61, 40), (400, 400), (400, 67)])
def test_noise_fields_have_the_asked_size_and_no_bias(size_px: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    fields = {
        "smooth": smooth_noise(rng, *size_px, 4.0),
        "fibres": fibres(rng, *size_px, 3.0, 4.0, 10.0),
        "lamellae": lamellae(rng, *size_px, np.array(size_px[::-1]) / 2, 3.0),
    }
    for name, field in fields.items():
        assert field.shape == size_px, name
        assert field.dtype == np.float32, name
        assert np.isfinite(field).all(), name
        if min(size_px) == 400:
            assert abs(float(field.mean())) < 0.15, name
            assert 0.3 < float(field.std()) < 1.2, name


def test_softening_keeps_the_area() -> None:
    mask = np.zeros((100, 100), np.uint8)
    mask[30:70, 30:70] = 255
    soft = soften(mask, 4.0)
    assert soft.mean() == pytest.approx(mask.mean(), rel=0.02)
    assert 0 < soft[50, 29] < 255
    assert soft[50, 50] == 255
    assert soft[5, 5] == 0
