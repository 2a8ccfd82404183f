"""What a training run gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.cases import biopsy_metrics as evaluation
from glomedge.model.spec import Interval
from glomedge_export.data.dataset import Dataset
from glomedge_export.data.split import Split
from glomedge_export.training.checkpoint import EpochRow
from glomedge_export.training.options import TrainOptions
from glomedge_export.training_record import TrainingRecord


@dataclass(frozen=True)
class SideResult:
    """The model's answers on one side of the split.

    Attributes:
        indices: positions in ``dataset.items``.
        labels: int64 ``[n]``.
        cases: ``[n]``.
        logits: float64 ``[n]``, before temperature.
        activations: float32 ``[n, 7, 7]``.
        probabilities: float64 ``[n]``, after temperature.
        metrics: figures with intervals, over biopsies.
        per_case: figures per biopsy.
    """

    indices: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    cases: npt.NDArray[np.str_]
    logits: npt.NDArray[np.float64]
    activations: npt.NDArray[np.float32]
    probabilities: npt.NDArray[np.float64]
    metrics: dict[str, Interval]
    per_case: list[evaluation.CaseFigures]


@dataclass(frozen=True)
class TrainResult:
    """Everything a report needs.

    Attributes:
        summary: what ``metrics.json`` holds.
    """

    options: TrainOptions
    dataset: Dataset
    split: Split
    history: tuple[EpochRow, ...]
    best_epoch: int
    validation: SideResult
    test: SideResult
    record: TrainingRecord
    summary: dict[str, Any]
