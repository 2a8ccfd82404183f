"""``--augment stain``: what is drawn, what it may change, and that a resumed epoch draws the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.errors import UsageError
from glomedge_export.training.options import FitOptions

keras = pytest.importorskip("keras", reason="needs TensorFlow: pip install 'glomedge[export]'")
pytestmark = pytest.mark.keras

from glomedge_export.frameworks import tf  # noqa: E402
from glomedge_export.network import network  # noqa: E402
from glomedge_export.training import fit, pretrain  # noqa: E402
from glomedge_export.training import stain as stain_module  # noqa: E402
from glomedge_export.training.optimizer import make_optimizer  # noqa: E402
from helpers.small_network import shrink  # noqa: E402


@pytest.fixture(scope="module")
def crops() -> npt.NDArray[np.float32]:
    """Eight smooth pictures, float32 [8, 112, 112, 3], 0 to 255."""
    rng = np.random.default_rng(0)
    coarse = tf.image.resize(rng.uniform(60, 230, (8, 7, 7, 3)), [112, 112], "bicubic")
    pictures: npt.NDArray[np.float32] = np.clip(np.asarray(coarse), 0, 255).astype(np.float32)
    return pictures


def drawn(crops: npt.NDArray[np.float32], *seed: int) -> npt.NDArray[np.float32]:
    pictures: npt.NDArray[np.float32] = np.asarray(stain_module.stain(tf.constant(crops), tf.constant(seed, tf.int32)))
    return pictures


def test_the_same_seed_gives_the_same_pictures_and_another_seed_others(crops: npt.NDArray[np.float32]) -> None:
    one, same, other = drawn(crops, 1, 2), drawn(crops, 1, 2), drawn(crops, 1, 3)
    assert one.shape == crops.shape
    assert one.dtype == np.float32
    assert one.min() >= 0
    assert one.max() <= 255
    np.testing.assert_array_equal(one, same)
    assert np.abs(one - other).mean(axis=(1, 2, 3)).min() > 1


def test_each_crop_of_a_batch_gets_colours_of_its_own(crops: npt.NDArray[np.float32]) -> None:
    alike = np.repeat(crops[:1], 8, axis=0)
    means = drawn(alike, 5, 5).mean(axis=(1, 2))
    assert len(np.unique(means.round(1), axis=0)) == 8
    # The channels move apart, not only together: a stain, not a lamp.
    assert np.ptp(means - means.mean(axis=1, keepdims=True), axis=0).max() > 5


def test_with_every_range_closed_the_picture_stays(
    crops: npt.NDArray[np.float32], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "GAMMA_LOG": 0.0,
        "CHANNEL_GAMMA_LOG": 0.0,
        "SATURATION": (1.0, 1.0),
        "CONTRAST": (1.0, 1.0),
        "CHANNEL_SHIFT": 0.0,
        "FOCUS": (0.0, 0.0),
        "RESAMPLING": (1.0, 1.0),
        "NOISE_SD": 0.0,
        "JPEG_QUALITY": (100, 100),
    }.items():
        monkeypatch.setattr(stain_module, name, value)
    # What is left is one JPEG of quality 100, whose colours are halved in both directions.
    assert np.abs(drawn(crops, 3, 4) - crops).mean() < 2


@pytest.mark.parametrize(
    ("name", "value", "sharper"),
    [("FOCUS", (0.9, 0.9), False), ("RESAMPLING", (0.5, 0.5), False), ("NOISE_SD", 0.1, True)],
)
def test_focus_resampling_and_noise_change_the_fine_structure(
    monkeypatch: pytest.MonkeyPatch, name: str, value: Any, sharper: bool
) -> None:
    pixels = np.random.default_rng(1).uniform(50, 200, (2, 64, 64, 3)).astype(np.float32)

    def roughness(pictures: npt.NDArray[np.float32]) -> float:
        return float(np.abs(np.diff(pictures, axis=2)).mean())

    for constant in ("GAMMA_LOG", "CHANNEL_GAMMA_LOG", "CHANNEL_SHIFT", "NOISE_SD"):
        monkeypatch.setattr(stain_module, constant, 0.0)
    for constant in ("SATURATION", "CONTRAST", "RESAMPLING"):
        monkeypatch.setattr(stain_module, constant, (1.0, 1.0))
    monkeypatch.setattr(stain_module, "FOCUS", (0.0, 0.0))
    monkeypatch.setattr(stain_module, "JPEG_QUALITY", (100, 100))
    before = roughness(drawn(pixels, 1, 1))
    monkeypatch.setattr(stain_module, name, value)
    after = roughness(drawn(pixels, 1, 1))
    assert after > 1.05 * before if sharper else after < 0.8 * before


def test_an_epoch_of_the_fit_draws_its_colours_from_seed_and_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two trainers, one of which has trained before: after ``reseed`` their next step is the same to the bit."""
    shrink(monkeypatch.setattr)
    pixels = np.random.default_rng(2).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    targets = np.array([[0, 1], [1, 1]], np.float32)

    def trainer() -> fit.Trainer:
        # So slow that float32 weights stay what they are: only the draws can differ.
        return fit.Trainer(network.assemble("resnet_v2", 3), make_optimizer("sgd", 1e-30), "float32", "stain")

    first, second = trainer(), trainer()
    losses = []
    second.train_step(tf.constant(pixels), tf.constant(targets))
    for one in (first, second):
        one.reseed(3, 4)
        losses.append([float(one.train_step(tf.constant(pixels), tf.constant(targets))[0]) for _ in range(2)])
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][1]  # and each step draws anew


def test_stain_is_the_default_where_all_layers_are_trained() -> None:
    assert FitOptions().augmentation == "standard"
    assert FitOptions(weights="none", pretrain_epochs=3).augmentation == "stain"
    assert FitOptions(weights="none", pretrain_epochs=3, augment="standard").augmentation == "standard"
    # A run started with the default and resumed with the option spelled out is one run.
    assert FitOptions(augment="standard").fixed() == FitOptions().fixed()
    with pytest.raises(UsageError, match="Choose standard or stain"):
        FitOptions(augment="sepia")  # type: ignore[arg-type]


def test_pretraining_draws_colours_only_when_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def noticing(pictures: Any, seed: Any) -> Any:
        asked.append(int(pictures.shape[1]))
        return stain_module.stain(pictures, seed)

    monkeypatch.setattr(pretrain, "stain", noticing)
    shrink(monkeypatch.setattr)
    pixels = np.random.default_rng(3).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    for augment in ("standard", "stain"):
        options = FitOptions(weights="none", pretrain_epochs=1, augment=augment)
        layers = pretrain._AllLayers(network.assemble("resnet_v2", 3), options)
        layers.step(tf.constant(pixels), tf.constant([[0.0], [1.0]]), tf.constant([1, 2]), 32)
        assert asked == ([] if augment == "standard" else [32])
