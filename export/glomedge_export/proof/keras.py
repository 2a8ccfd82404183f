"""Keras' own answers on the crops that an export is checked on."""

from __future__ import annotations

from typing import Any

import numpy as np

from glomedge_export.graph.run import Answers, Images
from glomedge_export.progress import Progress, silent


def keras_answers(
    model: Any, images_nhwc: Images, temperature: float = 1.0, *, batch: int = 32, progress: Progress = silent
) -> Answers:
    """Keras' own ``predict``: probability from the model itself, logit from its pooled features.

    With a temperature other than 1 the reference probability is sigmoid(logit / temperature).
    """
    from glomedge_export.frameworks import keras
    from glomedge_export.network.network import inference_parts

    parts = inference_parts(model)
    heads = [layer for layer in model.layers if isinstance(layer, keras.layers.Dense)]
    # With the pooled features as a second output, one pass over the crops gives both.
    both = keras.Model(model.inputs, [model.output, heads[0].input])
    probabilities, pooled = [], []
    for start in range(0, len(images_nhwc), batch):
        p, features = both.predict(np.asarray(images_nhwc[start : start + batch], np.float32), verbose=0)
        probabilities.append(p.reshape(-1))
        pooled.append(features)
        progress("Keras", min(start + batch, len(images_nhwc)), len(images_nhwc))
    logit = np.concatenate(pooled).astype(np.float64) @ parts.kernel.astype(np.float64)[:, 0] + float(parts.bias[0])
    probability = np.concatenate(probabilities).astype(np.float32)
    if temperature != 1.0:
        probability = (1.0 / (1.0 + np.exp(-logit / temperature))).astype(np.float32)
    return Answers(probability, None, logit)
