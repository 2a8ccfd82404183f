"""Keras as a user would run it: ``model.predict``, a ``tf.function``, and the published evaluation script's loop."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.ways import Context, Run
from glomedge.imaging.enhance import enhance
from glomedge.model.file import read_model_file
from glomedge.model.spec import Recipe

BATCH_SIZE = 32


def _model(context: Context) -> tuple[Any, Recipe]:
    from glomedge_export.network.network import load_model

    return load_model(context.artifacts / "model.keras"), read_model_file(context.artifacts / "model.onnx").spec.recipe


def _enhanced(context: Context, recipe: Recipe) -> npt.NDArray[np.uint8]:
    """All crops of the folder, decoded by OpenCV and enhanced one after another."""
    made = [enhance(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), recipe) for path in context.files()]
    return np.stack(made)


def predict(context: Context) -> Run:
    """``model.predict`` in batches of 32."""
    model, recipe = _model(context)
    images = context.images()

    def run() -> list[float]:
        batch = images if context.mode == "engine" else _enhanced(context, recipe)
        answers = model.predict(batch, batch_size=BATCH_SIZE, verbose=0)
        return [float(p) for p in np.ravel(answers)]

    return run


def function(context: Context) -> Run:
    """The model in a ``tf.function``, in batches of 32: Keras without predict's machinery."""
    from glomedge_export.frameworks import tf

    model, recipe = _model(context)
    images = context.images()
    call = tf.function(
        lambda batch: model(batch, training=False), input_signature=[tf.TensorSpec((None, 224, 224, 3), tf.uint8)]
    )

    def run() -> list[float]:
        crops = images if context.mode == "engine" else _enhanced(context, recipe)
        parts = [call(crops[i : i + BATCH_SIZE]).numpy() for i in range(0, len(crops), BATCH_SIZE)]
        return [float(p) for p in np.ravel(np.concatenate(parts))]

    return run


def published_script(context: Context) -> Run:
    """The published notebook's evaluation: every enhanced crop to disk, read back, ``model.predict`` one by one."""
    model, recipe = _model(context)
    images = context.images()

    def from_memory() -> list[float]:
        return [float(model.predict(image[np.newaxis], verbose=0)[0, 0]) for image in images]

    def from_files() -> list[float]:
        written = []
        for index, path in enumerate(context.files()):
            crop = enhance(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), recipe)
            target = context.scratch / f"{index}.png"
            cv2.imwrite(str(target), cv2.cvtColor(crop, cv2.COLOR_RGB2BGR))
            written.append(target)
        answers = []
        for target in written:
            image = cv2.cvtColor(cv2.imread(str(target)), cv2.COLOR_BGR2RGB)
            answers.append(float(model.predict(image[np.newaxis], verbose=0)[0, 0]))
        return answers

    return from_memory if context.mode == "engine" else from_files
