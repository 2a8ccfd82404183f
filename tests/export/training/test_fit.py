"""The fit: what is frozen stays, runs repeat to the bit, a killed run goes on as if nothing had happened."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.cases.decision import sigmoid
from glomedge.errors import OutputError, UsageError
from glomedge_export.training.checkpoint import Checkpointing, EpochRow
from glomedge_export.training.options import FitOptions

keras = pytest.importorskip("keras", reason="needs TensorFlow: pip install 'glomedge[export]'")
pytestmark = pytest.mark.keras

from glomedge_export.frameworks import tf  # noqa: E402
from glomedge_export.network import network  # noqa: E402
from glomedge_export.training import fit  # noqa: E402
from glomedge_export.training.batch_norm import calibrate_batch_norms  # noqa: E402
from glomedge_export.training.feed import TrainingData, batches  # noqa: E402
from glomedge_export.training.listener import Silent  # noqa: E402
from glomedge_export.training.optimizer import make_optimizer  # noqa: E402
from helpers.small_network import shrink  # noqa: E402

LABELS = np.array([0, 1, 0, 1, 0, 1], np.int64)
TRAIN, VALIDATION = np.array([0, 1, 2, 3]), np.array([4, 5])


@pytest.fixture(scope="module")
def crops() -> npt.NDArray[np.uint8]:
    """Six crops of noise, those labelled 1 darker; uint8 [6, 224, 224, 3]."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 224, 224, 3), dtype=np.uint8)
    pixels[LABELS == 1] //= 2
    return pixels


def snapshot(variables: Any) -> dict[str, npt.NDArray[Any]]:
    return {variable.path: np.array(variable) for variable in variables}


def test_one_step_changes_exactly_what_is_not_frozen(crops: npt.NDArray[np.uint8]) -> None:
    model = network.assemble("resnet", seed=1)
    calibrate_batch_norms(model, [crops])
    trainer = fit.Trainer(model, make_optimizer("sgd", 0.01))
    before = snapshot(model.variables)
    targets = np.stack([LABELS, np.ones(6)], 1).astype(np.float32)
    trainer.train_step(tf.constant(crops), tf.constant(targets))
    after = snapshot(model.variables)
    changed = {path for path in before if not np.array_equal(before[path], after[path])}

    backbone = network.backbone_of(model)
    frozen = {variable.path for layer in backbone.layers[:140] for variable in layer.variables}
    statistics = {v.path for norm in network.batch_norms(backbone) for v in (norm.moving_mean, norm.moving_variance)}
    assert len(statistics) == 2 * 49
    assert not changed & (frozen | statistics)
    assert frozen | statistics == {v.path for v in model.non_trainable_weights}
    later = [layer for layer in backbone.layers[140:] if layer.trainable_variables]
    assert len(later) == 27
    for layer in [*later, model.get_layer("probability")]:
        assert changed & {variable.path for variable in layer.trainable_variables}, layer.name


def test_bfloat16_steps_leave_a_float32_model(crops: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    """The step points where the float32 one does, but is rounded; all that is kept stays float32."""
    shrink(monkeypatch.setattr)
    steps = {}
    for dtype in ("float32", "bfloat16"):
        model = network.assemble("resnet_v2", seed=1)
        calibrate_batch_norms(model, [crops])
        before = snapshot(model.trainable_variables)
        trainer = fit.Trainer(model, make_optimizer("sgd", 1.0), dtype)
        trainer.reseed(5, 1)
        trainer.train_step(tf.constant(crops), tf.constant(np.stack([LABELS, np.ones(6)], 1).astype(np.float32)))
        after = snapshot(model.trainable_variables)
        steps[dtype] = np.concatenate([(after[path] - before[path]).ravel() for path in before])
        assert {str(variable.dtype) for variable in model.trainable_variables} == {"float32"}
        assert {layer.compute_dtype for layer in network.backbone_of(model).layers} == {"float32"}
        logits, _ = trainer.infer(crops, np.arange(6))
        expected = np.asarray(model(crops))[:, 0]
        np.testing.assert_allclose(sigmoid(logits, 1.0), expected, atol=1e-5)
    exact, rounded = steps["float32"], steps["bfloat16"]
    assert not np.array_equal(exact, rounded), "bfloat16 was not computed in"
    cosine = exact @ rounded / (np.linalg.norm(exact) * np.linalg.norm(rounded))
    # 0.93 was seen: noise through untrained layers amplifies every rounding.
    assert cosine > 0.85
    assert np.linalg.norm(rounded) == pytest.approx(np.linalg.norm(exact), rel=0.1)


class Recorder(Silent):
    """Keeps the epochs; can kill the process in the middle of one."""

    def __init__(self, die_in_epoch: int | None = None) -> None:
        self.rows: list[EpochRow] = []
        self._die_in_epoch = die_in_epoch

    def step(self, epoch: int, done: int, steps: int) -> None:
        if epoch == self._die_in_epoch:
            os.kill(os.getpid(), signal.SIGKILL)

    def epoch(self, row: EpochRow) -> None:
        self.rows.append(row)


OPTIONS = FitOptions(weights="none", epochs=2, batch_size=3, optimizer="adam", learning_rate=1e-4, seed=3)


def run(crops: npt.NDArray[np.uint8], directory: Path, **kwargs: Any) -> fit.Fitted:
    return fit.fit(
        TrainingData(crops, LABELS, TRAIN, VALIDATION),
        kwargs.pop("options", OPTIONS),
        Checkpointing(directory, {"data": "drawn"}, kwargs.pop("resume", False)),
        **kwargs,
    )


def figures(fitted: fit.Fitted) -> list[tuple[float, ...]]:
    return [(row.epoch, row.loss, row.accuracy, row.val_loss, row.val_accuracy) for row in fitted.history]


def train_and_die(crops: npt.NDArray[np.uint8], directory: Path, *, small: bool) -> None:
    """In a process of its own, which does not survive the second epoch."""
    fit.make_repeatable()
    if small:
        shrink(setattr)
    run(crops, directory / "killed", listener=Recorder(die_in_epoch=2))


def whole_and_resumed(crops: npt.NDArray[np.uint8], directory: Path, *, small: bool) -> None:
    """In a process of its own: TensorFlow takes its threads once."""
    fit.make_repeatable()
    if small:
        shrink(setattr)
    whole = run(crops, directory / "whole")
    recorder = Recorder()
    resumed = run(crops, directory / "killed", listener=recorder, resume=True)
    assert [row.epoch for row in recorder.rows] == [2]
    assert resumed.resumed_after == 1
    assert figures(resumed) == figures(whole)
    assert resumed.best_epoch == whole.best_epoch
    for first, second in zip(whole.model.weights, resumed.model.weights, strict=True):
        np.testing.assert_array_equal(np.asarray(first), np.asarray(second))
    assert figures(whole)[0][1] != figures(whole)[1][1]
    with pytest.raises(OutputError, match=r"batch_size: 3 before, 2 now"):
        run(crops, directory / "killed", options=FitOptions(**{**OPTIONS.fixed(), "batch_size": 2}), resume=True)


@pytest.mark.parametrize("small", [True, pytest.param(False, marks=pytest.mark.slow)], ids=["small", "whole"])
def test_killed_run_resumes_to_the_same_bits(crops: npt.NDArray[np.uint8], tmp_path: Path, small: bool) -> None:
    """SIGKILL in the middle of an epoch. The uninterrupted and the resumed run are two runs of the same seed in two
    processes, so this proves repeatability as well."""
    spawn = get_context("spawn")
    killed = spawn.Process(target=train_and_die, args=(crops, tmp_path), kwargs={"small": small})
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    with ProcessPoolExecutor(1, mp_context=spawn) as process:
        process.submit(whole_and_resumed, crops, tmp_path, small=small).result()


def test_inference_equals_the_model(crops: npt.NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch.setattr)
    model = network.assemble("resnet_v2", seed=2)
    trainer = fit.Trainer(model, make_optimizer())
    logits, activations = trainer.infer(crops, np.array([4, 0, 2]), batch_size=2)
    expected = np.asarray(model(crops[[4, 0, 2]]))[:, 0]
    np.testing.assert_allclose(1 / (1 + np.exp(-logits)), expected, atol=1e-5)
    np.testing.assert_allclose(activations.mean((1, 2)), logits, rtol=1e-3, atol=1e-4)
    assert activations.shape == (3, 7, 7)


def test_batches_keep_order_and_every_crop(crops: npt.NDArray[np.uint8]) -> None:
    order = np.array([5, 0, 3, 1, 2])
    targets = np.arange(5, dtype=np.float32)[:, None]
    got = list(batches(crops, order, 2, targets))
    assert [len(images) for images, _ in got] == [2, 2, 1]
    np.testing.assert_array_equal(np.concatenate([np.asarray(images) for images, _ in got]), crops[order])
    np.testing.assert_array_equal(np.concatenate([np.asarray(carried) for _, carried in got]), targets)


def test_balanced_weights_give_both_labels_the_same_sum() -> None:
    labels = np.array([0, 0, 0, 1])
    weights = fit.sample_weights(labels, "balanced")
    assert weights[labels == 1].sum() == pytest.approx(weights[labels == 0].sum()) == pytest.approx(2.0)
    np.testing.assert_array_equal(fit.sample_weights(labels, "none"), np.ones(4))


def test_early_stopping_counts_epochs_without_a_better_loss() -> None:
    history = [EpochRow(i, 0.0, 0.0, loss, 0.0, 0.0) for i, loss in enumerate((0.5, 0.4, 0.6, 0.45), start=1)]
    assert not fit._is_over(history, 0)
    assert fit._is_over(history, 2)
    assert not fit._is_over(history, 3)
    assert not fit._is_over([], 1)


@pytest.mark.parametrize(
    "wrong",
    [
        {"epochs": 0},
        {"batch_size": 0},
        {"early_stopping": -1},
        {"learning_rate": 0.0},
        {"learning_rate": float("nan")},
        {"optimizer": "rmsprop"},
        {"class_weight": "heavy"},
        {"compute_dtype": "float16"},
        {"input_scaling": "caffe"},
    ],
)
def test_bad_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError):
        FitOptions(**wrong)
