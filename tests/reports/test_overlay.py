"""Class-activation overlays."""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.engine.engine import Output
from glomedge.engine.views import predict_views
from glomedge.errors import UsageError
from glomedge.reports.cell_grid import RESNET50V2_GRID
from glomedge.reports.colour_scale import viridis
from glomedge.reports.overlay import logit_threshold, overlay, to_jpeg, to_png, upsample
from glomedge.reports.run_page import map_png

Map = npt.NDArray[np.float32]
CELL_PX = 32
"""From one cell of ResNet50V2 to the next."""


def random_map(seed: int = 0) -> Map:
    return np.random.default_rng(seed).normal(0.0, 2.0, (7, 7)).astype(np.float32)


def crop(height_px: int, width_px: int, level: int = 128) -> npt.NDArray[np.uint8]:
    return np.full((height_px, width_px, 3), level, np.uint8)


def keys(t: float) -> float:
    """Cubic-convolution kernel, Keys 1981, a = -1/2."""
    t = abs(t)
    if t <= 1:
        return 1.5 * t**3 - 2.5 * t**2 + 1
    return -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2 if t < 2 else 0.0


def naive_upsampled(activation: Map, height_px: int, width_px: int) -> npt.NDArray[np.float64]:
    out = np.zeros((height_px, width_px))
    for row in range(height_px):
        y = min(6.0, max(0.0, ((row + 0.5) * 224 / height_px - 0.5) / 32))
        for column in range(width_px):
            x = min(6.0, max(0.0, ((column + 0.5) * 224 / width_px - 0.5) / 32))
            for i in range(int(y) - 1, int(y) + 3):
                for j in range(int(x) - 1, int(x) + 3):
                    cell = activation[min(6, max(0, i)), min(6, max(0, j))]
                    out[row, column] += cell * keys(y - i) * keys(x - j)
    return np.clip(out, activation.min(), activation.max())


@pytest.mark.parametrize("size", [(224, 224), (50, 90), (1, 300), (300, 1), (32, 33)])
def test_upsampling_equals_a_naive_loop(size: tuple[int, int]) -> None:
    activation = random_map()
    assert np.abs(upsample(activation, *size) - naive_upsampled(activation, *size)).max() < 1e-4


def test_cells_stand_at_their_receptive_fields() -> None:
    activation = random_map()
    field = upsample(activation, 224, 224)
    assert field[::CELL_PX, ::CELL_PX] == pytest.approx(activation, abs=1e-5)
    assert field[192:, :1] == pytest.approx(activation[6, 0], abs=1e-5)  # beyond the last centre the value goes on


class RampEngine:
    """Cells that answer with the brightness of the pixel they look at, as ResNet50V2's do: 32 i of the view given."""

    def infer(self, images_nhwc: npt.NDArray[np.uint8], /) -> Output:
        cells = images_nhwc[:, ::CELL_PX, ::CELL_PX, 0].astype(np.float32)
        return Output(np.full(len(images_nhwc), 0.5, np.float32), cells)


@pytest.mark.parametrize("views", [1, 8])
@pytest.mark.parametrize("axis", [0, 1])
def test_one_view_and_eight_show_the_same_place(views: int, axis: int) -> None:
    ramp = np.arange(224, dtype=np.uint8)
    image = np.broadcast_to(ramp.reshape(-1, 1) if axis == 0 else ramp, (224, 224))
    _, _, maps = predict_views(RampEngine(), np.repeat(image[None, :, :, None], 3, axis=3), views)
    assert maps is not None
    field = upsample(maps[0], 224, 224, views=views)
    inner = slice(48, 160)  # further out a cell that is missing is the one at the edge again
    assert field[inner, inner] == pytest.approx(image[inner, inner].astype(float), abs=0.6)
    seen: Any = cv2.imdecode(
        np.frombuffer(map_png(maps[0], (0.0, 223.0), RESNET50V2_GRID.seen_from(views)), np.uint8), cv2.IMREAD_COLOR
    )
    assert seen.shape == ((8, 8, 3) if views == 1 else (7, 7, 3))


@pytest.mark.keras
def test_receptive_fields_of_resnet50v2_are_centred_where_upsample_puts_them() -> None:
    tf = pytest.importorskip("tensorflow")
    tf.keras.utils.set_random_seed(0)
    network = tf.keras.applications.ResNet50V2(weights=None, include_top=False, input_shape=(224, 224, 3))
    images = tf.random.normal((2, 224, 224, 3), seed=1)
    for cell in (2, 4):
        with tf.GradientTape() as tape:
            tape.watch(images)
            answer = tf.reduce_sum(network(images, training=False)[:, cell, cell, :])
        weight = np.square(tape.gradient(answer, images).numpy()).sum(axis=(0, 3))
        for axis in (0, 1):
            centre_px = float((weight.sum(axis=axis) * np.arange(224)).sum() / weight.sum())
            # Resizing the map as a picture would put it 15.5 pixels further on.
            assert abs(centre_px - CELL_PX * cell) < 3


def test_flat_crop_shows_the_colours_of_the_scale() -> None:
    activation = random_map()
    image = overlay(crop(224, 224), activation, alpha=1.0, limits=(-3.0, 3.0), legend=False)
    scaled = np.clip((upsample(activation, 224, 224) + 3.0) / 6.0, 0.0, 1.0) * 255.0
    nearest = viridis(bgr=False)[:, 0][np.rint(scaled).astype(int)].astype(int)
    assert np.abs(image - nearest).max() <= 4  # one step of the colour map, where rounding falls the other way


def test_colours_follow_the_activation() -> None:
    activation = np.full((7, 7), -2.0, np.float32)
    activation[5:, 5:] = 2.0
    image = overlay(crop(224, 224), activation, alpha=1.0, legend=False)
    dark, bright = image[10, 10].astype(int), image[-10, -10].astype(int)
    assert bright[:2].sum() > 400 > 100 > dark[:2].sum()  # viridis: yellow at the top, violet at the bottom
    assert dark[2] > dark[1]


def test_alpha_nought_is_the_crop_in_grey() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (60, 70, 3), np.uint8)
    before = pixels.copy()
    image = overlay(pixels, random_map(), alpha=0.0, legend=False)
    assert np.array_equal(image, cv2.cvtColor(cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB))
    assert np.array_equal(pixels, before)


@pytest.mark.parametrize("value", [0.0, -4.0, 7.5])
def test_flat_map_is_one_colour(value: float) -> None:
    image = overlay(crop(50, 50), np.full((7, 7), value, np.float32), legend=False)
    assert (image == image[0, 0]).all()


def test_shared_limits_make_crops_comparable() -> None:
    weak, strong = np.full((7, 7), 0.5, np.float32), np.full((7, 7), 2.5, np.float32)
    shown = [overlay(crop(40, 40), m, limits=(-3.0, 3.0), legend=False)[0, 0].tolist() for m in (weak, strong)]
    assert shown[0] != shown[1]
    clipped = [overlay(crop(40, 40), m, limits=(-3.0, 0.25), legend=False)[0, 0].tolist() for m in (weak, strong)]
    assert clipped[0] == clipped[1]
    below = [overlay(crop(40, 40), m, limits=(3.0, 4.0), legend=False)[0, 0].tolist() for m in (weak, strong)]
    assert below[0] == below[1] == overlay(crop(40, 40), weak, limits=(0.5, 4.0), legend=False)[0, 0].tolist()


def test_line_stands_where_the_decision_turns() -> None:
    # A ramp from left to right that crosses 0 between the third and fourth column of cells (112 px).
    activation = np.repeat(np.linspace(-3.5, 2.5, 7, dtype=np.float32)[None, :], 7, axis=0)
    plain = overlay(crop(224, 224), activation, legend=False)
    lined = overlay(crop(224, 224), activation, legend=False, threshold_logit=0.0)
    columns = np.flatnonzero((plain != lined).any(axis=(0, 2)))
    assert 106 <= columns.min() <= 112 <= columns.max() <= 118
    assert (plain != lined).any(axis=2)[:, 112].all()  # out of the picture at both ends, and not along its border


@pytest.mark.parametrize("size", [(224, 224), (900, 700), (333, 1100)])
@pytest.mark.parametrize("axis", [0, 1])
def test_line_is_finer_than_a_pixel(size: tuple[int, int], axis: int) -> None:
    ramp = np.linspace(-3.7, 2.3, 7, dtype=np.float32)
    activation = np.repeat(ramp[:, None], 7, axis=1) if axis == 0 else np.repeat(ramp[None, :], 7, axis=0)
    image = overlay(crop(*size, 0), activation, alpha=0.0, legend=False, threshold_logit=0.0)
    white = image[..., 0].sum(axis=1 - axis).astype(float)
    middle = float((white * np.arange(len(white))).sum() / white.sum())
    assert middle == pytest.approx((3.7 * CELL_PX + 0.5) * size[axis] / 224 - 0.5, abs=0.3)


def test_slanting_line_is_finer_than_its_grid() -> None:
    cells = np.arange(7, dtype=np.float32)
    activation = cells[:, None] + cells[None, :] - np.float32(5.3)
    image = overlay(crop(1200, 1200, 0), activation, alpha=0.0, legend=False, threshold_logit=0.0)
    place = np.arange(1200)
    sum_px = 2 * ((5.3 / 2 * CELL_PX + 0.5) * 1200 / 224 - 0.5)
    for row in range(200, 700, 7):
        white = image[row, :, 0].astype(float)
        assert (white * place).sum() / white.sum() == pytest.approx(sum_px - row, abs=0.6)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_spot_and_a_hole_are_surrounded(sign: float) -> None:
    activation = np.full((7, 7), -sign, np.float32)
    activation[3, 3] = sign
    image = overlay(crop(600, 600, 0), activation, alpha=0.0, legend=False, threshold_logit=0.0)
    # The middle of cell 3 is network pixel 96; a line through everything around it, and none on it.
    middle = round(96.5 * 600 / 224 - 0.5)
    assert image[middle, middle].max() == 0
    for line in (image[middle, middle:], image[middle, :middle], image[middle:, middle], image[:middle, middle]):
        assert line.max() == 255
    assert cv2.connectedComponents((image[..., 0] < 128).astype(np.uint8), connectivity=4)[0] == 3  # in, out, and line


@pytest.mark.parametrize("size", [(577, 640), (1200, 900), (256, 2000)])
def test_colours_of_a_large_crop_are_those_of_every_pixel(size: tuple[int, int]) -> None:
    activation = random_map(3)
    image = overlay(crop(*size), activation, alpha=1.0, limits=(-5.0, 5.0), legend=False)
    scaled = np.clip((upsample(activation, *size) + 5.0) / 10.0, 0.0, 1.0) * 255.0
    difference = np.abs(image - viridis(bgr=False)[:, 0][np.rint(scaled).astype(int)].astype(int))
    assert np.quantile(difference, 0.999) <= 2
    assert difference.max() <= 10  # where the limits cut a slope off


def test_blue_first_is_the_same_picture() -> None:
    arguments: dict[str, Any] = {"limits": (-3.0, 2.0), "threshold_logit": 0.0}
    pixels = np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8)
    rgb, bgr = (overlay(pixels, random_map(), bgr=bgr, **arguments) for bgr in (False, True))
    assert np.array_equal(rgb[..., ::-1], bgr)
    assert to_jpeg(rgb) == to_jpeg(bgr, bgr=True)


@pytest.mark.parametrize("threshold", [-99.0, 99.0])
def test_no_line_where_nothing_turns(threshold: float) -> None:
    activation = random_map()
    plain = overlay(crop(100, 100), activation, legend=False)
    assert np.array_equal(overlay(crop(100, 100), activation, legend=False, threshold_logit=threshold), plain)


@pytest.mark.parametrize("size", [(200, 200), (1200, 1200), (577, 300), (64, 500)])
def test_legend_stands_beside_the_crop(size: tuple[int, int]) -> None:
    height_px, width_px = size
    image = overlay(crop(*size), random_map(), threshold_logit=0.0)
    assert image.shape[0] == height_px
    strip = image[:, width_px:]
    assert 30 <= strip.shape[1] <= 200
    assert (strip == 255).all(axis=2).mean() > 0.3  # paper
    dark = (strip < 60).all(axis=2)
    assert dark.sum() > 40  # ink
    assert np.array_equal(image[:, :width_px], overlay(crop(*size), random_map(), threshold_logit=0.0, legend=False))


def test_legend_labels_change_with_the_limits() -> None:
    strips = [overlay(crop(300, 300), random_map(), limits=(-5.0, high))[:, 300:] for high in (4.0, 5.0)]
    assert strips[0].shape == strips[1].shape
    assert (strips[0] != strips[1]).any()


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400), st.floats(-1e4, 1e4), st.floats(0.0, 1e4), st.booleans())
def test_any_size_and_scale(height_px: int, width_px: int, offset: float, spread: float, line: bool) -> None:
    activation = (random_map(1) * spread + offset).astype(np.float32)
    arguments: dict[str, Any] = {"threshold_logit": 0.0 if line else None}
    image = overlay(crop(height_px, width_px), activation, **arguments)
    assert image.dtype == np.uint8
    assert image.shape[0] == height_px
    assert image.shape[1] > width_px
    assert np.array_equal(image, overlay(crop(height_px, width_px), activation, **arguments))


def test_png_is_lossless_and_carries_the_notice() -> None:
    image = overlay(crop(90, 120), random_map())
    data = to_png(image)
    with Image.open(io.BytesIO(data)) as decoded:
        decoded.load()
        assert np.array_equal(np.asarray(decoded), image)
        assert decoded.info["Comment"] == RESEARCH_USE_NOTICE
    assert data == to_png(image)


def test_jpeg_shows_the_same_and_carries_the_notice() -> None:
    image = overlay(crop(90, 120), random_map(), threshold_logit=0.0)
    data = to_jpeg(image)
    with Image.open(io.BytesIO(data)) as decoded:
        decoded.load()
        assert decoded.info["comment"] == RESEARCH_USE_NOTICE.encode("ascii")
        difference = np.abs(np.asarray(decoded).astype(int) - image)
    assert difference.mean() < 3.0
    assert data == to_jpeg(image)


@pytest.mark.parametrize("size", [(224, 224), (577, 600)])
def test_a_jpegs_colours_can_be_read_off_its_scale(size: tuple[int, int]) -> None:
    """At a pixel of the map, the scale's nearest colour stands within 3% of where its activation does."""
    activation = random_map(2)
    drawn = overlay(crop(*size), activation, alpha=1.0, limits=(-4.0, 4.0))
    column = size[1] + 16  # on the bar
    top, bottom = np.flatnonzero((drawn[:, column] == viridis(bgr=False)).all(axis=2).any(axis=0))[[0, -1]]
    assert bottom - top > 0.8 * size[0]
    with Image.open(io.BytesIO(to_jpeg(drawn))) as decoded:
        image = np.asarray(decoded).astype(int)
    field = upsample(activation, *size)
    bar = image[:, column : column + 4].mean(axis=1)
    for row, column in itertools.product(range(5, size[0], 31), range(5, size[1], 29)):
        place = top + int(np.abs(bar[top : bottom + 1] - image[row, column]).sum(axis=1).argmin())
        read = 4.0 - 8.0 * (place - top) / (bottom - top)
        assert abs(read - np.clip(field[row, column], -4.0, 4.0)) < 0.03 * 8.0


@pytest.mark.parametrize(("encode", "kind"), [(to_png, "PNG"), (to_jpeg, "JPEG")])
def test_pictures_of_nonsense_are_refused(encode: Callable[[Any], bytes], kind: str) -> None:
    with pytest.raises(UsageError, match=f"No {kind}"):
        encode(np.zeros((0, 5, 3), np.uint8))


@pytest.mark.parametrize(
    ("pixels", "activation", "arguments", "why"),
    [
        (np.zeros((5, 5, 4), np.uint8), random_map(), {}, "uint8 RGB"),
        (np.zeros((5, 0), np.uint8), random_map(), {}, "uint8 RGB"),
        (np.zeros((5, 5, 3), np.float32), random_map(), {}, "uint8 RGB"),
        (crop(5, 5), np.zeros((7, 8), np.float32), {}, "7 x 7"),
        (crop(5, 5), np.full((7, 7), np.nan, np.float32), {}, "49 that are not finite"),
        (crop(5, 5), random_map(), {"alpha": 1.5}, "alpha"),
        (crop(5, 5), random_map(), {"limits": (2.0, 1.0)}, "limits"),
        (crop(5, 5), random_map(), {"limits": (0.0, math.inf)}, "limits"),
    ],
)
def test_bad_arguments(pixels: Any, activation: Any, arguments: dict[str, Any], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        overlay(pixels, activation, **arguments)


@pytest.mark.parametrize(("threshold", "temperature", "logit"), [(0.5, 1.0, 0.0), (0.5, 3.0, 0.0), (0.8, 2.0, 2.7726)])
def test_threshold_as_an_activation(threshold: float, temperature: float, logit: float) -> None:
    assert logit_threshold(threshold, temperature) == pytest.approx(logit, abs=1e-4)
    assert 1 / (1 + math.exp(-logit / temperature)) == pytest.approx(threshold, abs=1e-4)
