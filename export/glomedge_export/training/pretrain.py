"""``--pretrain-epochs``: all 190 layers trained from random weights, for a machine without access to ImageNet's.

The fit freezes 140 layers because ImageNet has trained them. Frozen layers with random weights stay random: the trained
layers only see what those let through, and magnify every rounding error, so that such a network hardly survives int8.
So everything is first trained on the training crops, in the usual way for a network from scratch:
BatchNormalization on the statistics of its batches, small pictures first and full-size ones last (progressive resizing:
Howard, fast.ai DAWNBench 2018; Tan & Le, "EfficientNetV2", ICML 2021), AdamW with a warm-up epoch and cosine decay. The
ordinary fit with its 140 frozen layers follows.

``--pretrain-window`` trains on random windows of the crops at their full scale instead. What tells the classes apart is
texture, which a window shows as large as the whole crop will: no epoch has to be spent on larger pictures afterwards.
That suits runs of minutes; a window may miss what only the whole crop shows, such as how far a scar reaches.

Everything random in an epoch is drawn from (seed, epoch, step), and every epoch is resumable.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from glomedge.errors import GlomedgeError
from glomedge.model.spec import SIZE_PX
from glomedge_export.frameworks import keras, tf
from glomedge_export.network import network
from glomedge_export.training.batch_norm import CALIBRATION_CROPS, calibrate_batch_norms
from glomedge_export.training.checkpoint import PRETRAINING_FOLDER, Checkpoint, Checkpointing, Checkpoints, EpochRow
from glomedge_export.training.feed import TrainingData, batches
from glomedge_export.training.listener import Listener, Silent
from glomedge_export.training.options import FitOptions
from glomedge_export.training.stain import stain

PEAK_LEARNING_RATE = 1e-3
WEIGHT_DECAY = 5e-4
# The statistics that BatchNormalization keeps of its batches follow the weights closely; at the end they are measured.
MOMENTUM = 0.9
MEASURED_CROPS = 256
# Labels are a pathologist's opinion of an image: pushing probabilities beyond 98% gains nothing.
SMOOTHING = 0.02
POSITIVE_WEIGHT = 2.0
"""The rarer label counts twice: a batch of 32 holds few of it."""
ZOOM = 0.8
BRIGHTNESS = 0.1
WINDOW_ZOOM = (0.85, 1.2)
"""Side of a window in the crop, as a part of the side that it has for the network."""
# Of the epochs: the last eleventh at full size, two elevenths before at 160 pixels, the rest at half size (a quarter of
# the work).
_SMALL_PX, _MEDIUM_PX = SIZE_PX // 2, 160


def size_px(epoch: int, epochs: int) -> int:
    """Side of the pictures in an epoch (from 1)."""
    full = -(-epochs // 11)
    medium = round(epochs * 2 / 11)
    if epoch > epochs - full:
        return SIZE_PX
    return _MEDIUM_PX if epoch > epochs - full - medium else _SMALL_PX


def window_sides(window_px: int) -> tuple[float, float]:
    """Least and greatest side of the windows, as parts of the crop's side."""
    low, high = (min(1.0, zoom * window_px / SIZE_PX) for zoom in WINDOW_ZOOM)
    return low, high


def learning_rate(step: int, steps_an_epoch: int, epochs: int) -> float:
    """Linear warm-up over the first epoch, cosine decay to 0 over all of them."""
    warm = min(1.0, (step + 1) / steps_an_epoch)
    return float(PEAK_LEARNING_RATE * warm * 0.5 * (1 + np.cos(np.pi * step / (steps_an_epoch * epochs))))


def augment(images: Any, size: int, seed: Any, sides: tuple[float, float] = (ZOOM, 1.0)) -> Any:
    """A random square of each crop, flips, transposition and brightness; the pixels resized.

    Args:
        images: uint8 ``[N, 224, 224, 3]``, RGB.
        size: side of the result in pixels.
        seed: int32 ``[2]``; the same seed gives the same pictures.
        sides: least and greatest side of the square, as a part of the crop's.

    Returns:
        float32 ``[N, size, size, 3]``, 0 to 255.
    """
    count = tf.shape(images)[0]

    def drawn(number: int, low: float, high: float, shape: Any) -> Any:
        return tf.random.stateless_uniform(shape, tf.random.experimental.stateless_fold_in(seed, number), low, high)

    side = drawn(0, *sides, [count])
    top, left = drawn(1, 0.0, 1.0, [count]) * (1 - side), drawn(2, 0.0, 1.0, [count]) * (1 - side)
    bottom, right = top + side, left + side
    upside, mirrored = drawn(3, 0.0, 1.0, [count]) < 0.5, drawn(4, 0.0, 1.0, [count]) < 0.5
    # A box with its ends exchanged is a flip.
    boxes = tf.stack(
        [
            tf.where(upside, bottom, top),
            tf.where(mirrored, right, left),
            tf.where(upside, top, bottom),
            tf.where(mirrored, left, right),
        ],
        axis=1,
    )
    cut = tf.image.crop_and_resize(tf.cast(images, tf.float32), boxes, tf.range(count), [size, size])
    turned = tf.where(drawn(5, 0.0, 1.0, [count, 1, 1, 1]) < 0.5, tf.transpose(cut, [0, 2, 1, 3]), cut)
    bright = turned * drawn(6, 1 - BRIGHTNESS, 1 + BRIGHTNESS, [count, 1, 1, 3])
    return tf.clip_by_value(bright, 0.0, 255.0)


class _AllLayers:
    """The network while all of it is trained: a backbone for any picture size, and the model's own head."""

    def __init__(self, model: Any, options: FitOptions) -> None:
        own = network.backbone_of(model)
        self.backbone = network.new_backbone(None)
        self.backbone.set_weights(own.get_weights())
        for norm in network.batch_norms(self.backbone):
            norm.momentum = MOMENTUM
        scaling, gap, self.head = (model.get_layer(name) for name in ("scaling", "gap", "probability"))
        # Zero at first, so that the first gradients are those of the labels.
        self.head.set_weights([np.zeros((2048, 1), np.float32), np.zeros(1, np.float32)])
        self.trained = self.backbone.trainable_variables + self.head.trainable_variables
        self.optimizer = keras.optimizers.AdamW(PEAK_LEARNING_RATE, weight_decay=WEIGHT_DECAY)
        self.optimizer.build(self.trained)

        window_px = options.pretrain_window_px
        sides = (ZOOM, 1.0) if window_px is None else window_sides(window_px)

        def step(images: Any, labels: Any, seed: Any, size: int) -> Any:
            pictures = augment(images, size, seed, sides)
            if options.augmentation == "stain":
                pictures = stain(pictures, seed)
            pictures = scaling(pictures)
            with tf.GradientTape() as tape:
                with network.computing_in(self.backbone, options.compute_dtype):
                    maps = tf.cast(self.backbone(pictures, training=True), tf.float32)
                kept = tf.nn.experimental.stateless_dropout(gap(maps), network.DROPOUT_RATE, seed, rng_alg="philox")
                logits = tf.matmul(kept, self.head.kernel.value) + self.head.bias.value
                smooth = labels * (1 - 2 * SMOOTHING) + SMOOTHING
                losses = tf.nn.sigmoid_cross_entropy_with_logits(labels=smooth, logits=logits)
                loss = tf.reduce_mean(losses * tf.where(labels > 0.5, POSITIVE_WEIGHT, 1.0))
            gradients = tape.gradient(loss, [variable.value for variable in self.trained])
            self.optimizer.apply(gradients, self.trained)
            hits = tf.cast((logits >= 0) == (labels >= 0.5), tf.float32)
            return loss, tf.reduce_sum(hits)

        # One trace for each size of picture and of batch.
        self.step = tf.function(step)

    @property
    def variables(self) -> list[Any]:
        """Weights and statistics of the backbone, then the head."""
        return [*self.backbone.variables, *self.head.variables]

    def restore(self, saved: Checkpoint) -> None:
        """Take over the state after an epoch of an earlier run."""
        for variables, values in (
            (self.variables, saved.weights),
            (self.optimizer.variables, saved.optimizer),
        ):
            for variable, value in zip(variables, values, strict=True):
                variable.assign(value)


def pretrain(
    model: Any,
    data: TrainingData,
    options: FitOptions,
    checkpointing: Checkpointing,
    listener: Listener | None = None,
) -> EpochRow:
    """Train every layer of ``model`` in place for ``options.pretrain_epochs`` epochs; returns the last of them.

    Args:
        model: from ``network.assemble``; its freezing is left as it is.
        data: only the training crops are looked at.
        options: seed, batch size, compute dtype, number of epochs.
        checkpointing: of the run; a folder inside its folder is written after every epoch.
        listener: receives the steps and epochs.

    Raises:
        OutputError: checkpoint not writable, damaged, or of another run.
        GlomedgeError: the loss is not finite.
    """
    listener = listener or Silent()
    epochs = options.pretrain_epochs
    checkpoints = Checkpoints(checkpointing.folder / PRETRAINING_FOLDER, keep_best=False)
    saved = checkpoints.load(checkpointing.settings) if checkpointing.resume else None
    if saved is None:
        checkpoints.clear()
    all_layers = _AllLayers(model, options)
    history: list[EpochRow] = []
    if saved is not None:
        all_layers.restore(saved)
        history = list(saved.history)
        listener.note(f"resumed after pretraining epoch {len(history)}")
    for epoch in range(len(history) + 1, epochs + 1):
        row = _pretrain_epoch(all_layers, data, options, epoch, listener)
        history.append(row)
        checkpoints.save(
            Checkpoint(
                [np.asarray(variable) for variable in all_layers.variables],
                [np.asarray(variable) for variable in all_layers.optimizer.variables],
                tuple(history),
                checkpointing.settings,
            )
        )
        listener.note(
            f"all layers, epoch {epoch}/{epochs} at {_size_of(options, epoch)} px: loss {row.loss:.4f}, "
            f"accuracy {row.accuracy:.4f}, {row.seconds:.0f} s"
        )
    network.backbone_of(model).set_weights(all_layers.backbone.get_weights())
    measured = MEASURED_CROPS if options.pretrain_window_px is None else CALIBRATION_CROPS
    chosen = np.random.default_rng([options.seed, 1]).permutation(data.train)[:measured]
    calibrate_batch_norms(model, [data.crops[np.sort(chosen[i : i + 32])] for i in range(0, len(chosen), 32)])
    return history[-1]


def _size_of(options: FitOptions, epoch: int) -> int:
    """Side in pixels of what the network sees in an epoch (from 1)."""
    return options.pretrain_window_px or size_px(epoch, options.pretrain_epochs)


def _pretrain_epoch(
    all_layers: _AllLayers, data: TrainingData, options: FitOptions, epoch: int, listener: Listener
) -> EpochRow:
    """Train one epoch; nothing is validated. Raises GlomedgeError where the loss is not finite."""
    started_s, epochs = time.perf_counter(), options.pretrain_epochs
    targets = data.labels[data.train].astype(np.float32)[:, None]
    order = np.random.default_rng([options.seed, 1, epoch]).permutation(len(data.train))
    if options.pretrain_window_px is not None and len(order) > options.batch_size:
        # The crops of an incomplete batch wait for another epoch: such a batch would need a trace of its own, which
        # takes as long as dozens of steps.
        order = order[: len(order) // options.batch_size * options.batch_size]
    steps, count, size = -(-len(order) // options.batch_size), len(order), _size_of(options, epoch)
    loss = hits = 0.0
    for number, (images, labels) in enumerate(
        batches(data.crops, data.train[order], options.batch_size, targets[order])
    ):
        done = (epoch - 1) * steps + number
        all_layers.optimizer.learning_rate.assign(learning_rate(done, steps, epochs))
        drawn = np.random.SeedSequence([options.seed, 1, epoch, number]).generate_state(2, np.uint32) >> 1
        seed = tf.constant(drawn.astype(np.int32))
        step_loss, step_hits = all_layers.step(images, labels, seed, size)
        loss, hits = loss + float(step_loss) * len(labels), hits + float(step_hits)
        listener.preparing("Training all layers", done + 1, steps * epochs)
    seconds = time.perf_counter() - started_s
    row = EpochRow(epoch, loss / count, hits / count, float("nan"), float("nan"), seconds)
    if not np.isfinite(row.loss):
        raise GlomedgeError(
            f"The loss is NaN or infinite in pretraining epoch {epoch}. Start again with another --seed."
        )
    return row
