"""Data-dependent start for ``--weights none``: BatchNormalization statistics measured on training crops.

The network is trained with every BatchNormalization on its moving statistics (``training=False``). ImageNet weights
come with matching ones. Random weights come with mean 0 and variance 1, which match nothing: activations of the frozen
layers then have arbitrary scale and offset, whole channels die at their ReLU, and the trained layers see little of
the crop. So, before fitting, the statistics are set to what they are on a hundred-odd training crops (in the spirit
of Mishkin & Matas, "All you need is a good init", ICLR 2016). They stay untouched while fitting.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge_export.network import network

CALIBRATION_CROPS = 128


def calibrate_batch_norms(
    model: Any,
    batches_nhwc: Sequence[npt.NDArray[np.uint8]],
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Set every moving mean and variance of the backbone to the pooled statistics of these batches.

    Within a batch each layer normalises by the batch's own statistics, so that all layers are measured in one pass;
    batches are pooled by the law of total variance.

    Args:
        model: of this network; changed in place, its freezing is not.
        batches_nhwc: enhanced crops, uint8 ``[n, 224, 224, 3]`` each.
        on_progress: called with (done, all).
    """
    backbone = network.backbone_of(model)
    scaling = model.get_layer("scaling")
    norms = list(network.batch_norms(backbone))
    momenta = [norm.momentum for norm in norms]
    # A frozen BatchNormalization ignores training=True; momentum 0 leaves exactly the last batch's statistics.
    network.thaw(backbone)
    means: list[list[npt.NDArray[np.float64]]] = [[] for _ in norms]
    variances: list[list[npt.NDArray[np.float64]]] = [[] for _ in norms]
    try:
        for norm in norms:
            norm.momentum = 0.0
        for done, images in enumerate(batches_nhwc, start=1):
            backbone(scaling(images.astype(np.float32)), training=True)
            for position, norm in enumerate(norms):
                means[position].append(np.asarray(norm.moving_mean, np.float64))
                variances[position].append(np.asarray(norm.moving_variance, np.float64))
            if on_progress is not None:
                on_progress(done, len(batches_nhwc))
        for norm, mean, variance in zip(norms, means, variances, strict=True):
            norm.moving_mean.assign(np.mean(mean, 0))
            norm.moving_variance.assign(np.mean(variance, 0) + np.var(mean, 0))
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        network.freeze(backbone)
