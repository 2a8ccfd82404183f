"""``--augment stain``: random colours, focus, resampling, JPEG and noise: training sees more than its own scanner.

Another laboratory's crops differ from the training crops in stain (how strong each dye is), scanner (gamma, contrast,
sharpness, noise) and storage (resampling, JPEG). Colour augmentation of this kind is what helps classifiers most on
slides of other laboratories (Tellez et al., "Quantifying the effects of data augmentation and stain color normalization
in convolutional neural networks for computational pathology", Medical Image Analysis 58, 2019, 101544).

The pixels are those the network sees, after colour enhancement: drawing anew before the enhancement would mean to
enhance each crop again in each epoch.
"""

from __future__ import annotations

from typing import Any

from glomedge_export.frameworks import tf

# Ranges of the draws, all uniform. Values are parts of full scale (0 to 1) where no other unit is said.
GAMMA_LOG = 0.35
"""One exponent a crop, e^-0.35 to e^0.35."""
CHANNEL_GAMMA_LOG = 0.15
"""And one a channel beside it: a stain stronger or weaker than another."""
SATURATION = (0.5, 1.5)
CONTRAST = (0.7, 1.4)
CHANNEL_SHIFT = 0.08
FOCUS = (-0.6, 0.9)
"""Share of the 3 x 3 mean that is mixed in: below 0 sharpens, above 0 blurs."""
RESAMPLING = (0.5, 1.0)
"""The side that a batch is shrunk to and enlarged from, as a part of its own."""
NOISE_SD = 0.02
JPEG_QUALITY = (40, 100)
_LUMA = (0.299, 0.587, 0.114)
# Draws of this file begin here: those below are the geometric ones' of the same seed (pretrain.augment).
_FIRST_DRAW = 100


def stain(pictures: Any, seed: Any) -> Any:
    """Change the colours, the focus and the storage of each crop at random; every draw is uniform in the ranges above.

    Args:
        pictures: float32 ``[N, H, W, 3]``, RGB, 0 to 255.
        seed: int32 ``[2]``; the same seed gives the same pictures.

    Returns:
        float32 ``[N, H, W, 3]``, 0 to 255.
    """
    count = tf.shape(pictures)[0]

    def drawn(number: int, low: float, high: float, shape: Any) -> Any:
        key = tf.random.experimental.stateless_fold_in(seed, _FIRST_DRAW + number)
        return tf.random.stateless_uniform(shape, key, low, high)

    one, three = [count, 1, 1, 1], [count, 1, 1, 3]
    x = tf.clip_by_value(pictures / 255.0, 0.0, 1.0)
    x = x ** tf.exp(drawn(0, -GAMMA_LOG, GAMMA_LOG, one) + drawn(1, -CHANNEL_GAMMA_LOG, CHANNEL_GAMMA_LOG, three))
    luma = tf.reduce_sum(x * tf.constant(_LUMA), axis=-1, keepdims=True)
    x = luma + (x - luma) * drawn(2, *SATURATION, one)
    mean = tf.reduce_mean(x, axis=[1, 2, 3], keepdims=True)
    x = mean + (x - mean) * drawn(3, *CONTRAST, one) + drawn(4, -CHANNEL_SHIFT, CHANNEL_SHIFT, three)
    x += drawn(5, *FOCUS, one) * (tf.nn.avg_pool2d(x, 3, 1, "SAME") - x)
    x = _resampled(x, drawn(6, *RESAMPLING, []))
    noise = tf.random.stateless_normal(tf.shape(x), tf.random.experimental.stateless_fold_in(seed, _FIRST_DRAW + 7))
    x = tf.clip_by_value(x + NOISE_SD * noise, 0.0, 1.0)
    key = tf.random.experimental.stateless_fold_in(seed, _FIRST_DRAW + 8)
    quality = tf.random.stateless_uniform([count], key, JPEG_QUALITY[0], JPEG_QUALITY[1] + 1, tf.int32)
    return 255.0 * tf.map_fn(
        lambda crop: tf.image.adjust_jpeg_quality(crop[0], crop[1]), (x, quality), fn_output_signature=tf.float32
    )


def _resampled(pictures: Any, part: Any) -> Any:
    """Shrunk to ``part`` of the side and enlarged again: one part a batch, because a batch has one size."""
    size = tf.shape(pictures)[1:3]
    smaller = tf.cast(tf.math.round(tf.cast(size, tf.float32) * part), tf.int32)
    shrunk = tf.image.resize(pictures, smaller, "bilinear", antialias=True)
    return tf.ensure_shape(tf.image.resize(shrunk, size, "bilinear"), pictures.shape)
