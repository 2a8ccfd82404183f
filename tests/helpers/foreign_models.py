"""Keras models as others build them, with statistics like trained ones, made without training.

Every function takes the module it builds with, ``keras`` (Keras 3) or ``tf_keras`` (Keras 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SMALL_SIDE_PX = 64
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


def settle(module: Any, model: Any, images_nhwc: npt.NDArray[Any], seed: int = 0) -> Any:
    """Give a model statistics like those of a trained one, and a head whose logits spread; returns it.

    gamma, beta and biases are drawn. Mean and variance of every BatchNormalization are what the layer sees on the
    crops, then disturbed, as the statistics of a trained network are those of other crops. The last Dense layer looks
    along the direction in which its inputs differ most, scaled to logits of mean 0 and standard deviation 1.
    """
    rng = np.random.default_rng(seed)
    layers = list(_leaves(model))
    norms = [layer for layer in layers if isinstance(layer, module.layers.BatchNormalization)]
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
    weighted = [layer for layer in layers if isinstance(layer, module.layers.Dense | module.layers.Conv2D)]
    _spread_logits(model, weighted[-1], pixels)
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


def _spread_logits(model: Any, last: Any, pixels: npt.NDArray[np.float32]) -> None:
    seen: list[npt.NDArray[np.float64]] = []
    call = last.call

    def watched(inputs: Any, **named: Any) -> Any:
        seen.append(np.asarray(inputs, np.float64))
        return call(inputs, **named)

    last.call = watched
    model(pixels, training=False)
    last.call = call
    # The last layer may be a convolution that is averaged afterwards.
    pooled = seen[-1].reshape(len(pixels), -1, seen[-1].shape[-1]).mean(1)
    count = last.kernel.shape[-1]
    directions = np.linalg.svd(pooled - pooled.mean(0), full_matrices=False)[2]
    kernel = np.stack([directions[0] * (-1) ** output for output in range(count)], 1)
    kernel /= (pooled @ kernel).std(0) * count
    last.set_weights(
        [kernel.astype(np.float32).reshape(last.kernel.shape), -(pooled @ kernel).mean(0).astype(np.float32)]
    )


def _leaves(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        if getattr(layer, "layers", None):
            yield from _leaves(layer)
        else:
            yield layer


def small(
    module: Any,
    front: str = "resnet_v2",
    head: str = "sigmoid",
    *,
    body: str = "residual",
    side_px: int | None = SMALL_SIDE_PX,
    seed: int = 0,
) -> Any:
    """A network of a few thousand weights with the layer types of the large ones.

    Args:
        module: ``keras`` or ``tf_keras``.
        front: see ``_front``.
        head: see ``_head``.
        body: ``residual`` (ResNet's), ``mobile`` (depthwise, ReLU6, uneven padding), ``efficient`` (swish, squeeze and
            excite), ``dense`` (concatenation, average pooling) or ``convnext`` (LayerNormalization, gelu, groups).
        side_px: of the input; None leaves it open.
        seed: of the weights.
    """
    module.utils.set_random_seed(seed)
    images = module.Input((side_px, side_px, 3), dtype="uint8" if front.startswith("bytes") else None)
    features = _BODIES[body](module, _front(module, front, images))
    return module.Model(images, _head(module, head, features))


def _front(module: Any, name: str, x: Any) -> Any:
    layers = module.layers
    match name:
        case "none":
            return x
        case "rescaling":
            return layers.Rescaling(1 / 127.5, offset=-1)(x)
        case "bytes":
            return layers.Rescaling(1 / 127.5, offset=-1)(x)
        case "bytes_unscaled":
            if module.__name__ == "keras":
                return module.ops.cast(x, "float32")
            from glomedge_export.frameworks import tf

            return tf.cast(x, tf.float32)
        case "unit":
            return layers.Rescaling(1 / 255)(x)
        case "divided":
            return x / 255.0
        case "normalised":
            variance = [0.229**2, 0.224**2, 0.225**2]
            return layers.Normalization(mean=[0.485, 0.456, 0.406], variance=variance)(layers.Rescaling(1 / 255)(x))
        case "batch_norm":
            return layers.BatchNormalization(name="pixels_bn")(x)
        case "augmented":
            turned = module.Sequential([layers.RandomFlip(), layers.RandomRotation(0.1), layers.RandomZoom(0.1)])(x)
            return module.applications.resnet_v2.preprocess_input(turned)
        case "padded":
            return layers.ZeroPadding2D(3)(module.applications.resnet_v2.preprocess_input(x))
        case "torch":
            return module.applications.imagenet_utils.preprocess_input(x, mode="torch")
        case "resized":
            return layers.Rescaling(1 / 127.5, offset=-1)(layers.Resizing(48, 48)(x))
        case "squared":
            return x * x / 65025.0
        case "swapped":
            return layers.Concatenate()([x[..., 1:2], x[..., 0:1], x[..., 2:3]])
    return getattr(module.applications, name).preprocess_input(x)


def _residual(module: Any, x: Any) -> Any:
    layers = module.layers
    x = layers.Conv2D(8, 7, strides=2, use_bias=True, name="conv1_conv")(layers.ZeroPadding2D(3)(x))
    x = layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(x))
    before = layers.ReLU()(layers.BatchNormalization(epsilon=1.001e-5)(x))
    short = layers.Conv2D(16, 1)(before)
    y = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 1, use_bias=False)(before)))
    y = layers.Conv2D(8, 3, padding="same", use_bias=False)(y)
    y = layers.Conv2D(16, 1)(layers.ReLU()(layers.BatchNormalization()(y)))
    return layers.ReLU()(layers.BatchNormalization()(layers.Add()([short, y])))


def _mobile(module: Any, x: Any) -> Any:
    layers = module.layers
    x = layers.Conv2D(8, 3, strides=2, padding="same", use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.DepthwiseConv2D(3, strides=2, use_bias=False)(layers.ZeroPadding2D(((0, 1), (0, 1)))(x))
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    x = layers.BatchNormalization()(layers.Conv2D(16, 1, use_bias=False)(x))
    return layers.Add()([x, layers.BatchNormalization()(layers.SeparableConv2D(16, 3, padding="same")(x))])


def _efficient(module: Any, x: Any) -> Any:
    layers = module.layers
    x = layers.BatchNormalization()(layers.Conv2D(16, 3, strides=4, padding="same", use_bias=False)(x))
    x = layers.Activation("swish")(x)
    squeezed = layers.Reshape((1, 1, 16))(layers.GlobalAveragePooling2D()(x))
    squeezed = layers.Conv2D(4, 1, activation="swish")(squeezed)
    x = layers.Multiply()([x, layers.Conv2D(16, 1, activation="sigmoid")(squeezed)])
    return layers.Activation("swish")(layers.BatchNormalization()(layers.Conv2D(16, 1)(x)))


def _dense(module: Any, x: Any) -> Any:
    layers = module.layers
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(8, 3, strides=2)(x)))
    x = layers.MaxPooling2D(3, strides=2)(layers.ZeroPadding2D(1)(x))
    more = layers.Conv2D(8, 3, padding="same")(layers.ReLU()(layers.BatchNormalization()(x)))
    x = layers.AveragePooling2D(2)(layers.Concatenate()([x, more]))
    return layers.ReLU()(layers.BatchNormalization()(x))


def _convnext(module: Any, x: Any) -> Any:
    layers = module.layers
    x = layers.LayerNormalization(epsilon=1e-6)(layers.Conv2D(8, 4, strides=4)(x))
    y = layers.LayerNormalization(epsilon=1e-6)(layers.Conv2D(8, 7, padding="same", groups=8)(x))
    y = layers.Dense(8)(layers.Activation("gelu")(layers.Dense(16)(y)))
    return layers.LayerNormalization(epsilon=1e-6)(layers.Conv2D(8, 2, strides=2)(layers.Add()([x, y])))


_BODIES = {"residual": _residual, "mobile": _mobile, "efficient": _efficient, "dense": _dense, "convnext": _convnext}


def _head(module: Any, name: str, x: Any) -> Any:
    layers = module.layers
    if name == "flat":
        return layers.Dense(1, activation="sigmoid")(layers.Flatten()(layers.MaxPooling2D(4)(x)))
    if name == "convolution":
        return layers.Activation("sigmoid")(layers.GlobalAveragePooling2D()(layers.Conv2D(1, 1)(x)))
    x = layers.GlobalMaxPooling2D()(x) if name == "max" else layers.GlobalAveragePooling2D()(x)
    x = layers.Dropout(0.3)(x)
    match name:
        case "logit":
            return layers.Dense(1)(x)
        case "softmax":
            return layers.Dense(2, activation="softmax")(x)
        case "two_logits":
            return layers.Dense(2)(x)
        case "linear_layers":
            return layers.Dense(1, activation="sigmoid")(layers.Dense(5)(layers.BatchNormalization()(x)))
        case "hidden":
            return layers.Dense(1, activation="sigmoid")(layers.Dense(5, activation="relu")(x))
        case "hidden_softmax":
            return layers.Dense(2, activation="softmax")(layers.Dense(5, activation="relu")(x))
        case "tanh":
            return layers.Dense(1, activation="tanh")(x)
        case "two_sigmoids":
            return layers.Dense(2, activation="sigmoid")(x)
    return layers.Dense(1, activation="sigmoid")(x)


def loaded(module: Any, model: Any) -> Any:
    """A model in memory as ``keras_files.load`` gives one."""
    from glomedge_export.keras_files.identify import KerasFile
    from glomedge_export.keras_files.load import ForeignModel

    keras2 = module.__name__ == "tf_keras"
    file = KerasFile(Path("model.keras"), "keras2" if keras2 else "keras3", module.__version__, None, "0" * 64)
    return ForeignModel(
        file, f"{module.__name__} {module.__version__}", model, model.input_shape[1], model.output_shape[1]
    )
