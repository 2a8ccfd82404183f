"""Data-dependent start for ``--weights none``: the last layer fitted to the pooled features of the random network.

Once its BatchNormalization statistics are measured (``batch_norm.py``), a random network's 2,048 pooled features
already distinguish textures; the output of a random last layer is noise. So the last layer starts as the
regularised logistic regression of the labels on those features, and the epochs refine it together with the rest of
the trained part. Random features with a fitted linear read-out: Saxe et al., "On random weights and unsupervised
feature learning", ICML 2011.

Every training crop is seen as it is and once augmented: rotation smooths a crop a little, and a layer fitted to
unrotated crops only would see different features in the first epoch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.cases.decision import cross_entropy
from glomedge.model.spec import SIZE_PX
from glomedge_export.frameworks import tf
from glomedge_export.network import network

# Strengths of the L2 penalty, as multiples of the one that dropout on the features amounts to; weakest last. Nothing
# weaker: large weights of both signs that cancel each other lift float32 rounding to where export refuses it.
PENALTIES = (30.0, 10.0, 3.0, 1.0)
MAX_CROPS = 1024

Features = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Head:
    """A last layer: ``logit = features @ kernel + bias``; kernel float32 ``[2048, 1]``, bias float32 ``[1]``."""

    kernel: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]
    penalty: float


class PooledFeatures:
    """The network up to global average pooling; traced once for any batch size."""

    def __init__(self, model: Any) -> None:
        augmentation, scaling, gap = (model.get_layer(name) for name in ("augmentation", "scaling", "gap"))
        backbone = network.backbone_of(model)

        def pooled(images: Any) -> Any:
            return gap(backbone(scaling(images), training=False))

        any_images = tf.TensorSpec((None, SIZE_PX, SIZE_PX, 3), tf.float32)
        self._augment = tf.function(lambda images: augmentation(images, training=True), input_signature=[any_images])
        self._pooled = tf.function(pooled, input_signature=[any_images])

    def __call__(
        self,
        crops: npt.NDArray[np.uint8],
        indices: npt.NDArray[np.int64],
        on_progress: Callable[[int, int], None] | None = None,
        *,
        augmented: bool = False,
        batch_size: int = 32,
    ) -> Features:
        """Features, float32 ``[n, 2048]``, of the enhanced crops ``crops[indices]``, augmented or as they are."""
        # Memory maps are read in file order; the caller's order is put back below.
        order = np.argsort(indices, kind="stable")
        parts = []
        for start in range(0, len(indices), batch_size):
            images = crops[indices[order[start : start + batch_size]]].astype(np.float32)
            parts.append(np.asarray(self._pooled(self._augment(images) if augmented else images)))
            if on_progress is not None:
                on_progress(min(start + batch_size, len(indices)), len(indices))
        features = np.empty((len(indices), parts[0].shape[1]), np.float32)
        features[order] = np.concatenate(parts)
        return features


def fit_head(
    train: Features, train_labels: npt.NDArray[np.int64], validation: Features, validation_labels: npt.NDArray[np.int64]
) -> Head:
    """Logistic regression; its penalty is the one of least validation cross-entropy.

    The penalty weighs each feature by its mean square, as dropout on the features does: to second order, dropout at
    rate d adds ``d / (1 - d) * sum_i p_i (1 - p_i) * sum_j (w_j f_ij)^2 / 2`` to the loss (Wager et al., "Dropout
    training as adaptive regularization", NIPS 2013). Here ``p_i`` is the share of positives.
    """
    from sklearn.linear_model import LogisticRegression

    mean = train.mean(axis=0, dtype=np.float64)
    rms = np.sqrt(np.square(train, dtype=np.float64).mean(axis=0))
    # A channel that a ReLU silenced tells nothing.
    scale = np.where(rms > 1e-6, 1.0 / np.maximum(rms, 1e-6), 0.0)
    share = float(np.mean(train_labels))
    dropout_penalty = len(train) * share * (1 - share) * network.DROPOUT_RATE / (1 - network.DROPOUT_RATE)
    best: tuple[float, Head] | None = None
    for penalty in PENALTIES:
        regression = LogisticRegression(C=1 / (penalty * dropout_penalty), max_iter=2000)
        # Centring only helps the solver: the intercept is not penalised.
        regression.fit((train - mean) * scale, train_labels)
        kernel = regression.coef_[0] * scale
        bias = float(regression.intercept_[0] - mean @ kernel)
        loss = cross_entropy(validation @ kernel + bias, validation_labels)
        if best is None or loss < best[0]:
            head = Head(kernel[:, None].astype(np.float32), np.array([bias], np.float32), penalty)
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
    *,
    max_crops: int = MAX_CROPS,
    augmented: bool = True,
) -> Head:
    """Fit the last layer of ``model`` in place on at most ``max_crops`` crops of either side; returns it.

    With ``augmented`` every training crop is seen augmented, too.
    """
    train, validation = train[:max_crops], validation[:max_crops]
    views = ((train, False), (train, True)) if augmented else ((train, False),)
    sides = (*views, (validation, False))
    total, before = sum(len(indices) for indices, _ in sides), 0
    features, pooled = [], PooledFeatures(model)
    for indices, turned in sides:

        def on_part(done: int, _: int, before: int = before) -> None:
            if on_progress is not None:
                on_progress(before + done, total)

        features.append(pooled(crops, indices, on_part, augmented=turned))
        before += len(indices)
    seen, seen_labels = np.concatenate(features[:-1]), np.tile(labels[train], len(views))
    head = fit_head(seen, seen_labels, features[-1], labels[validation])
    model.get_layer("probability").set_weights([head.kernel, head.bias])
    return head
