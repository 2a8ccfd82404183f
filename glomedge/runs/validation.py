"""The local acceptance report of ``glomedge evaluate --report``: what a laboratory can file."""

from __future__ import annotations

import datetime
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from glomedge.about import __version__
from glomedge.cases import biopsy_metrics
from glomedge.cases.acceptance import Requirement
from glomedge.cases.labels import LABELS_NAME
from glomedge.errors import OutputError, UsageError
from glomedge.files.writing import check_writable, replacing, same_file
from glomedge.model.crop_digests import data_sha256
from glomedge.model.spec import Interval, ModelSpec
from glomedge.runs.evaluate import EvaluatedCrop, Evaluation
from glomedge.runs.options import EvaluateOptions
from glomedge.runs.scores import pixels_of

_MAX_PICTURES = 60
_PICTURE_PX = 320
_WORDS = {
    "percent_gs_mae": "mean error of %GS per biopsy, points",
    "grade_agreement": "biopsies of the same Remuzzi score",
    "auroc": "AUROC",
    "auprc": "AUPRC (average precision)",
    "f1": "F1",
    "brier": "Brier score",
    "ece": "expected calibration error",
}


@dataclass(frozen=True)
class Validation:
    """An evaluation held against what was required.

    Attributes:
        found: the evaluation.
        spec: of the model.
        requirements: what was asked for.
    """

    found: Evaluation
    spec: ModelSpec
    requirements: tuple[Requirement, ...]

    @cached_property
    def figures(self) -> dict[str, Interval]:
        """Figures of merit with 95% intervals over biopsies; undefined ones are missing."""
        details = self.found.details
        if not details:
            return {}
        labels = np.array([crop.label for crop in details], np.int64)
        probabilities = np.array([crop.probability for crop in details], np.float64)
        cases = np.array([crop.case for crop in details])
        per_case = biopsy_metrics.per_case(labels, probabilities >= self.found.threshold, cases)
        return {
            **biopsy_metrics.metrics_with_intervals(labels, probabilities, cases, self.found.threshold),
            **biopsy_metrics.case_metrics(per_case),
        }

    @property
    def missed(self) -> list[Requirement]:
        """Requirements that are not met."""
        return [requirement for requirement in self.requirements if not requirement.met(self.figures)]

    def as_json(self) -> dict[str, Any]:
        """The figures with intervals and the verdict, for machines."""
        return {
            "figures": {name: interval.model_dump() for name, interval in self.figures.items()},
            "requirements": [
                {"figure": one.name, "limit": one.limit, "met": one.met(self.figures)} for one in self.requirements
            ],
            "passed": not self.missed if self.requirements else None,
        }


def check_report(path: Path, options: EvaluateOptions) -> None:
    """Before any work is done for it: whether the report can be written, and over nothing that is read.

    Raises:
        UsageError: it is a folder, or the model, the labels or the split file.
        OutputError: its folder cannot be written.
    """
    read = [options.model, options.labels_file or options.data / LABELS_NAME, options.split_file]
    for other in read:
        if other is not None and same_file(path, other):
            raise UsageError(f"--report {path} is a file that this command reads. Give the report another name.")
    if path.is_dir():
        raise UsageError(f"--report {path} is a folder. Give the name of a file in it: {path / 'validation.html'}")
    check_writable(path.parent, "Give --report another place.")


def write_validation(path: Path, options: EvaluateOptions, validation: Validation) -> None:
    """Write the report as one HTML file. Raises OutputError where it cannot be written."""
    from glomedge.reports import html

    context = _context(options, validation)
    try:
        with replacing(path) as temporary, temporary.open("wb") as handle:
            for part in html.stream("validation.html", **context):
                handle.write(part)
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}. Give --report another place.") from None


def _context(options: EvaluateOptions, validation: Validation) -> dict[str, Any]:
    from glomedge.reports import validation_plots

    found = validation.found
    labels = np.array([crop.label for crop in found.details], np.int64)
    probabilities = np.array([crop.probability for crop in found.details], np.float64)
    pairs = [(case.case, case.percent_gs_labels, case.percent_gs_calls) for case in found.cases]
    mean, spread = validation_plots.limits_of_agreement(np.array([case.error for case in found.cases] or [0.0]))
    wrong = [crop for crop in found.details if (crop.probability >= found.threshold) != (crop.label == 1)]
    # The surest mistakes first.
    wrong.sort(key=lambda crop: -abs(crop.probability - found.threshold))
    shown = wrong[:_MAX_PICTURES]
    more = f", the {len(shown)} surest are shown" if len(shown) < len(wrong) else ""
    return {
        "title": "Validation of a model at one site",
        "subtitle": f"{found.answered} of {found.crops} labelled crops of {len(found.cases)} biopsies.",
        "requirements": [_required(one, validation.figures) for one in validation.requirements],
        "passed": not validation.missed,
        "figures": [(_name(name), _interval(value)) for name, value in validation.figures.items()],
        "confusion": found.confusion,
        "reliability": validation_plots.reliability(labels, probabilities),
        "bland_altman": validation_plots.bland_altman(pairs) if pairs else "",
        "agreement": f"Calls less labels (Bland and Altman): mean {mean:+.1f} points, 95% limits of agreement "
        f"{mean - spread:+.1f} to {mean + spread:+.1f}.",
        "cases": found.cases,
        "wrong_summary": f"{len(wrong)} of {found.answered} crops are called wrongly{more}.",
        "wrong": _pictures(options, validation, shown),
        "inputs": _inputs(options, validation),
        "notes": found.notes,
    }


def _name(figure: str) -> str:
    return _WORDS.get(figure, figure.replace("_", " "))


def _interval(value: Interval | None) -> str:
    if value is None:
        return "undefined"
    if value.low is None or value.high is None:
        return f"{value.value:.3f}"
    return f"{value.value:.3f} ({value.low:.3f} to {value.high:.3f})"


def _required(one: Requirement, figures: dict[str, Interval]) -> dict[str, Any]:
    return {
        "name": _name(one.name),
        "required": f"{'at most' if one.at_most else 'at least'} {one.limit:g}",
        "measured": _interval(figures.get(one.name)),
        "met": one.met(figures),
    }


def _pictures(
    options: EvaluateOptions, validation: Validation, crops: Sequence[EvaluatedCrop]
) -> Iterator[dict[str, Any]]:
    """Each crop with its activation map, or alone for a network without one."""
    import cv2

    from glomedge.reports import html
    from glomedge.reports.cell_grid import CellGrid
    from glomedge.reports.overlay import overlay, to_jpeg

    spec = validation.spec
    turn = spec.logit_at(validation.found.threshold)
    for crop in crops:
        pixels = pixels_of(os.fsencode(options.data), crop.found)
        height, width = pixels.shape[:2]
        scale = _PICTURE_PX / max(height, width)
        if scale < 1:
            size = max(1, round(width * scale)), max(1, round(height * scale))
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
        if crop.activation is not None:
            grid = CellGrid.of(spec, 1)
            pixels = overlay(pixels, crop.activation, threshold_logit=turn, legend=False, grid=grid)
        yield {
            "name": crop.found.key,
            "words": f"labelled {spec.class_names[crop.label]}, probability {crop.probability:.3f}",
            "picture": html.data_uri("jpeg", to_jpeg(np.ascontiguousarray(pixels))),
        }


def _inputs(options: EvaluateOptions, validation: Validation) -> list[tuple[str, str]]:
    found, spec = validation.found, validation.spec
    labels = options.labels_file or options.data / LABELS_NAME
    rows = sorted((crop.found.key, crop.label, crop.sha256 or "") for crop in found.details)
    listed = [
        ("model", options.model.name),
        ("model SHA-256", found.model_sha256),
        ("threshold", f"{found.threshold:g}"),
        ("labels", labels.name),
        ("labels SHA-256", found.labels_sha256),
        ("crops: names, labels, bytes, SHA-256", data_sha256(rows)),
        ("provider", found.provider),
        ("made by", f"glomedge {__version__}, {datetime.datetime.now(datetime.UTC).isoformat(timespec='seconds')}"),
    ]
    if found.split_sha256 is not None:
        listed.append((f"split {options.split}, SHA-256 of its file", found.split_sha256))
    if spec.site is not None:
        listed.append(("recalibrated for", f"{spec.site.site}, from {spec.site.parent_sha256}"))
    return listed
