"""Keras models as others build them, with statistics like trained ones, made without training.

Every function takes the module it builds with, ``keras`` (Keras 3) or ``tf_keras`` (Keras 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

PREPROCESSING = {
    "ResNet50V2": "resnet_v2",
    "ResNet50": "resnet",
    "InceptionV3": "inception_v3",
    "DenseNet121": "densenet",
    "MobileNetV2": "mobilenet_v2",
}


def published(module: Any, network: str = "ResNet50V2", *, side_px: int = 224, seed: int = 0) -> Any:
    """The published model with a network of keras.applications: augmentation, scaling inside, nested network, head."""
    module.utils.set_random_seed(seed)
    layers = module.layers
    images = module.Input((side_px, side_px, 3))
    augmentation = module.Sequential(
        [layers.RandomFlip("horizontal"), layers.RandomFlip("vertical"), layers.RandomRotation(0.15)]
    )
    x = augmentation(images)
    applications = module.applications
    if network in PREPROCESSING:
        x = getattr(applications, PREPROCESSING[network]).preprocess_input(x)
    build = getattr(applications, network)
    base = build(include_top=False, weights=None, input_shape=(side_px, side_px, 3))
    x = layers.GlobalAveragePooling2D()(base(x, training=False))
    return module.Model(images, layers.Dense(1, activation="sigmoid")(layers.Dropout(0.3)(x)))


def settle(module: Any, model: Any, images_nhwc: npt.NDArray[np.uint8], seed: int = 0) -> Any:
    """Give a model statistics like those of a trained one, and a head whose logits spread; returns it.

    gamma, beta and biases are drawn. Mean and variance of every BatchNormalization are what the layer sees on the
    crops, then disturbed, as the statistics of a trained network are those of other crops. The last Dense layer looks
    along the direction in which its inputs differ most, scaled to logits of mean 0 and standard deviation 1.
    """
    rng = np.random.default_rng(seed)
    layers = list(_leaves(model))
    norms = [layer for layer in layers if isinstance(layer, module.layers.BatchNormalization)]
    dense = [layer for layer in layers if isinstance(layer, module.layers.Dense)]
    for layer in layers:
        if getattr(layer, "bias", None) is not None:
            layer.bias.assign(rng.normal(0.0, 0.1, layer.bias.shape))
    for layer in norms:
        channels = layer.moving_mean.shape[0]
        if layer.gamma is not None:
            layer.gamma.assign(rng.uniform(0.5, 1.5, channels))
        layer.beta.assign(rng.normal(0.0, 0.4, channels))
        layer.momentum = 0.0
        layer.trainable = True
    pixels = images_nhwc.astype(np.float32)
    if norms:
        _in_training(module, model, norms, pixels)
    for layer in norms:
        layer.momentum = 0.99
        channels = layer.moving_mean.shape[0]
        spread = np.sqrt(np.asarray(layer.moving_variance))
        layer.moving_mean.assign(np.asarray(layer.moving_mean) + rng.normal(0.0, 0.1, channels) * spread)
        layer.moving_variance.assign(np.asarray(layer.moving_variance) * rng.uniform(0.8, 1.25, channels) + 1e-3)
    _spread_logits(module, model, dense[-1], pixels)
    return model


def _in_training(module: Any, model: Any, norms: list[Any], pixels: npt.NDArray[np.float32]) -> None:
    """One pass in which every BatchNormalization stores what it sees and hands on normalised values."""
    calls = []
    for layer in norms:
        # The networks are nested with training=False, which nothing from outside undoes.
        calls.append(layer.call)
        layer.call = lambda *arguments, _call=layer.call, **named: _call(*arguments, **{**named, "training": True})
    model(pixels, training=False)
    for layer, call in zip(norms, calls, strict=True):
        layer.call = call


def _spread_logits(module: Any, model: Any, last: Any, pixels: npt.NDArray[np.float32]) -> None:
    seen: list[npt.NDArray[np.float64]] = []
    call = last.call

    def watched(inputs: Any, **named: Any) -> Any:
        seen.append(np.asarray(inputs, np.float64))
        return call(inputs, **named)

    last.call = watched
    model(pixels, training=False)
    last.call = call
    pooled = seen[-1]
    directions = np.linalg.svd(pooled - pooled.mean(0), full_matrices=False)[2]
    kernel = np.stack([directions[0] * (-1) ** output for output in range(last.units)], 1)
    kernel /= (pooled @ kernel).std(0) * last.units
    last.set_weights([kernel.astype(np.float32), -(pooled @ kernel).mean(0).astype(np.float32)])


def _leaves(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        if getattr(layer, "layers", None):
            yield from _leaves(layer)
        else:
            yield layer
