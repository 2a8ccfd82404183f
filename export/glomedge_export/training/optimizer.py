"""The optimizer, and the compiled model."""

from __future__ import annotations

from typing import Any

import numpy as np

from glomedge.errors import UsageError
from glomedge.model.spec import InputScaling
from glomedge_export.frameworks import keras
from glomedge_export.network.network import assemble
from glomedge_export.training.options import OptimizerName


def make_optimizer(optimizer: OptimizerName = "sgd", learning_rate: float = 1e-3) -> Any:
    """A Keras optimizer of constant learning rate.

    Raises:
        UsageError: unknown optimizer or a learning rate that is not positive.
    """
    if not (np.isfinite(learning_rate) and learning_rate > 0):
        raise UsageError(f"The learning rate {learning_rate} is not above 0. Choose one such as 0.001.")
    match optimizer:
        case "sgd":
            return keras.optimizers.SGD(learning_rate)
        case "adam":
            return keras.optimizers.Adam(learning_rate)
    raise UsageError(f"Unknown optimizer {optimizer!r}. Choose sgd or adam.")


def build(
    weights: str = "none",
    input_scaling: InputScaling = "resnet",
    *,
    seed: int = 42,
    optimizer: OptimizerName = "sgd",
    learning_rate: float = 1e-3,
) -> Any:
    """The network, compiled with binary cross-entropy and binary accuracy at 0.5.

    Args:
        weights: ``imagenet``, ``none`` or a file (see ``weights.load_into``).
        input_scaling: ``resnet`` or ``resnet_v2``.
        seed: of the initial weights, the augmentation and the dropout.
        optimizer: ``sgd`` or ``adam``.
        learning_rate: of the optimizer.

    Returns:
        keras.Model, uint8 or float ``[N, 224, 224, 3]`` RGB 0..255 -> float32 ``[N, 1]``.

    Raises:
        ModelError: the weights are not available or do not match.
        UsageError: unknown optimizer, learning rate not above 0.
    """
    from glomedge_export.network.weights import load_into

    model = assemble(input_scaling, seed)
    load_into(model, weights)
    model.compile(
        optimizer=make_optimizer(optimizer, learning_rate),
        loss=keras.losses.BinaryCrossentropy(),
        metrics=[keras.metrics.BinaryAccuracy(name="accuracy", threshold=0.5)],
    )
    return model
