"""A model that glomedge trained: loaded by its own parts, with the training record beside it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from glomedge.errors import ModelError, UsageError
from glomedge.model.spec import Recipe
from glomedge_export.export_source.source import Said, Source, fixed_threshold
from glomedge_export.graph.convert import convert
from glomedge_export.proof.keras import keras_answers
from glomedge_export.proof.reference import Reference
from glomedge_export.training_record import TrainingRecord, read_record, record_path


def load_own(model: Path, said: Said) -> Source:
    """Read a model of ``glomedge train`` and the record beside it.

    Args:
        model: the ``.keras`` file.
        said: recipe and threshold, only for a model without a record.

    Raises:
        ModelError: no model, or no record and no recipe given.
        UsageError: something was given for a model that says it itself.
    """
    from glomedge_export.network.network import load_model

    beside = said.about_a_foreign_model()
    if beside:
        raise UsageError(
            f"{', '.join(beside)} is for models that glomedge did not train; this one says by itself what it needs. "
            "Omit it."
        )
    if not record_path(model).is_file():
        if said.recipe is None:
            raise ModelError(
                f"There is no training record at {record_path(model)}: how the crops were enhanced is unknown. "
                "Copy it from where the model was trained, or give --recipe seed, published or plain if you know it."
            )
        return _source(load_model(model), None, Recipe.named(said.recipe), fixed_threshold(said), 1.0)
    record = read_record(model)
    if (said.recipe is not None and Recipe.named(said.recipe) != record.recipe) or said.threshold is not None:
        raise UsageError(
            "Recipe and threshold of this model are in its training record and are not changed at export. "
            "Omit --recipe and --threshold; glomedge infer has its own --threshold."
        )
    return _source(load_model(model), record, record.recipe, record.threshold, record.temperature)


def _source(
    keras_model: Any, record: TrainingRecord | None, recipe: Recipe, threshold: float, temperature: float
) -> Source:
    from glomedge_export.frameworks import keras

    weights = weights_sha256(keras_model)
    return Source(
        reference=Reference(
            f"Keras {keras.__version__}",
            lambda images, heat, progress: keras_answers(keras_model, images, heat, progress=progress),
        ),
        convert=lambda: convert(keras_model, temperature),
        weights_sha256=lambda _: weights,
        key=f"{weights} {temperature!r}",
        recipe=recipe,
        threshold=threshold,
        temperature=temperature,
        record=record,
        operating_point=record.operating_point if record is not None else None,
    )


def weights_sha256(keras_model: Any) -> str:
    """SHA-256 of backbone and dense weights, shapes and bytes in layer order: the same for every precision."""
    from glomedge_export.network.network import inference_parts

    parts = inference_parts(keras_model)
    digest = hashlib.sha256()
    for value in [*parts.backbone.get_weights(), parts.kernel, parts.bias]:
        digest.update(str(value.shape).encode())
        digest.update(np.ascontiguousarray(value, np.float32).tobytes())
    return digest.hexdigest()
