"""From paths and pixels to predictions, for programs that embed an Engine; folders use ``pipeline``."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glomedge.engine.views import Infer, fault_of
from glomedge.errors import ImageError
from glomedge.model.spec import ModelSpec

Item = str | os.PathLike[str] | npt.NDArray[np.uint8]

_CHUNK = 32


@dataclass(frozen=True)
class Prediction:
    """The answer for one crop.

    Attributes:
        probability: the chance of *globally sclerotic*; None on an error.
        label: 1 globally sclerotic, 0 not, by the spec's threshold; None on an error.
        class_name: the label in words; None on an error.
        status: ``ok``, ``flagged:<a+b>`` or ``error:<code>``.
        activation: float32 ``[7, 7]`` class-activation map; None on an error.
        message: what went wrong and what to do; empty when nothing did.
    """

    probability: float | None
    label: int | None
    class_name: str | None
    status: str
    activation: npt.NDArray[np.float32] | None
    message: str = ""


def called(
    spec: ModelSpec, probability: float, activation: npt.NDArray[np.float32], flags: tuple[str, ...]
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


def predict_all(engine: Infer, spec: ModelSpec, items: Iterable[Item]) -> list[Prediction]:
    """One Prediction for each item, in order; memory does not grow with their number."""
    done: list[Prediction] = []
    chunk: list[Item] = []
    for item in items:
        chunk.append(item)
        if len(chunk) == _CHUNK:
            done += _predict_chunk(engine, spec, chunk)
            chunk = []
    return done + (_predict_chunk(engine, spec, chunk) if chunk else [])


def _predict_chunk(engine: Infer, spec: ModelSpec, items: list[Item]) -> list[Prediction]:
    from glomedge.imaging import quality
    from glomedge.imaging.enhance import enhance

    found: list[Prediction | None] = []
    pixels: list[npt.NDArray[np.uint8]] = []
    flags: list[tuple[str, ...]] = []
    for item in items:
        try:
            crop, seen = _pixels(item)
        except ImageError as error:
            found.append(failed(error.code, str(error)))
            continue
        found.append(None)
        flags.append(tuple(dict.fromkeys((*seen, *quality.assess(crop)))))
        pixels.append(enhance(crop, spec.recipe))
    if pixels:
        output = engine.infer(np.stack(pixels))
        answers = iter(
            [called(spec, float(output.probability[i]), output.activation[i], flags[i]) for i in range(len(pixels))]
        )
    else:
        answers = iter(())
    return [prediction if prediction is not None else next(answers) for prediction in found]


def _pixels(item: Item) -> tuple[npt.NDArray[np.uint8], tuple[str, ...]]:
    from glomedge.imaging import images

    if not isinstance(item, np.ndarray):
        decoded = images.decode(images.read(item))
        return decoded.pixels_hwc, decoded.flags
    if item.dtype != np.uint8 or item.ndim != 3 or item.shape[2] != 3:
        raise ImageError(
            "format", f"Pixels must be uint8 [H, W, 3] in RGB order, not {item.dtype} {list(item.shape)}. Convert them."
        )
    if min(item.shape[:2]) < images.MIN_SIDE_PX:
        raise ImageError("too_small", f"The crop is {item.shape[1]} x {item.shape[0]} pixels. Cut a larger one.")
    return np.ascontiguousarray(item), ()
