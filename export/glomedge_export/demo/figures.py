"""The figures of the demo, from the tables that its commands wrote and the labels that were drawn."""

from __future__ import annotations

import csv
from collections import defaultdict
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glomedge.cases.labels import read_labels
from glomedge.cases.metrics import auroc
from glomedge.errors import GlomedgeError
from glomedge.files.names import restore


@dataclass(frozen=True)
class Biopsy:
    """One biopsy: what was drawn, and what ``cases.csv`` says. Percentages from 0 to 100.

    Attributes:
        case: its name.
        crops: drawn.
        true_percent: of them drawn globally sclerotic.
        percent, low, high: as called, with its Wilson interval.
        corrected, corrected_low, corrected_high: corrected for the model's errors; None where the site is not the
            model's.
    """

    case: str
    crops: int
    true_percent: float
    percent: float
    low: float
    high: float
    corrected: float | None
    corrected_low: float | None
    corrected_high: float | None

    @property
    def held(self) -> bool:
        """Whether the true percentage lies in the interval for it: the corrected one, where there is one.

        The other interval knows nothing of the model's errors.
        """
        if self.corrected_low is None or self.corrected_high is None:
            return self.low <= self.true_percent <= self.high
        # Two decimals in cases.csv.
        return self.corrected_low - 0.005 <= self.true_percent <= self.corrected_high + 0.005


@dataclass(frozen=True)
class Figures:
    """Calls held against what was drawn.

    Attributes:
        crops: compared.
        auroc: area under the ROC curve of the probabilities.
        true_positive, false_negative, true_negative, false_positive: of the calls.
        review: crops with a probability in the review band.
        biopsies: sorted by name.
    """

    crops: int
    auroc: float
    true_positive: int
    false_negative: int
    true_negative: int
    false_positive: int
    review: int
    biopsies: tuple[Biopsy, ...]

    @property
    def sensitivity(self) -> float:
        """Of the globally sclerotic crops, the share called so."""
        return self.true_positive / (self.true_positive + self.false_negative)

    @property
    def specificity(self) -> float:
        """Of the others, the share called so."""
        return self.true_negative / (self.true_negative + self.false_positive)

    @property
    def review_share(self) -> float:
        """Of all crops."""
        return self.review / self.crops

    @property
    def held(self) -> int:
        """Biopsies whose true percentage lies in the interval."""
        return sum(biopsy.held for biopsy in self.biopsies)

    @property
    def percent_error(self) -> float:
        """Mean distance of the called from the true percentage, in points."""
        return float(np.mean([abs(biopsy.percent - biopsy.true_percent) for biopsy in self.biopsies]))

    def as_json(self) -> dict[str, Any]:
        """For ``demo.json`` and ``--json``."""
        derived = {
            "sensitivity": self.sensitivity,
            "specificity": self.specificity,
            "review_share": self.review_share,
            "percent_gs_mean_error": self.percent_error,
            "biopsies_held": self.held,
        }
        biopsies = [asdict(biopsy) | {"held": biopsy.held} for biopsy in self.biopsies]
        return asdict(self) | derived | {"biopsies": biopsies}


def figures_of(answers: Path, labels: Path) -> Figures:
    """Compare ``predictions.csv`` and ``cases.csv`` in ``answers`` with the ``public.csv`` of the drawn set.

    Raises:
        DatasetError: the labels cannot be read.
        GlomedgeError: a labelled crop has no probability, or a class is missing.
        OSError: a table cannot be read.
    """
    truth = read_labels(labels)
    rows = {Path(row["path"]).name: row for row in _rows(answers / "predictions.csv")}
    missing = sorted(name for name in truth if not rows.get(name, {}).get("probability"))
    if missing:
        raise GlomedgeError(
            f"{answers / 'predictions.csv'} has no probability for {len(missing)} labelled crops, {missing[0]} among "
            "them. Run the demo again with --fresh."
        )
    names = sorted(truth)
    label = np.array([truth[name] for name in names], np.int64)
    area = auroc(label, np.array([float(rows[name]["probability"]) for name in names]))
    if area is None:
        raise GlomedgeError(f"{labels} has one class only. Run the demo again with --fresh.")
    called = np.array([int(rows[name]["label"]) for name in names])
    of_case: dict[str, list[int]] = defaultdict(list)
    for name in names:
        of_case[restore(rows[name]["case"])].append(truth[name])
    return Figures(
        crops=len(names),
        auroc=area,
        true_positive=int(np.sum((label == 1) & (called == 1))),
        false_negative=int(np.sum((label == 1) & (called == 0))),
        true_negative=int(np.sum((label == 0) & (called == 0))),
        false_positive=int(np.sum((label == 0) & (called == 1))),
        review=sum(rows[name]["review"] == "1" for name in names),
        biopsies=tuple(_biopsy(row, of_case) for row in _rows(answers / "cases.csv")),
    )


def _biopsy(row: dict[str, str], of_case: dict[str, list[int]]) -> Biopsy:
    case = restore(row["case"])
    corrected = [
        float(row[name]) if row[name] else None for name in ("corrected_percent_gs", "corrected_low", "corrected_high")
    ]
    return Biopsy(
        case,
        len(of_case[case]),
        100 * float(np.mean(of_case[case])),
        float(row["percent_gs"]),
        float(row["interval_low"]),
        float(row["interval_high"]),
        *corrected,
    )


def _rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
