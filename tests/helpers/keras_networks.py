"""Keras networks with statistics like a trained one, made in seconds and without training."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.model.spec import InputScaling


def realistic_network(input_scaling: InputScaling, images_nhwc: npt.NDArray[np.uint8], seed: int = 0) -> Any:
    """A network whose every BatchNormalization has non-trivial gamma, beta, mean and variance.

    gamma and beta are drawn; mean and variance are what the layer really sees on ``images_nhwc``, then disturbed,
    as the statistics of a trained network are those of other crops. Biases of convolutions are drawn as well. The
    dense layer looks along the direction in which the pooled features differ most, as training would make it, and is
    scaled so that logits on ``images_nhwc`` have mean 0 and standard deviation 1. (A random direction would need a
    far larger scale for that, and magnify the rounding of float32 with it.)

    Args:
        input_scaling: ``resnet`` or ``resnet_v2``.
        images_nhwc: uint8 ``[N, 224, 224, 3]``, eight or more enhanced crops.
        seed: of everything drawn.
    """
    from glomedge_export.network import network

    model = network.assemble(input_scaling, seed)
    rng = np.random.default_rng(seed)
    backbone = network.backbone_of(model)
    norms = list(network.batch_norms(backbone))
    for layer in norms:
        channels = layer.gamma.shape[0]
        layer.gamma.assign(rng.uniform(0.5, 1.5, channels))
        layer.beta.assign(rng.normal(0.0, 0.4, channels))
        layer.momentum = 0.0
    for layer in backbone.layers:
        if getattr(layer, "use_bias", False):
            layer.bias.assign(rng.normal(0.0, 0.1, layer.bias.shape))
    scaling = next(layer for layer in model.layers if isinstance(layer, network.RgbScaling))
    scaled = scaling(images_nhwc.astype(np.float32))
    network.thaw(backbone)
    # In one pass in training mode every layer stores what it sees (momentum 0) and hands on normalised values.
    backbone(scaled, training=True)
    for layer in norms:
        layer.momentum = 0.99
        channels = layer.gamma.shape[0]
        spread = np.sqrt(np.asarray(layer.moving_variance))
        layer.moving_mean.assign(np.asarray(layer.moving_mean) + rng.normal(0.0, 0.1, channels) * spread)
        layer.moving_variance.assign(np.asarray(layer.moving_variance) * rng.uniform(0.8, 1.25, channels) + 1e-3)
    pooled = np.asarray(backbone(scaled, training=False)).mean((1, 2))
    centred = pooled - pooled.mean(0)
    kernel = np.linalg.svd(centred, full_matrices=False)[2][0][:, None]
    kernel /= (pooled @ kernel).std()
    head = next(layer for layer in model.layers if layer.name == "probability")
    head.set_weights([kernel.astype(np.float32), -(pooled @ kernel).mean(0).astype(np.float32)])
    return model
