"""The golden self-test: the crop never changes, and a change of pixels or probability is detected."""

from __future__ import annotations

import hashlib
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.engine import golden, loading, providers
from glomedge.errors import ProviderUnavailableError, SelfTestError
from glomedge.imaging.enhance import enhance
from glomedge.model.spec import ModelSpec, Recipe
from helpers import builders

# If this changes, every model file exported before fails its self-test: then a new schema version is due.
DRAWN_SHA256 = {
    0: "83e039574180f735086c80ba113ab0d901fdf5a4017dfe76534e439bcd5e4e4b",
    7: "b69bc7de3fbc8f43ca926f401d3db58280d46f9f57f955132656f6b717f12653",
}


def mean_red(images_nhwc: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """A stand-in for a network: any function of the pixels into 0..1."""
    return np.asarray(images_nhwc[..., 0].mean(axis=(1, 2)) / 255.0)


def spec_for(recipe: Recipe) -> ModelSpec:
    return builders.tiny_spec(b"", recipe, golden=golden.make(recipe, mean_red, "fp32"))


@pytest.mark.parametrize("seed", sorted(DRAWN_SHA256))
def test_the_drawn_crop_is_the_same_to_the_last_bit(seed: int) -> None:
    crop = golden.draw_crop(seed)
    assert crop.shape == (448, 672, 3)
    assert crop.dtype == np.uint8
    assert hashlib.sha256(crop.tobytes()).hexdigest() == DRAWN_SHA256[seed]


@pytest.mark.parametrize("recipe", ["seed", "published", "plain"])
def test_make_then_check_passes_and_packs_small(recipe: str) -> None:
    spec = spec_for(Recipe.named(recipe))
    golden.check(spec, mean_red)
    np.testing.assert_array_equal(spec.golden.pixels(), enhance(golden.draw_crop(spec.golden.seed), spec.recipe))
    assert len(spec.golden.pixels_zlib_base64) < 40_000


def test_all_but_the_network_takes_a_small_part_of_a_start() -> None:
    """The self-test may take 0.3 s at load; a crop through an int8 network is 0.02 to 0.05 of it."""
    spec = spec_for(Recipe())
    seconds = []
    for _ in range(5):
        begin_s = time.thread_time()
        golden.check(spec, mean_red)
        seconds.append(time.thread_time() - begin_s)
    assert min(seconds) < 0.06


def test_make_keeps_the_seed_nearest_one_half() -> None:
    distances = [abs(float(mean_red(enhance(golden.draw_crop(s), "seed")[np.newaxis])[0]) - 0.5) for s in range(8)]
    assert spec_for(Recipe()).golden.seed == int(np.argmin(distances))


@pytest.mark.parametrize(
    "moved",
    [
        Recipe(hue_degrees=6.0),
        Recipe(hue_degrees=10.0),
        Recipe(saturation_factor=1.4),
        Recipe(equalise=False),
        Recipe.named("published"),
        Recipe.named("plain"),
    ],
)
def test_any_other_preprocessing_is_found(moved: Recipe) -> None:
    spec = spec_for(Recipe()).model_copy(update={"recipe": moved})
    with pytest.raises(SelfTestError, match=r"preprocessing .* values differ by more than 3, the worst by \d+"):
        golden.check(spec, mean_red)


def test_another_interpolation_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    spec = spec_for(Recipe())
    import cv2

    area = cv2.resize
    monkeypatch.setattr("cv2.resize", lambda src, size, *a, **k: area(src, size, interpolation=cv2.INTER_LINEAR))
    with pytest.raises(SelfTestError, match="preprocessing"):
        golden.check(spec, mean_red)


@pytest.mark.parametrize(("shift", "passes"), [(0.0, True), (5e-4, True), (2e-3, False), (-2e-3, False)])
def test_a_moved_probability_is_found(shift: float, passes: bool) -> None:
    spec = spec_for(Recipe())
    if passes:
        golden.check(spec, lambda images: mean_red(images) + shift)
    else:
        with pytest.raises(SelfTestError, match=r"gives probability 0\.\d+ on the test bench, but gave 0\.\d+"):
            golden.check(spec, lambda images: mean_red(images) + shift, where="the test bench")


def test_nan_never_passes() -> None:
    with pytest.raises(SelfTestError, match="nan"):
        golden.check(spec_for(Recipe()), lambda images: np.array([np.nan]))


def test_a_wider_tolerance_for_bf16() -> None:
    golden.check(spec_for(Recipe()), lambda images: mean_red(images) + 1e-2, min_tolerance=2e-2)


def test_no_thread_outlives_a_provider_that_cannot_be_opened(monkeypatch: pytest.MonkeyPatch, tiny_model: Path) -> None:
    """One that is inside OpenCV when Python ends aborts the process."""
    check, ended = golden.check_pixels, list[bool]()

    def slow(spec: Any) -> Any:
        time.sleep(0.3)
        pixels = check(spec)
        ended.append(True)
        return pixels

    def refused(*_: Any) -> Any:
        raise ProviderUnavailableError("no such device")

    monkeypatch.setattr(golden, "check_pixels", slow)
    monkeypatch.setattr(providers, "open_provider", refused)
    with pytest.raises(ProviderUnavailableError):
        loading.load(tiny_model, "cpu")
    assert ended == [True]
    assert "glomedge-self-test" not in {thread.name for thread in threading.enumerate()}
