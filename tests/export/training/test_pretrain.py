"""Training of all layers from random weights: it learns, reads training crops alone, and goes on after a kill."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.errors import OutputError, UsageError
from glomedge_export.training.checkpoint import Checkpointing, EpochRow
from glomedge_export.training.options import FitOptions

keras = pytest.importorskip("keras", reason="needs TensorFlow: pip install 'glomedge[export]'")
pytestmark = pytest.mark.keras

from glomedge_export.frameworks import tf  # noqa: E402
from glomedge_export.network import network  # noqa: E402
from glomedge_export.training import fit, pretrain  # noqa: E402
from glomedge_export.training import run as run_module  # noqa: E402
from glomedge_export.training.feed import TrainingData  # noqa: E402
from glomedge_export.training.listener import Silent  # noqa: E402
from helpers.small_network import CONVOLUTIONS, shrink  # noqa: E402

LABELS = np.array([0, 1, 0, 1, 0, 1], np.int64)
TRAIN = np.array([0, 1, 2, 3])
OPTIONS = FitOptions(weights="none", pretrain_epochs=2, batch_size=4, seed=3)


@pytest.fixture(scope="module")
def crops() -> npt.NDArray[np.uint8]:
    """Six crops of noise, those labelled 1 darker; uint8 [6, 224, 224, 3]."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 224, 224, 3), dtype=np.uint8)
    pixels[LABELS == 1] //= 2
    return pixels


def test_pictures_grow_and_the_last_epochs_see_them_whole() -> None:
    sizes = [pretrain.size_px(epoch, 33) for epoch in range(1, 34)]
    assert sizes == [112] * 24 + [160] * 6 + [224] * 3
    assert [pretrain.size_px(epoch, 2) for epoch in (1, 2)] == [112, 224]
    assert pretrain.size_px(1, 1) == 224


def test_a_window_is_a_part_of_the_crop_at_its_full_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each window is, up to a flip and a transposition, a square of the crop itself: no pixel is averaged away."""
    monkeypatch.setattr(pretrain, "WINDOW_ZOOM", (1.0, 1.0))
    monkeypatch.setattr(pretrain, "BRIGHTNESS", 0.0)
    sides = pretrain.window_sides(112)
    assert sides == (0.5, 0.5)
    # Brightness is a plane over the crop: its slopes are the scale, whatever was cut.
    plane = np.broadcast_to(np.arange(224, dtype=np.uint8)[:, None, None], (224, 224, 3))
    windows = np.asarray(pretrain.augment(tf.constant(np.stack([plane] * 16)), 112, tf.constant([5, 0]), sides))
    assert windows.shape == (16, 112, 112, 3)
    for window in windows:
        slope = max(abs(np.diff(window[..., 0], axis=axis)).mean() for axis in (0, 1))
        assert slope == pytest.approx(112 / 111, abs=0.02)
    assert len({int(window.min()) for window in windows}) > 8, "windows lie elsewhere in each crop"


def test_learning_rate_warms_up_for_an_epoch_and_ends_near_zero() -> None:
    rates = [pretrain.learning_rate(step, 10, 5) for step in range(50)]
    assert rates[0] == pytest.approx(pretrain.PEAK_LEARNING_RATE / 10)
    assert max(rates) == max(rates[9:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.01 * pretrain.PEAK_LEARNING_RATE


def test_augmentation_is_drawn_from_its_seed_alone(crops: npt.NDArray[np.uint8]) -> None:
    one, same, other = (
        np.asarray(pretrain.augment(tf.constant(crops), 112, tf.constant(seed))) for seed in ([1, 2], [1, 2], [1, 3])
    )
    assert one.shape == (6, 112, 112, 3)
    assert one.dtype == np.float32
    assert one.min() >= 0
    assert one.max() <= 255
    np.testing.assert_array_equal(one, same)
    assert not np.array_equal(one, other)


def test_augmentation_keeps_the_picture(crops: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    """Without zoom and brightness what comes out is the crop itself under one of the eight flips and quarter turns."""
    monkeypatch.setattr(pretrain, "BRIGHTNESS", 0.0)
    views: set[int] = set()
    for seed in range(8):
        turned = np.asarray(pretrain.augment(tf.constant(crops), 224, tf.constant([seed, 0]), (1.0, 1.0)))
        for crop, result in zip(crops.astype(np.float32), turned, strict=True):
            eight = [view for k in range(4) for view in (np.rot90(crop, k), np.rot90(crop, k)[:, ::-1])]
            matching = [i for i, view in enumerate(eight) if np.abs(view - result).max() < 0.01]
            assert len(matching) == 1
            views.add(matching[0])
    assert len(views) == 8


def data_of(crops: npt.NDArray[np.uint8]) -> TrainingData:
    return TrainingData(crops, LABELS, TRAIN, np.array([4, 5]))


class KilledError(Exception):
    """Stands for the end of the process between two epochs."""


class Recorder(Silent):
    """Keeps steps and notes; can end the run after the first epoch."""

    def __init__(self, *, dies: bool = False) -> None:
        self.steps: list[tuple[int, int]] = []
        self.notes: list[str] = []
        self._dies = dies

    def preparing(self, what: str, done: int, total: int) -> None:
        assert what == "Training all layers"
        self.steps.append((done, total))

    def note(self, text: str) -> None:
        self.notes.append(text)
        if self._dies and "epoch 1/2" in text:
            raise KilledError


class Steps:
    """In place of the network: notes what each step would have trained on."""

    def __init__(self) -> None:
        self.seen: list[tuple[int, int]] = []
        self.optimizer = SimpleNamespace(learning_rate=SimpleNamespace(assign=lambda rate: None))

    def step(self, images: Any, labels: Any, seed: Any, size: int) -> tuple[float, float]:
        self.seen.append((len(images), size))
        return 1.0, float(len(labels))


@pytest.mark.parametrize(
    ("batch_size", "window_px", "expected"),
    [(3, 64, [(3, 64)]), (3, None, [(3, 112), (1, 112)]), (8, 64, [(4, 64)]), (2, 64, [(2, 64)] * 2)],
)
def test_windows_leave_an_incomplete_batch_to_another_epoch(
    crops: npt.NDArray[np.uint8], batch_size: int, window_px: int | None, expected: list[tuple[int, int]]
) -> None:
    """Four training crops; a fit of a batch that is never whole keeps it."""
    options = FitOptions(weights="none", pretrain_epochs=2, pretrain_window_px=window_px, batch_size=batch_size, seed=3)
    steps, recorder = Steps(), Recorder()
    row = pretrain._pretrain_epoch(steps, data_of(crops), options, 1, recorder)  # type: ignore[arg-type]
    assert steps.seen == expected
    assert row.accuracy == row.loss == 1.0
    assert recorder.steps[-1] == (len(expected), 2 * len(expected))


def run(crops: npt.NDArray[np.uint8], folder: Path, listener: Recorder, *, resume: bool = False) -> Any:
    model = network.assemble("resnet_v2", OPTIONS.seed)
    checkpointing = Checkpointing(folder, {"data": "one"}, resume)
    pretrain.pretrain(model, data_of(crops), OPTIONS, checkpointing, listener)
    return model


@pytest.mark.parametrize("small", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["small", "whole"])
def test_every_layer_learns_and_a_killed_run_ends_in_the_same_bits(
    crops: npt.NDArray[np.uint8], tmp_path: Path, small: bool
) -> None:
    # In a process of its own: TensorFlow is told to repeat itself before it has run anything.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        process.submit(check_resumed_run, crops, tmp_path, small=small).result()


def check_resumed_run(crops: npt.NDArray[np.uint8], tmp_path: Path, *, small: bool) -> None:
    fit.make_repeatable()
    if small:
        shrink(setattr)
    before = network.assemble("resnet_v2", OPTIONS.seed).get_weights()
    recorder = Recorder()
    whole = run(crops, tmp_path / "whole", recorder)
    assert recorder.steps == [(1, 2), (2, 2)]
    backbone = network.backbone_of(whole)
    for layer in backbone.layers:
        assert layer.trainable == (backbone.layers.index(layer) >= network.FROZEN_LAYERS)
    after = whole.get_weights()
    kernels = [(old, new) for old, new in zip(before, after, strict=True) if old.ndim == 4]
    assert len(kernels) == (CONVOLUTIONS if small else 53)
    assert all(not np.array_equal(old, new) for old, new in kernels)

    with pytest.raises(KilledError):
        run(crops, tmp_path / "killed", Recorder(dies=True))
    # Crops that are not of the training side are other ones now: they must not matter.
    others = crops.copy()
    others[4:] = 255 - others[4:]
    recorder = Recorder()
    resumed = run(others, tmp_path / "killed", recorder, resume=True)
    assert recorder.notes[0] == "resumed after pretraining epoch 1"
    assert len(recorder.notes) == 2
    for expected, actual in zip(after, resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(expected, actual)

    other_data = Checkpointing(tmp_path / "killed", {"data": "two"}, resume=True)
    with pytest.raises(OutputError, match="started otherwise"):
        pretrain.pretrain(resumed, data_of(crops), OPTIONS, other_data)


def test_only_random_weights_are_pretrained() -> None:
    with pytest.raises(UsageError, match="--weights none"):
        FitOptions(weights="imagenet", pretrain_epochs=5)
    with pytest.raises(UsageError, match="--pretrain-epochs"):
        FitOptions(weights="none", pretrain_epochs=-1)
    with pytest.raises(UsageError, match="Add --pretrain-epochs"):
        FitOptions(weights="none", pretrain_window_px=112)
    with pytest.raises(UsageError, match="--epochs 0 trains nothing"):
        FitOptions(weights="none", epochs=0)
    with pytest.raises(UsageError, match="at least 0"):
        FitOptions(weights="none", pretrain_epochs=1, epochs=-1)
    for window_px in (63, 225):
        with pytest.raises(UsageError, match="choose 64 to 224 pixels"):
            FitOptions(weights="none", pretrain_epochs=1, pretrain_window_px=window_px)


def test_without_epochs_the_model_stays_as_all_layers_left_it(
    crops: npt.NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The history is then the last epoch of all layers, as epoch 0; the run gives it the validation figures."""
    model = object()
    row = EpochRow(5, 0.25, 0.9, float("nan"), float("nan"), 3.0)
    monkeypatch.setattr(fit, "start_model", lambda *_: (model, row))
    options = FitOptions(weights="none", pretrain_epochs=5, epochs=0, seed=3)
    fitted = fit.fit(data_of(crops), options, Checkpointing(tmp_path))
    assert fitted.model is model
    assert (fitted.best_epoch, fitted.resumed_after) == (0, 0)
    (kept,) = fitted.history
    assert (kept.epoch, kept.loss, kept.accuracy) == (0, 0.25, 0.9)
    logits, labels = np.array([2.0, -1.0, -3.0]), np.array([1, 1, 0])
    (validated,) = run_module._validated(fitted.history, logits, labels)
    assert validated.val_accuracy == pytest.approx(2 / 3)
    losses = np.log1p(np.exp(-np.array([2.0, -1.0, 3.0])))
    assert validated.val_loss == pytest.approx(losses.mean())
    later = (EpochRow(1, 0.2, 0.9, 0.3, 0.8, 1.0),)
    assert run_module._validated(later, logits, labels) is later
