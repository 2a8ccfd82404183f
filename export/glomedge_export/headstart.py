"""Data-dependent start for ``--weights none``: the last layer fitted to the pooled features of the random network.

Once its BatchNormalization statistics are measured (``normalisation.py``), a random network's 2,048 pooled features
already tell textures apart; what a random last layer makes of them is noise. So the last layer starts as the
regularised logistic regression of the labels on those features, and the epochs refine it together with the rest of
the trained part. Random features with a fitted linear read-out: Saxe et al., "On random weights and unsupervised
feature learning", ICML 2011.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from glomedge_export import network
from glomedge_export.decision import cross_entropy

# Inverse strength of the L2 penalty on standardised features, weakest last.
INVERSE_STRENGTHS = (1e-4, 1e-3, 1e-2, 1e-1)
MAX_CROPS = 1024

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """A last layer: ``logit = features @ kernel + bias``; kernel float32 ``[2048, 1]``, bias float32 ``[1]``."""

    kernel: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    inverse_strength: float


def pooled_features(
    model: Any,
    crops: npt.NDArray[np.uint8],
    indices: npt.NDArray[np.int64],
    on_progress: Callable[[int, int], None] | None = None,
    batch_size: int = 32,
) -> Features:
    """Features after global average pooling, float32 ``[n, 2048]``, of enhanced crops, without augmentation."""
    backbone, scaling, gap = network.backbone_of(model), model.get_layer("scaling"), model.get_layer("gap")

    @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
    def pooled(images: Any) -> Any:
        return gap(backbone(scaling(tf.cast(images, tf.float32)), training=False))

    parts = []
    for start in range(0, len(indices), batch_size):
        parts.append(np.asarray(pooled(crops[np.sort(indices)[start : start + batch_size]])))
        if on_progress is not None:
            on_progress(min(start + batch_size, len(indices)), len(indices))
    # Memory maps are read in file order; the caller's order is put back.
    features = np.concatenate(parts)
    back = np.empty(len(indices), np.int64)
    back[np.argsort(indices, kind="stable")] = np.arange(len(indices))
    return np.asarray(features[back], np.float32)


def fit_head(
    train: Features, train_labels: npt.NDArray[np.int64], validation: Features, validation_labels: npt.NDArray[np.int64]
) -> Head:
    """Logistic regression on standardised features; the penalty is the one of least validation cross-entropy."""
    from sklearn.linear_model import LogisticRegression

    mean = train.mean(axis=0, dtype=np.float64)
    deviation = train.std(axis=0, dtype=np.float64)
    # A channel that a ReLU silenced has no spread and tells nothing.
    scale = np.where(deviation > 1e-6, 1.0 / np.maximum(deviation, 1e-6), 0.0)
    best: tuple[float, Head] | None = None
    for inverse_strength in INVERSE_STRENGTHS:
        regression = LogisticRegression(C=inverse_strength, max_iter=2000)
        regression.fit((train - mean) * scale, train_labels)
        kernel = regression.coef_[0] * scale
        bias = float(regression.intercept_[0] - mean @ kernel)
        loss = cross_entropy(validation @ kernel + bias, validation_labels)
        if best is None or loss < best[0]:
            head = Head(kernel[:, None].astype(np.float32), np.array([bias], np.float32), inverse_strength)
            best = loss, head
    assert best is not None
    return best[1]


def start_head(
    model: Any,
    crops: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    train: npt.NDArray[np.int64],
    validation: npt.NDArray[np.int64],
    on_progress: Callable[[int, int], None] | None = None,
) -> Head:
    """Fit the last layer of ``model`` in place on at most ``MAX_CROPS`` crops of either side; returns it."""
    train, validation = train[:MAX_CROPS], validation[:MAX_CROPS]
    both = np.concatenate([train, validation])
    features = pooled_features(model, crops, both, on_progress)
    head = fit_head(features[: len(train)], labels[train], features[len(train) :], labels[validation])
    model.get_layer("probability").set_weights([head.kernel, head.bias])
    return head
