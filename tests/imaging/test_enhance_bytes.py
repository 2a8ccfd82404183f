"""The same bytes from enhance whatever the memory layout, the threads or the processor, into the caller's buffer."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomedge.errors import UsageError
from glomedge.imaging.enhance import enhance
from helpers.colour_crops import arithmetic_crop, every_colour_of_red, in_crops, random_crop

RECIPES = ("seed", "published", "plain")


@pytest.mark.parametrize("recipe", RECIPES)
def test_writes_into_the_callers_buffer(recipe: str) -> None:
    crop = random_crop(1, 321, 456)
    before = crop.copy()
    batch = np.full((3, 224, 224, 3), 7, np.uint8)
    assert enhance(crop, recipe, out=batch[1]) is not None
    assert np.array_equal(batch[1], enhance(crop, recipe))
    assert (batch[[0, 2]] == 7).all()
    assert np.array_equal(crop, before)


@pytest.mark.parametrize("recipe", RECIPES)
def test_out_may_be_the_input(recipe: str) -> None:
    crop = random_crop(1)
    expected = enhance(crop, recipe)
    assert enhance(crop, recipe, out=crop) is crop
    assert np.array_equal(crop, expected)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("size", [(100, 120), (300, 400)])
def test_out_may_overlap_the_input(recipe: str, size: tuple[int, int]) -> None:
    buffer = np.zeros(400 * 400 * 3, np.uint8)
    crop = buffer[: size[0] * size[1] * 3].reshape(*size, 3)
    crop[:] = random_crop(0, *size)
    expected = enhance(crop.copy(), recipe)
    out = buffer[: 224 * 224 * 3].reshape(224, 224, 3)
    assert np.array_equal(enhance(crop, recipe, out=out), expected)


@pytest.mark.parametrize("recipe", RECIPES)
def test_result_is_the_callers_own(recipe: str) -> None:
    first = enhance(random_crop(0), recipe)
    kept = first.copy()
    enhance(random_crop(1), recipe)
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[10:-10, 5:-7],
        lambda a: a[::-1],
        lambda a: a[:, ::-1],
        lambda a: a[..., ::-1],
        lambda a: a[::2, ::3],
        lambda a: a.transpose(1, 0, 2),
        lambda a: np.asfortranarray(a),
        lambda a: np.dstack([a, a[..., :1]])[..., :3],
        lambda a: a[:1],
        lambda a: np.broadcast_to(a[:1], a.shape),
    ],
)
def test_any_memory_layout(recipe: str, view: Any) -> None:
    crop = view(random_crop(0, 300, 280))
    assert np.array_equal(enhance(crop, recipe), enhance(np.array(crop, order="C"), recipe))


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 700), st.integers(1, 700), st.sampled_from(RECIPES), st.integers(0, 3))
def test_any_size(height_px: int, width_px: int, recipe: str, seed: int) -> None:
    crop = random_crop(seed, height_px, width_px)
    result = enhance(crop, recipe)
    assert result.shape == (224, 224, 3)
    assert result.dtype == np.uint8
    assert np.array_equal(result, enhance(crop, recipe))


def test_same_bytes_from_many_threads_and_opencv_threads() -> None:
    crops = [random_crop(seed, 150 + 31 * seed, 500 - 23 * seed) for seed in range(16)]
    work = [(crop, recipe) for crop in crops for recipe in RECIPES]
    before = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        expected = [enhance(*item) for item in work]
        for opencv_threads in (1, 4):
            cv2.setNumThreads(opencv_threads)
            with ThreadPoolExecutor(8) as pool:
                for _ in range(3):
                    results = list(pool.map(lambda item: enhance(*item), work))
                    assert all(np.array_equal(a, b) for a, b in zip(results, expected, strict=True))
    finally:
        cv2.setNumThreads(before)


def test_bytes_do_not_depend_on_where_a_pixel_lies() -> None:
    # Vectorised code treats the last pixels of a row apart; OpenCV's HSV2RGB rounds them another way.
    colours = in_crops(every_colour_of_red(90))[0]
    order = np.random.default_rng(0).permutation(224 * 224)
    shuffled = colours.reshape(-1, 3)[order].reshape(224, 224, 3)
    expected = enhance(colours, "seed").reshape(-1, 3)[order].reshape(224, 224, 3)
    assert np.array_equal(enhance(shuffled, "seed"), expected)


def digests() -> list[str]:
    """Of every recipe at sizes where each way of resizing is taken."""
    sizes = [(224, 224), (448, 448), (100, 90), (500, 300), (577, 577), (600, 60)]
    return [
        hashlib.sha256(enhance(arithmetic_crop(*size), recipe, size_px=side_px).tobytes()).hexdigest()[:16]
        for recipe in RECIPES
        for size in sizes
        for side_px in (224, 97, 299)
    ]


@pytest.mark.parametrize(
    ("recipe", "size", "digest"),
    [
        ("seed", (224, 224), "665652b6d7b7f9ec"),
        ("seed", (448, 448), "152f8f6d37922818"),
        ("seed", (100, 90), "e433713f8a92a25f"),
        ("published", (224, 224), "92692d52f4d01bfe"),
        ("published", (448, 448), "72470be648f80568"),
        ("published", (100, 90), "cd81ca8abdfb715b"),
        ("plain", (224, 224), "a3a5d1fa09cb0e59"),
        ("plain", (448, 448), "7aff5fdd9576d082"),
        ("plain", (100, 90), "9ba8b3252476732f"),
    ],
)
def test_bytes_are_those_of_every_other_machine(recipe: str, size: tuple[int, int], digest: str) -> None:
    # Only sizes that OpenCV resizes in integers: its area mean of broken ratios is float32 inside, and a processor
    # that fuses multiply and add may round a tie another way (none was seen, see docs/preprocessing.md).
    assert hashlib.sha256(enhance(arithmetic_crop(*size), recipe).tobytes()).hexdigest()[:16] == digest


@pytest.mark.parametrize(
    "environment",
    [
        {"OPENCV_CPU_DISABLE": "AVX512_ICL,AVX512_SKX,AVX2,FMA3,AVX,FP16,POPCNT,SSE4.2,SSE4.1,SSSE3"},
        {"OPENCV_IPP": "disabled"},
    ],
    ids=["baseline instructions", "without Intel's library"],
)
def test_bytes_do_not_depend_on_the_processor(environment: dict[str, str]) -> None:
    program = f"import sys; sys.path[:0] = {sys.path!r}; import test_enhance_bytes as t; print(*t.digests())"
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == digests()


@pytest.mark.parametrize(
    "rgb",
    [
        np.zeros((10, 10), np.uint8),
        np.zeros((10, 10, 4), np.uint8),
        np.zeros((10, 10, 3), np.float32),
        np.zeros((0, 10, 3), np.uint8),
        [[[1, 2, 3]]],
    ],
)
def test_other_inputs_are_refused(rgb: Any) -> None:
    with pytest.raises(UsageError, match="uint8 RGB"):
        enhance(rgb)


@pytest.mark.parametrize(
    "out",
    [
        np.zeros((224, 224), np.uint8),
        np.zeros((224, 224, 3), np.float32),
        np.zeros((448, 224, 3), np.uint8)[::2],
        np.broadcast_to(np.zeros(3, np.uint8), (224, 224, 3)),
    ],
)
def test_other_buffers_are_refused(out: Any) -> None:
    with pytest.raises(UsageError, match="slot of a batch"):
        enhance(random_crop(0), out=out)


def test_unknown_recipe_is_refused() -> None:
    with pytest.raises(UsageError, match="choose seed, published or plain"):
        enhance(random_crop(0), "vivid")
