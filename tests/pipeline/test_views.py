"""The views of test-time augmentation, the shortest decimals, and small pictures."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.engine.engine import Output
from glomedge.engine.views import predict_views, shortest
from glomedge.pipeline.prepare import thumbnail

Pixels = npt.NDArray[np.uint8]


def _view(image: Pixels, view: int) -> Pixels:
    """Naive: one of the eight symmetries of a square, pixel by pixel."""
    size = len(image)
    out = np.empty_like(image)
    for y in range(size):
        for x in range(size):
            v, u = y, x
            for _ in range(view % 4):
                v, u = u, size - 1 - v
            out[y, x] = image[v, size - 1 - u if view >= 4 else u]
    return out


@dataclass
class CornerEngine:
    """Answers with one pixel and maps that tell where the brightness sits: no symmetry is like another."""

    def infer(self, images_nhwc: Pixels, /) -> Output:
        cells = images_nhwc[:, 16::32, 16::32, 0].astype(np.float32)
        return Output((images_nhwc[:, 3, 50, 0] / 255.0).astype(np.float32), cells)


def test_eight_views_are_the_symmetries_of_the_square_and_their_mean() -> None:
    rng = np.random.default_rng(8)
    images = rng.integers(0, 256, (3, 224, 224, 3), dtype=np.uint8)
    probability, disagreement, activation = predict_views(CornerEngine(), images, 8)
    for index, image in enumerate(images):
        values = [float(np.float32(_view(image, view)[3, 50, 0] / 255.0)) for view in range(8)]
        assert probability[index] == pytest.approx(np.mean(values), abs=1e-7)
        assert disagreement is not None
        assert disagreement[index] == pytest.approx(max(values) - min(values), abs=1e-7)
    # 224 is even: the grid of cell centres maps to pixels 15 or 16 of a cell, so a smooth picture is used for the maps.
    smooth = np.kron(rng.integers(0, 256, (1, 7, 7, 1)), np.ones((1, 32, 32, 3))).astype(np.uint8)
    _, _, back = predict_views(CornerEngine(), smooth, 8)
    assert back is not None
    assert activation is not None
    np.testing.assert_allclose(back, smooth[:, 16::32, 16::32, 0].astype(np.float32))
    assert activation.shape == (3, 7, 7)


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e-9, 0.99999994, 1.0, 0.0])
def test_shortest_decimal_is_the_same_float32(value: float) -> None:
    single = np.float32(value)
    assert np.float32(shortest(single)) == single
    assert len(repr(shortest(single))) <= 14


@pytest.mark.parametrize("shape", [(600, 400), (33, 1200), (1200, 33), (40, 40), (112, 500)])
def test_thumbnails_keep_their_shape_and_bound(shape: tuple[int, int]) -> None:
    import cv2

    pixels = np.zeros((*shape, 3), np.uint8)
    pixels[..., 0] = 200
    small = cv2.imdecode(np.frombuffer(thumbnail(pixels, 112), np.uint8), cv2.IMREAD_COLOR_RGB)
    assert small is not None
    assert max(small.shape[:2]) == min(112, max(shape))
    assert small.shape[0] / small.shape[1] == pytest.approx(shape[0] / shape[1], rel=0.5)
    assert abs(int(small[..., 0].mean()) - 200) < 4
    assert small[..., 2].mean() < 4
