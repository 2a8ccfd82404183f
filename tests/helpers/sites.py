"""Drawn sites: biopsies of glomeruli whose logits a model from elsewhere has shifted and stretched."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.cases.recalibration import Labelled
from glomedge.cases.sampling import choose
from glomedge.model.site_calibration import SiteCalibration
from glomedge.model.spec import SplitCounts, TrainingProvenance

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


def write_site(
    folder: Path, count: int = 60, *, cases: int = 6, seed: int = 0, turn: float = 1.0, noise: float = 0.6
) -> dict[str, int]:
    """A folder of crops of one colour each for ``builders.build_tiny_model(recipe="plain")``, and their labels.

    The model's logit of a crop follows from its colour: 0.05 times red less 127.5, plus its ``bias``, with ``bias``
    -4 from -8 to 0. A crop is globally sclerotic where red, with a little noise, says more than ``turn``.

    Args:
        folder: where to.
        count: of crops, spread over the biopsies.
        cases: how many biopsies.
        seed: of the drawing.
        turn: logit without bias at which the truth turns; a model with ``bias=-turn`` is right.
        noise: standard deviation on the logit.

    Returns:
        Name -> label, 1 globally sclerotic; also written to ``public.csv``.
    """
    import cv2

    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    labels = {}
    for index in range(count):
        red = int(rng.integers(48, 208))
        colour = np.array([red, 127, 127], np.uint8)
        name = f"S-10{index % cases:02d}_PAS_1of1_{index:024x}.png"
        pixels = np.tile(colour[::-1], (48, 48, 1))
        pixels[0, 0] = index % 256, index // 256, 0  # no two files have the same bytes
        cv2.imwrite(str(folder / name), pixels)
        labels[name] = int(0.05 * (red - 127.5) + rng.normal(0.0, noise) > turn)
    write_labels(folder / "public.csv", labels)
    return labels


def write_labels(path: Path, labels: dict[str, int]) -> Path:
    """A table of names and labels."""
    path.write_text("name,ground truth\n" + "".join(f"{name},{label}\n" for name, label in labels.items()), "utf-8")
    return path


def site_calibration(slope: float = 0.625, offset: float = 1.75, **changed: Any) -> SiteCalibration:
    """What a spec says of a site, with everything filled in; slope and offset are exact in float32."""
    fields: dict[str, Any] = {
        "site": "North Lab", "created_utc": "2026-01-02T00:00:00+00:00", "parent_sha256": "e" * 64,
        "readers": ("Ada",), "labels_sha256": "f" * 64, "crops": 30, "positive": 11, "cases": 9,
        "effective_crops": 24.5, "slope": slope, "offset": offset, "covariance": ((0.04, 0.01), (0.01, 0.25)),
        "prior_log_slope_sd": 0.5, "prior_offset_sd": 2.5, "threshold_rule": "0.5",
    }  # fmt: skip
    return SiteCalibration.model_validate(fields | changed)


def training_provenance(**changed: Any) -> TrainingProvenance:
    """Where a model comes from: 60 crops of six biopsies of somebody else."""
    fields: dict[str, Any] = {
        "data_sha256": "c" * 64, "data_name": "theirs", "split_method": "case", "seed": 1,
        "splits": {"train": SplitCounts(crops=60, positive=20, cases=6)}, "weights": "imagenet", "optimizer": "sgd",
        "learning_rate": 0.001, "batch_size": 8, "epochs": 1, "best_epoch": 1, "metrics": {}, "package_versions": {},
    }  # fmt: skip
    return TrainingProvenance.model_validate(fields | changed)
