"""Folders of crops of a site, and what a model file says of one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.drawn_sites import DrawnSite
from glomedge.model.site_calibration import SiteCalibration
from glomedge.model.spec import SplitCounts, TrainingProvenance


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


def write_drawn(folder: Path, site: DrawnSite) -> list[str]:
    """The crops of a drawn site as pictures of one colour, to which ``build_tiny_model(bias=0)`` gives these logits.

    Returns:
        Their names, in the order of the site. Logits beyond 15 in either direction stop there.
    """
    import cv2

    folder.mkdir(parents=True, exist_ok=True)
    names = []
    for index, (logit, case) in enumerate(zip(site.logits.tolist(), site.cases, strict=True)):
        # 0.05 red - 0.04 green + 0.03 blue, each less 127.5: all three move together, 0.12 a step.
        step = min(max(logit / 0.12, -127.0), 127.0)
        colour = np.round([127.5 + step, 127.5 - step, 127.5 + step]).astype(np.uint8)  # blue, green, red
        pixels = np.tile(colour, (48, 48, 1))
        pixels[0, 0] = index % 256, index // 256, 0  # no two files have the same bytes
        names.append(f"S-10{int(case.removeprefix('b')):02d}_PAS_1of1_{index:024x}.png")
        cv2.imwrite(str(folder / names[-1]), pixels)
    return names


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
