"""Drawn sites: biopsies of glomeruli whose logits a model from elsewhere has shifted and stretched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glomedge.cases.recalibration import Labelled, Recalibrated
from glomedge.cases.sampling import choose

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class DrawnSite:
    """Attributes:
    logits: as the model gives them there, ``[N]``.
    labels: ``[N]``, 0 or 1.
    cases: ``[N]``.
    prevalence: of global sclerosis in the kidney each biopsy was taken from, by biopsy.
    """

    logits: Floats
    labels: npt.NDArray[np.int64]
    cases: tuple[str, ...]
    prevalence: dict[str, float]

    def labelled(self, count: int, seed: int) -> Labelled:
        """The crops that ``glomedge label`` would pick, labelled with the truth."""
        chosen = choose(self.logits.tolist(), self.cases, count, seed)
        places = np.array([one.index for one in chosen])
        weights = np.array([one.weight for one in chosen])
        cases = tuple(self.cases[place] for place in places)
        return Labelled(self.logits[places], self.labels[places], weights, cases)


def draw_site(seed: int, *, biopsies: int = 12, offset_sd: float = 2.0) -> DrawnSite:
    """A site: its own slope and offset, biopsies of 10 to 100 glomeruli, and a shift of each biopsy of its own.

    The class means are 5 to 8 apart, with standard deviations of 1.6 to 2.2: AUROC of about 0.95 to 0.999.
    """
    rng = np.random.default_rng(seed)
    apart, slope, offset = rng.uniform(5.0, 8.0), np.exp(rng.normal(0.0, 0.35)), rng.normal(0.0, offset_sd)
    logits: list[Floats] = []
    labels: list[npt.NDArray[np.int64]] = []
    cases: list[str] = []
    prevalence = {}
    for number in range(biopsies):
        case, size = f"b{number:02d}", int(rng.integers(10, 101))
        prevalence[case] = float(rng.beta(0.8, 2.4))
        truth = (rng.random(size) < prevalence[case]).astype(np.int64)
        middle = np.where(truth == 1, apart / 2, -apart / 2) + rng.normal(0.0, 0.5)
        logits.append((rng.normal(middle, rng.uniform(1.6, 2.2)) - offset) / slope)
        labels.append(truth)
        cases += [case] * size
    return DrawnSite(np.concatenate(logits), np.concatenate(labels), tuple(cases), prevalence)


def accuracies(site: DrawnSite, found: Recalibrated) -> tuple[float, float]:
    """Shares of all crops of a site that are called right: by the model as it was, at 0.5, and recalibrated."""
    truth = site.labels == 1
    after = found.line.probabilities(site.logits) >= found.threshold
    return float(((site.logits >= 0) == truth).mean()), float((after == truth).mean())
