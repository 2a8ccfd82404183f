"""The fit: epochs over memory-mapped crops, gradients for the trained layers only, resumable and repeatable.

Everything random in an epoch (order of crops, augmentation, dropout) is drawn from (seed, epoch), so an epoch run
after ``--resume`` is the epoch that an uninterrupted run would have seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.cases.decision import cross_entropy
from glomedge.errors import GlomedgeError
from glomedge.model.spec import ComputeDtype
from glomedge_export.frameworks import tf
from glomedge_export.network import network, weights
from glomedge_export.training.batch_norm import CALIBRATION_CROPS, calibrate_batch_norms
from glomedge_export.training.checkpoint import Checkpoint, Checkpointing, Checkpoints, EpochRow, best_epoch
from glomedge_export.training.feed import Images, TrainingData, batches
from glomedge_export.training.head_start import start_head
from glomedge_export.training.listener import Listener, Silent
from glomedge_export.training.optimizer import make_optimizer
from glomedge_export.training.options import Augment, ClassWeight, FitOptions
from glomedge_export.training.pretrain import pretrain
from glomedge_export.training.stain import stain

WHOLE_CROPS = 256
"""Of either side, to which the last layer is fitted after training on windows."""


@dataclass(frozen=True)
class Fitted:
    """A fitted model with the weights of its best epoch.

    Attributes:
        model: keras.Model of ``network``.
        history: one row an epoch.
        best_epoch: from 1; 0 where no epoch followed the training of all layers. The one row of the history is then the
            last epoch of that, not validated.
        resumed_after: how many epochs an earlier run had done.
    """

    model: Any
    history: tuple[EpochRow, ...]
    best_epoch: int
    resumed_after: int


def make_repeatable() -> None:
    """Make TensorFlow give identical results for identical runs; process-wide, best before TensorFlow has run anything.

    Deterministic kernels alone were not enough: with two operations in flight at once, single training steps were
    seen to differ in the last bits from run to run. Operations still use every core within themselves.
    """
    tf.config.experimental.enable_op_determinism()
    if tf.config.threading.get_inter_op_parallelism_threads() != 1:
        try:
            tf.config.threading.set_inter_op_parallelism_threads(1)
        except RuntimeError as error:
            raise GlomedgeError(
                "TensorFlow has already run several operations at once in this process, so training would not be "
                "reproducible. Start training in its own process."
            ) from error


class Trainer:
    """One model and its optimizer; knows a training step and an evaluation pass.

    Training steps compute the backbone in ``compute_dtype``; evaluation is always float32, as the exported file is.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Any,
        compute_dtype: ComputeDtype = "float32",
        augment: Augment = "standard",
    ) -> None:
        self.model = model
        self.optimizer = optimizer
        backbone = network.backbone_of(model)
        trunk, tail = network.split_backbone(backbone)
        augmentation, scaling = model.get_layer("augmentation"), model.get_layer("scaling")
        gap, dropout, head = (model.get_layer(name) for name in ("gap", "dropout", "probability"))
        self.variables = model.trainable_variables
        optimizer.build(self.variables)
        self._random_states = [
            generator.state
            for layer in (*augmentation._flatten_layers(include_self=False), dropout)
            for generator in [getattr(layer, "generator", None) or getattr(layer, "seed_generator", None)]
            if generator is not None
        ]
        if len(self._random_states) != 4:
            raise GlomedgeError(
                "This version of Keras keeps its random state in an unexpected place, so runs would not be "
                "reproducible. Install the versions in constraints.txt."
            )

        # The seed of the next step's colours.
        self._stain_seed = tf.Variable([0, 0], dtype=tf.int32, trainable=False)

        def logits(features: Any) -> Any:
            return tf.matmul(features, head.kernel.value) + head.bias.value

        def train_step(images: Any, targets: Any) -> tuple[Any, Any]:
            labels, weight = targets[:, :1], targets[:, 1:]
            pictures = augmentation(tf.cast(images, tf.float32), training=True)
            if augment == "stain":
                pictures = stain(pictures, self._stain_seed)
                self._stain_seed.assign_add([0, 1])
            scaled = scaling(pictures)
            with network.computing_in(backbone, compute_dtype):
                frozen = trunk(scaled, training=False)
            # Nothing before this line is differentiated.
            frozen = [tf.stop_gradient(tensor) for tensor in tf.nest.flatten(frozen)]
            sources = [variable.value for variable in self.variables]
            with tf.GradientTape(watch_accessed_variables=False) as tape, network.computing_in(backbone, compute_dtype):
                tape.watch(sources)
                z = logits(dropout(gap(tail(frozen, training=False)), training=True))
                losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=labels, logits=z)
                loss = tf.reduce_mean(losses * weight)
            self.optimizer.apply(tape.gradient(loss, sources), self.variables)
            hits = tf.cast((z >= 0) == (labels >= 0.5), tf.float32)
            return tf.reduce_sum(losses), tf.reduce_sum(hits)

        def infer(images: Any) -> tuple[Any, Any]:
            maps = backbone(scaling(tf.cast(images, tf.float32)), training=False)
            activation = tf.tensordot(maps, head.kernel.value[:, 0], 1) + head.bias.value
            return logits(gap(maps)), activation

        # One trace serves every batch size: the last batch of an epoch is smaller.
        self.train_step = tf.function(train_step, reduce_retracing=True)
        self._infer = tf.function(infer, reduce_retracing=True)

    def reseed(self, seed: int, epoch: int) -> None:
        """Set augmentation and dropout to the start of an epoch."""
        drawn = np.random.SeedSequence([seed, epoch]).generate_state(2 * len(self._random_states), np.uint32)
        # Keras holds its seeds in int32-like variables; 31 bits fit any of them.
        for state, pair in zip(self._random_states, (drawn >> 1).reshape(-1, 2), strict=True):
            state.assign(pair.astype(state.dtype))
        self._stain_seed.assign(np.array([seed & 0x7FFFFFFF, epoch << 16], np.int32))

    def run_epoch(self, data: Any, steps: int, on_step: Callable[[int, int], None]) -> tuple[float, float]:
        """Train over the data once; returns mean loss (unweighted, nats) and accuracy at 0.5."""
        loss = hits = count = 0.0
        for done, (images, targets) in enumerate(data, start=1):
            step_loss, step_hits = self.train_step(images, targets)
            loss, hits, count = loss + float(step_loss), hits + float(step_hits), count + len(targets)
            on_step(done, steps)
        return loss / count, hits / count

    def infer(
        self, crops: Images, indices: npt.NDArray[np.int64], batch_size: int = 32
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
        """Logits ``[n]`` and activation maps ``[n, 7, 7]`` of crops, without augmentation, before temperature."""
        empty = np.zeros((len(indices), 0), np.float32)
        parts = [self._infer(images) for images, _ in batches(crops, indices, batch_size, empty)]
        logits = np.concatenate([np.asarray(part[0])[:, 0] for part in parts]).astype(np.float64)
        return logits, np.concatenate([np.asarray(part[1]) for part in parts])


def sample_weights(labels: npt.NDArray[np.int64], class_weight: ClassWeight) -> npt.NDArray[np.float32]:
    """Weight of each crop in the loss, float32 ``[n]`` of mean 1: ``n / (2 * n_label)`` when balanced."""
    if class_weight == "none":
        return np.ones(len(labels), np.float32)
    counts = np.bincount(labels, minlength=2)
    return np.asarray(len(labels) / (2 * counts[labels]), np.float32)


def start_model(
    data: TrainingData, options: FitOptions, checkpointing: Checkpointing, listener: Listener | None = None
) -> tuple[Any, EpochRow | None]:
    """The network with its starting weights, and the last epoch of all layers, where there was one.

    For ``none``: all layers trained for ``pretrain_epochs``; where that is 0, BatchNormalization measured on training
    crops, then the last layer fitted to the features of the random network.
    """
    listener = listener or Silent()
    model = network.assemble(options.input_scaling, options.seed)
    weights.load_into(model, options.weights)
    pretrained = None
    if options.pretrain_epochs:
        pretrained = pretrain(model, data, options, checkpointing, listener)
        if options.pretrain_window_px is not None:
            _fit_head_to_whole_crops(model, data, options, listener)
    elif options.weights == "none":
        chosen = np.random.default_rng(options.seed).permutation(data.train)[:CALIBRATION_CROPS]
        groups = [data.crops[np.sort(chosen[i : i + 32])] for i in range(0, len(chosen), 32)]
        calibrate_batch_norms(model, groups, lambda done, total: listener.preparing("BatchNorm start", done, total))
        start_head(
            model,
            data.crops,
            data.labels,
            np.random.default_rng(options.seed + 1).permutation(data.train),
            data.validation,
            lambda done, total: listener.preparing("last layer start", done, total),
        )
    return model, pretrained


def _fit_head_to_whole_crops(model: Any, data: TrainingData, options: FitOptions, listener: Listener) -> None:
    """All layers saw windows: whole crops look alike to them, but not the same, so the last layer is fitted anew."""
    start_head(
        model,
        data.crops,
        data.labels,
        np.random.default_rng(options.seed + 1).permutation(data.train),
        data.validation,
        lambda done, total: listener.preparing("last layer", done, total),
        max_crops=WHOLE_CROPS,
        augmented=False,
    )


def fit(
    data: TrainingData,
    options: FitOptions,
    checkpointing: Checkpointing,
    *,
    listener: Listener | None = None,
    tensorboard_dir: Path | None = None,
) -> Fitted:
    """Fit the network and keep the epoch of least validation loss.

    Args:
        data: crops, labels and the indices of both sides.
        options: see FitOptions; those that a resumed run must have in common are added to the settings.
        checkpointing: where, and whether to continue from, the state after each epoch.
        listener: receives the progress.
        tensorboard_dir: where to write TensorBoard logs, None for none.

    Raises:
        ModelError: the starting weights are not available.
        OutputError: checkpoint not writable, damaged, or of another run.
        GlomedgeError: the loss is not finite.
    """
    listener = listener or Silent()
    checkpointing = replace(checkpointing, settings={**checkpointing.settings, **options.fixed()})
    checkpoints = Checkpoints(checkpointing.folder)
    saved = checkpoints.load(checkpointing.settings) if checkpointing.resume else None
    if saved is None:
        checkpoints.clear()
        model, pretrained = start_model(data, options, checkpointing, listener)
        if pretrained is not None and options.epochs == 0:
            return Fitted(model, (replace(pretrained, epoch=0),), 0, 0)
    else:
        model = network.assemble(options.input_scaling, options.seed)
    optimizer = make_optimizer(options.optimizer, options.learning_rate)
    trainer = Trainer(model, optimizer, options.compute_dtype, options.augmentation)
    history: list[EpochRow] = []
    if saved is not None:
        _assign(model.variables, saved.weights)
        _assign(trainer.optimizer.variables, saved.optimizer)
        history = list(saved.history)
    resumed_after = len(history)
    with _Board(tensorboard_dir) as board:
        for epoch in range(resumed_after + 1, options.epochs + 1):
            if _is_over(history, options.early_stopping):
                break
            row = _fit_epoch(trainer, data, options, epoch, listener)
            history.append(row)
            weights_now = [np.asarray(variable) for variable in model.variables]
            optimizer_now = [np.asarray(variable) for variable in trainer.optimizer.variables]
            checkpoints.save(Checkpoint(weights_now, optimizer_now, tuple(history), checkpointing.settings))
            board.write(row)
            listener.epoch(row)
    best = best_epoch(history)
    _assign(model.variables, checkpoints.load_best(best))
    return Fitted(model, tuple(history), best, resumed_after)


def _fit_epoch(trainer: Trainer, data: TrainingData, options: FitOptions, epoch: int, listener: Listener) -> EpochRow:
    """Train one epoch and evaluate it on the validation crops. Raises GlomedgeError where the loss is not finite."""
    started_s = time.perf_counter()
    labels = data.labels[data.train]
    targets = np.stack([labels.astype(np.float32), sample_weights(labels, options.class_weight)], axis=1)
    trainer.reseed(options.seed, epoch)
    order = np.random.default_rng([options.seed, epoch]).permutation(len(data.train))
    loss, accuracy = trainer.run_epoch(
        batches(data.crops, data.train[order], options.batch_size, targets[order]),
        -(-len(data.train) // options.batch_size),
        lambda done, steps: listener.step(epoch, done, steps),
    )
    logits, _ = trainer.infer(data.crops, data.validation, options.batch_size)
    expected = data.labels[data.validation]
    row = EpochRow(
        epoch,
        loss,
        accuracy,
        cross_entropy(logits, expected),
        float(np.mean((logits >= 0) == (expected == 1))),
        time.perf_counter() - started_s,
    )
    if not np.isfinite([row.loss, row.val_loss]).all():
        raise GlomedgeError(
            f"The loss is NaN or infinite in epoch {epoch}. Lower --learning-rate (now {options.learning_rate}) and "
            "start again."
        )
    return row


def _is_over(history: Sequence[EpochRow], patience: int) -> bool:
    return bool(patience and history and history[-1].epoch - best_epoch(history) >= patience)


def _assign(variables: Sequence[Any], values: Sequence[npt.NDArray[Any]]) -> None:
    for variable, value in zip(variables, values, strict=True):
        variable.assign(value)


class _Board:
    """TensorBoard scalars, or nothing."""

    def __init__(self, directory: Path | None) -> None:
        self._writer = None if directory is None else tf.summary.create_file_writer(str(directory))

    def __enter__(self) -> _Board:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, row: EpochRow) -> None:
        """Write one epoch's figures."""
        if self._writer is None:
            return
        # tf.summary.scalar would need the tensorboard package on this machine; reading the logs may happen elsewhere.
        metadata = tf.compat.v1.SummaryMetadata()
        metadata.plugin_data.plugin_name = "scalars"
        with self._writer.as_default(step=row.epoch):
            for name in ("loss", "accuracy", "val_loss", "val_accuracy", "seconds"):
                tf.summary.write(name, tf.constant(getattr(row, name), tf.float32), metadata=metadata)
        self._writer.flush()
