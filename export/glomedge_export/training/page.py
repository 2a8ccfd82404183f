"""``training-report.html``: one self-contained file that shows how far the figures can be trusted."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.imaging import images
from glomedge.model.spec import Interval
from glomedge.reports.overlay import logit_threshold, overlay, to_png
from glomedge_export.training import plots

if TYPE_CHECKING:
    from glomedge_export.training.result import SideResult, TrainResult

WRONG_SHOWN = 12
# Below, percentile intervals over biopsies are known to be too narrow, and the report says so.
FEW_CASES = 10
_PICTURE_PX = 260

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

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;color:#1c1c1c;max-width:1060px;margin:2em auto;padding:0 1em}
h1{font-size:1.6em;margin-bottom:.1em}h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #ddd}
.notice{background:#fff4e5;border-left:4px solid #d55e00;padding:.5em 1em;font-weight:600}
.warning{background:#fdecea;border-left:4px solid #b00020;padding:.5em 1em}
table{border-collapse:collapse;margin:.8em 0}td,th{padding:.25em .9em;border-bottom:1px solid #e4e4e4;text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}img{max-width:100%}
.wrong{display:grid;grid-template-columns:repeat(auto-fill,minmax(490px,1fr));gap:1em}
.wrong figure{margin:0;border:1px solid #e4e4e4;padding:.6em}.wrong img{height:220px}
figcaption{font-size:.85em;color:#444;overflow-wrap:anywhere}
"""


def render(result: TrainResult) -> str:
    """The report as HTML.

    Raises:
        ImageError: a crop to be shown has become unreadable.
    """
    record, test = result.record, result.test
    threshold = record.threshold
    called = test.probabilities >= threshold
    parts = [
        f"<h1>Training report: {_text(record.training.data_name)}</h1>",
        f'<p class="notice">{_text(RESEARCH_USE_NOTICE)}</p>',
        *[f'<p class="warning">{_text(warning)}</p>' for warning in result.split.warnings],
        _settings(result),
        "<h2>Data</h2>",
        _counts(result),
        "<h2>Learning</h2>",
        f"<p>Kept: epoch {result.best_epoch} of {len(result.history)}, the one of least validation loss.</p>",
        _image(plots.curves_png(result.history, result.best_epoch), "Accuracy and loss curves"),
        "<h2>Held-out test crops</h2>",
        "<p>Intervals are 95%, from "
        "a bootstrap that draws whole biopsies. Threshold and temperature were chosen on validation crops.</p>",
        _few_cases(len(test.per_case)),
        _metrics(test, result.validation),
        _confusion(test, called),
        _image(plots.ranking_png(test.labels, test.probabilities, threshold), "ROC and precision-recall"),
        "<h2>Calibration</h2>",
        f"<p>Probability is sigmoid(logit / {record.temperature:.3f}).</p>",
        _image(plots.reliability_png(test.labels, test.probabilities), "Reliability diagram"),
        "<h2>Per biopsy</h2>",
        _image(plots.cases_png(test.per_case), "True against predicted percentage"),
        _cases(test),
        f"<h2>Most confidently wrong</h2>{_wrong(result, called)}",
        f'<p class="notice">{_text(RESEARCH_USE_NOTICE)}</p>',
    ]
    title = _text(f"Training report: {record.training.data_name}")
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )


def _text(value: object) -> str:
    # File names may hold bytes that are not UTF-8 (surrogates), which no page can carry.
    return html.escape(str(value).encode("utf-8", "backslashreplace").decode())


def _image(png: bytes, alternative: str) -> str:
    return f'<p><img alt="{_text(alternative)}" src="data:image/png;base64,{base64.b64encode(png).decode()}"></p>'


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], first_text_columns: int = 1) -> str:
    def cell(tag: str, column: int, value: object) -> str:
        mark = "" if column < first_text_columns else ' class="n"'
        return f"<{tag}{mark}>{_text(value)}</{tag}>"

    header = "".join(cell("th", column, title) for column, title in enumerate(head))
    body = "".join(
        "<tr>" + "".join(cell("td", column, value) for column, value in enumerate(row)) + "</tr>" for row in rows
    )
    return f"<table><tr>{header}</tr>{body}</table>"


def _settings(result: TrainResult) -> str:
    training, record = result.record.training, result.record
    recipe = record.recipe
    rows = [
        ("Starting weights", training.weights),
        ("Colour recipe", f"{recipe.name} (saturation x{recipe.saturation_factor:g}, hue {recipe.hue_degrees:+g}°)"),
        ("Input scaling", record.input_scaling),
        ("Optimizer", f"{training.optimizer}, learning rate {training.learning_rate:g}, batch {training.batch_size}"),
        ("Class weight", training.class_weight),
        ("Training steps computed in", training.compute_dtype),
        ("Epochs of all layers before that", training.pretrain_epochs),
        ("Threshold", f"{record.threshold:.4f} (rule: {training.threshold_rule})"),
        ("Temperature", f"{record.temperature:.4f}"),
        ("Split", f"by {training.split_method}, seed {training.seed}"),
        ("Data SHA-256", training.data_sha256),
        ("Model SHA-256", record.model_sha256),
        ("Versions", ", ".join(f"{name} {version}" for name, version in training.package_versions.items())),
        ("Commit", training.git_commit or "not from a checkout"),
    ]
    return _table(("Setting", "Value"), rows, first_text_columns=2)


def _counts(result: TrainResult) -> str:
    rows = [
        (side, c.crops, c.positive, c.crops - c.positive, f"{100 * c.positive / c.crops:.1f}%", c.cases)
        for side, c in result.record.training.splits.items()
    ]
    return _table(("Side", "Crops", "Globally sclerotic", "Not", "Share", "Biopsies"), rows)


def _interval(interval: Interval | None) -> str:
    if interval is None:
        return "undefined"
    if interval.low is None or interval.high is None:
        return f"{interval.value:.3f}"
    return f"{interval.value:.3f} ({interval.low:.3f} to {interval.high:.3f})"


def _few_cases(cases: int) -> str:
    if cases >= FEW_CASES:
        return ""
    return (
        f'<p class="warning">The test crops come from {cases} {"biopsy" if cases == 1 else "biopsies"}: intervals from '
        "so few are too narrow, or there are none. Judge on more biopsies.</p>"
    )


def _metrics(test: SideResult, validation: SideResult) -> str:
    rows = [
        (title, _interval(test.metrics.get(name)), _interval(validation.metrics.get(name)))
        for name, title in _METRIC_TITLES.items()
    ]
    return _table(("Figure", "Test", "Validation (chosen on)"), rows)


def _confusion(side: SideResult, called: npt.NDArray[np.bool_]) -> str:
    def count(label: int, answer: bool) -> int:
        return int(((side.labels == label) & (called == answer)).sum())

    return _table(
        ("Confusion matrix", "Called globally sclerotic", "Called not"),
        [
            ("Globally sclerotic", count(1, True), count(1, False)),
            ("Not globally sclerotic", count(0, True), count(0, False)),
        ],
    )


def _cases(side: SideResult) -> str:
    rows = [
        (f.case, f.crops, f"{f.true_percent_gs:.1f}", f"{f.predicted_percent_gs:.1f}", f.true_grade, f.predicted_grade)
        for f in side.per_case
    ]
    return _table(("Biopsy", "Crops", "True %GS", "Predicted %GS", "True Remuzzi grade", "Predicted"), rows)


def _wrong(result: TrainResult, called: npt.NDArray[np.bool_]) -> str:
    """The wrong answers furthest from the threshold, as crops beside their heatmaps, all on one scale."""
    test, record = result.test, result.record
    wrong = np.flatnonzero(called != (test.labels == 1))
    if not len(wrong):
        return "<p>None: every test crop was called as labelled.</p>"
    turn = logit_threshold(record.threshold, record.temperature)
    shown = wrong[np.argsort(-np.abs(test.logits[wrong] - turn), kind="stable")][:WRONG_SHOWN]
    maps = test.activations[shown]
    limits = float(maps.min()), float(maps.max())
    figures = []
    for position, activation in zip(shown, maps, strict=True):
        item = result.dataset.items[int(test.indices[position])]
        pixels = _shrunk(images.decode(images.read(item.path)).pixels_hwc)
        heat = overlay(pixels, activation, limits=limits, threshold_logit=turn)
        truth = "globally sclerotic" if item.label else "not globally sclerotic"
        probability = _probability(float(test.probabilities[position]))
        figures.append(
            f"<figure>{_picture(pixels)} {_picture(heat)}<figcaption><b>{_text(item.name)}</b><br>labelled {truth}, "
            f"probability {probability}, biopsy {_text(item.case)}</figcaption></figure>"
        )
    return (
        f"<p>{len(wrong)} of {len(test.labels)} test crops were called otherwise than labelled; "
        f"the {len(shown)} furthest from the threshold. The map's mean is the logit; the line is where the decision "
        f'turns.</p><div class="wrong">{"".join(figures)}</div>'
    )


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


def _picture(pixels: npt.NDArray[np.uint8]) -> str:
    return f'<img alt="" src="data:image/png;base64,{base64.b64encode(to_png(pixels)).decode()}">'
