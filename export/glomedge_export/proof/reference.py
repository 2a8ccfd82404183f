"""Who says what the right answer is: the framework that made a model, on the crops that its export is checked on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from glomedge.model.scaling import Scaling
from glomedge_export.graph.run import Answers, Floats, Images
from glomedge_export.progress import Progress

BATCH = 32


@dataclass(frozen=True)
class Reference:
    """A framework that answers for its model.

    Attributes:
        name: with its version, for the spec.
        answer: enhanced crops uint8 ``[N, side, side, 3]``, temperature and progress -> probability ``[N]``.
    """

    name: str
    answer: Callable[[Images, float, Progress], Answers]


class Predicts(Protocol):
    """A model that answers in its own framework (``keras_files.load.ForeignModel``)."""

    def predict(self, images: npt.NDArray[np.float32]) -> Floats:
        """float32 ``[N, side, side, 3]`` RGB 0..255 (scaled, where the model does not scale) -> ``[N, outputs]``."""


@dataclass(frozen=True)
class Meaning:
    """How a foreign model's numbers are read.

    Attributes:
        scaling: applied to the pixels before the model, which does not scale them itself; None where it does.
        logits: its output is a logit.
        positive: which output is *globally sclerotic*.
    """

    scaling: Scaling | None
    logits: bool
    positive: int


def foreign_answers(model: Predicts, meaning: Meaning, images_nhwc: Images, progress: Progress) -> Answers:
    """A foreign model's own answers, probability before any temperature.

    The logit is measured as well where the model gives it; from a probability it would be known to few digits only.
    """
    parts = []
    for start in range(0, len(images_nhwc), BATCH):
        pixels = np.asarray(images_nhwc[start : start + BATCH], np.float32)
        parts.append(model.predict(meaning.scaling.applied(pixels) if meaning.scaling is not None else pixels))
        progress("the model's own framework", min(start + BATCH, len(images_nhwc)), len(images_nhwc))
    said = np.concatenate(parts).astype(np.float64).reshape(len(images_nhwc), -1)
    if not meaning.logits:
        return Answers(said[:, meaning.positive].astype(np.float32))
    logit = said[:, meaning.positive] - (said[:, 1 - meaning.positive] if said.shape[1] == 2 else 0.0)
    return Answers((0.5 * (1.0 + np.tanh(0.5 * logit))).astype(np.float32), None, logit)
