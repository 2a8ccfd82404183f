"""``training-report.html``: one self-contained file that shows how far the figures can be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np
import numpy.typing as npt
from markupsafe import Markup

from glomedge.imaging import images
from glomedge.model.spec import Interval
from glomedge.reports import html
from glomedge.reports.overlay import logit_threshold, overlay, to_png
from glomedge_export.training import plots

if TYPE_CHECKING:
    from glomedge_export.training.result import SideResult, TrainResult

WRONG_SHOWN = 12
# Below, percentile intervals over biopsies are known to be too narrow, and the report says so.
FEW_CASES = 10
_PICTURE_PX = 260

_Row = tuple[object, ...]

_METRIC_TITLES = {
    "auroc": "AUROC",
    "auprc": "AUPRC (average precision)",
    "accuracy": "Accuracy",
    "sensitivity": "Sensitivity",
    "specificity": "Specificity",
    "f1": "F1",
    "balanced_accuracy": "Balanced accuracy",
    "brier": "Brier score (0 is best)",
    "ece": "Expected calibration error (0 is best)",
    "percent_gs_mae": "Mean absolute error of %GS per biopsy [percentage points]",
    "grade_agreement": "Biopsies with the right Remuzzi glomerular grade",
}


def render(result: TrainResult) -> str:
    """The report as HTML.

    Raises:
        ImageError: a crop to be shown has become unreadable.
    """
    record, test = result.record, result.test
    called = test.probabilities >= record.threshold
    wrong = np.flatnonzero(called != (test.labels == 1))
    return html.render(
        "training_report.html",
        title=f"Training report: {record.training.data_name}",
        warnings=result.split.warnings,
        settings=_settings(result),
        counts=_counts(result),
        best_epoch=result.best_epoch,
        epochs=result.record.training.epochs,
        curves=html.data_uri("png", plots.curves_png(result.history, result.best_epoch)),
        test_cases=len(test.per_case),
        few_cases=FEW_CASES,
        metrics=_metrics(test, result.validation),
        confusion=_confusion(test, called),
        ranking=html.data_uri("png", plots.ranking_png(test.labels, test.probabilities, record.threshold)),
        temperature=record.temperature,
        reliability=html.data_uri("png", plots.reliability_png(test.labels, test.probabilities)),
        cases_plot=html.data_uri("png", plots.cases_png(test.per_case)),
        cases=_cases(test),
        wrong=_wrong(result, wrong),
        wrong_total=len(wrong),
        test_total=len(test.labels),
    )


def _settings(result: TrainResult) -> list[_Row]:
    training, record = result.record.training, result.record
    recipe = record.recipe
    return [
        ("Starting weights", training.weights),
        ("Colour recipe", f"{recipe.name} (saturation x{recipe.saturation_factor:g}, hue {recipe.hue_degrees:+g}°)"),
        ("Input scaling", record.input_scaling),
        ("Optimizer", f"{training.optimizer}, learning rate {training.learning_rate:g}" if training.epochs else "-"),
        ("Batch", training.batch_size),
        ("Class weight", training.class_weight),
        ("Training steps computed in", training.compute_dtype),
        ("Epochs of all layers before that", _pretraining(training.pretrain_epochs, training.pretrain_window_px)),
        ("Augmentation", training.augment),
        ("Threshold", f"{record.threshold:.4f} (rule: {training.threshold_rule})"),
        ("Temperature", f"{record.temperature:.4f}"),
        ("Split", f"by {training.split_method}, seed {training.seed}"),
        ("Data SHA-256", training.data_sha256),
        ("Model SHA-256", record.model_sha256),
        ("Versions", ", ".join(f"{name} {version}" for name, version in training.package_versions.items())),
        ("Commit", training.git_commit or "not from a checkout"),
    ]


def _pretraining(epochs: int, window_px: int | None) -> str:
    return str(epochs) if window_px is None else f"{epochs}, on windows of {window_px} pixels"


def _counts(result: TrainResult) -> list[_Row]:
    return [
        (side, c.crops, c.positive, c.crops - c.positive, f"{100 * c.positive / c.crops:.1f}%", c.cases)
        for side, c in result.record.training.splits.items()
    ]


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "undefined"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _metrics(test: SideResult, validation: SideResult) -> list[_Row]:
    return [
        (title, _interval(test.metrics.get(name)), _interval(validation.metrics.get(name)))
        for name, title in _METRIC_TITLES.items()
    ]


def _confusion(side: SideResult, called: npt.NDArray[np.bool_]) -> list[_Row]:
    def count(label: int, answer: bool) -> int:
        return int(((side.labels == label) & (called == answer)).sum())

    return [
        ("Globally sclerotic", count(1, True), count(1, False)),
        ("Not globally sclerotic", count(0, True), count(0, False)),
    ]


def _cases(side: SideResult) -> list[_Row]:
    return [
        (f.case, f.crops, f"{f.true_percent_gs:.1f}", f"{f.predicted_percent_gs:.1f}", f.true_grade, f.predicted_grade)
        for f in side.per_case
    ]


class _Wrong(NamedTuple):
    """A crop called otherwise than labelled."""

    name: str
    case: str
    label: str
    probability: str
    picture: Markup
    heatmap: Markup


def _wrong(result: TrainResult, wrong: npt.NDArray[np.int64]) -> list[_Wrong]:
    """The wrong answers furthest from the threshold, as crops next to their heatmaps, all on one scale.

    Args:
        wrong: places among the test crops, int64 ``[n]``.
    """
    if not len(wrong):
        return []
    test, record = result.test, result.record
    turn = logit_threshold(record.threshold, record.temperature)
    shown = wrong[np.argsort(-np.abs(test.logits[wrong] - turn), kind="stable")][:WRONG_SHOWN]
    maps = test.activations[shown]
    limits = float(maps.min()), float(maps.max())
    crops = []
    for position, activation in zip(shown, maps, strict=True):
        item = result.dataset.items[int(test.indices[position])]
        pixels = _shrunk(images.decode(images.read(item.path)).pixels_hwc)
        heat = overlay(pixels, activation, limits=limits, threshold_logit=turn)
        crops.append(
            _Wrong(
                item.name,
                item.case,
                "globally sclerotic" if item.label else "not globally sclerotic",
                _probability(float(test.probabilities[position])),
                html.data_uri("png", to_png(pixels)),
                html.data_uri("png", to_png(heat)),
            )
        )
    return crops


def _probability(value: float) -> str:
    """Three decimals, but never 0 or 1 for a value that is neither."""
    if 0.0 < value < 0.0005:
        return "below 0.001"
    return "above 0.999" if 0.9995 < value < 1.0 else f"{value:.3f}"


def _shrunk(pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    height, width, _ = pixels.shape
    scale = _PICTURE_PX / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    resized = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    return np.asarray(resized, np.uint8)
