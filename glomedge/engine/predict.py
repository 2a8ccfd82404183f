"""From paths and pixels to predictions, for programs that embed an Engine; folders use ``pipeline``."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.engine.items import is_one_crop, pixels_of
from glomedge.engine.views import Infer, fault_of
from glomedge.errors import ImageError
from glomedge.model.spec import ModelSpec

_CHUNK = 32


@dataclass(frozen=True)
class Prediction:
    """The answer for one crop.

    Two are equal where all but the map is: it decides nothing that the probability does not.

    Attributes:
        probability: the chance of *globally sclerotic*; None on an error.
        label: 1 globally sclerotic, 0 not, by the spec's threshold; None on an error.
        class_name: the label in words; None on an error.
        status: ``ok``, ``flagged:<a+b>`` or ``error:<code>``.
        activation: float32 ``[cells, cells]`` class-activation map, 7 x 7 for ResNet50V2 at 224 px; None on an error,
            and of a model without an exact map (``spec.map``).
        message: what went wrong and what to do; empty when nothing did.
    """

    probability: float | None
    label: int | None
    class_name: str | None
    status: str
    activation: npt.NDArray[np.float32] | None = field(compare=False)
    message: str = ""


def called(
    spec: ModelSpec, probability: float, activation: npt.NDArray[np.float32] | None, flags: tuple[str, ...]
) -> Prediction:
    """Turn one probability into a Prediction: outside 0..1 is an error, the threshold decides the label."""
    fault = fault_of(probability, activation)
    if fault is not None:
        return failed("nonfinite", fault)
    label = int(probability >= spec.threshold)
    status = f"flagged:{'+'.join(flags)}" if flags else "ok"
    return Prediction(probability, label, spec.class_names[label], status, activation)


def failed(code: str, message: str) -> Prediction:
    """A Prediction without an answer."""
    return Prediction(None, None, None, f"error:{code}", None, message)


def predict_all(engine: Infer, spec: ModelSpec, items: Any) -> list[Prediction]:
    """One Prediction for each item, in order; memory does not grow with their number.

    Args:
        engine: runs the model.
        spec: of that model.
        items: several of ``items.Item``, or one, which is answered by a list of one.
    """
    done: list[Prediction] = []
    chunk: list[Any] = []
    several: Iterable[Any] = [items] if is_one_crop(items) else items
    for item in several:
        chunk.append(item)
        if len(chunk) == _CHUNK:
            done += _predict_chunk(engine, spec, chunk)
            chunk = []
    return done + (_predict_chunk(engine, spec, chunk) if chunk else [])


def _predict_chunk(engine: Infer, spec: ModelSpec, items: list[Any]) -> list[Prediction]:
    from glomedge.imaging import quality
    from glomedge.imaging.enhance import enhance

    found: list[Prediction | None] = []
    pixels: list[npt.NDArray[np.uint8]] = []
    flags: list[tuple[str, ...]] = []
    for item in items:
        try:
            crop, seen = pixels_of(item)
        except ImageError as error:
            found.append(failed(error.code, str(error)))
            continue
        found.append(None)
        flags.append(tuple(dict.fromkeys((*seen, *quality.assess(crop)))))
        pixels.append(enhance(crop, spec.recipe))
    if pixels:
        output = engine.infer(np.stack(pixels))
        maps = output.activation if output.activation is not None else [None] * len(pixels)
        answers = iter([called(spec, float(output.probability[i]), maps[i], flags[i]) for i in range(len(pixels))])
    else:
        answers = iter(())
    return [prediction if prediction is not None else next(answers) for prediction in found]
