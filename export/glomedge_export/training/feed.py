"""The crops of a training run, and batches of them for one epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge_export.frameworks import tf

Images = npt.NDArray[np.uint8]
"""uint8 ``[N, 224, 224, 3]``, RGB, enhanced."""


@dataclass(frozen=True)
class TrainingData:
    """What a network is fitted to.

    Attributes:
        crops: enhanced, uint8 ``[N, 224, 224, 3]``, RGB; may be a memory map.
        labels: int64 ``[N]``, 0 or 1.
        train: indices of the training crops, int64 ``[n]``.
        validation: indices of the validation crops, int64 ``[m]``.
    """

    crops: Images
    labels: npt.NDArray[np.int64]
    train: npt.NDArray[np.int64]
    validation: npt.NDArray[np.int64]


def batches(
    crops: Images,
    indices: npt.NDArray[np.int64],
    batch_size: int,
    targets: npt.NDArray[np.float32],
) -> Any:
    """A tf.data pipeline of ``(uint8 [n, 224, 224, 3], float32 [n, k])`` in the order of ``indices``, read ahead.

    Args:
        crops: memory map of all enhanced crops.
        indices: which ones, in which order.
        batch_size: the last batch may be smaller.
        targets: float32 ``[len(indices), k]`` carried along.
    """

    def gather(positions: npt.NDArray[np.int64]) -> Images:
        return np.asarray(crops[positions])

    def load(positions: Any, carried: Any) -> tuple[Any, Any]:
        images = tf.numpy_function(gather, [positions], tf.uint8, stateful=False)
        return tf.ensure_shape(images, (None, *crops.shape[1:])), carried

    data = tf.data.Dataset.from_tensor_slices((indices, targets)).batch(batch_size)
    return data.map(load, num_parallel_calls=1, deterministic=True).prefetch(2)
