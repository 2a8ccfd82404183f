"""The pictures of the training report, as PNG bytes. Drawn without pyplot, so nothing global is touched."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cases.biopsy_metrics import CALIBRATION_BINS, CaseFigures, bin_of
from glomedge.cases.prevalence import wilson_interval
from glomedge.system.telemetry import import_matplotlib
from glomedge_export.training.checkpoint import EpochRow

FigureCanvasAgg = import_matplotlib("backends.backend_agg").FigureCanvasAgg
Figure = import_matplotlib("figure").Figure
ticker = import_matplotlib("ticker")

Floats = npt.NDArray[np.float64]
Labels = npt.NDArray[np.int64]

# Okabe-Ito: told apart by colour-blind readers too.
BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#777777"
_DPI = 120


def _figure(columns: int = 1, width: float = 4.8, height: float = 4.2) -> tuple[Any, list[Any]]:
    figure = Figure(figsize=(width * columns, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for axis in axes:
        axis.grid(alpha=0.25, linewidth=0.6)
        axis.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def _png(figure: Any) -> bytes:
    FigureCanvasAgg(figure)
    # supxlabel, not text: the layout keeps room for it.
    figure.supxlabel(RESEARCH_USE_NOTICE, x=0.995, ha="right", fontsize=6, color=GREY)
    buffer = io.BytesIO()
    # No date or version inside: equal runs give equal bytes.
    figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def curves_png(history: Sequence[EpochRow], best_epoch: int) -> bytes:
    """Loss and accuracy per epoch, training and validation, the kept epoch marked."""
    figure, (loss, accuracy) = _figure(2)
    epochs = [row.epoch for row in history]
    for axis, name, label in ((loss, "loss", "cross-entropy [nats]"), (accuracy, "accuracy", "accuracy at 0.5")):
        axis.plot(epochs, [getattr(row, name) for row in history], "o-", color=BLUE, ms=4, label="training")
        axis.plot(
            epochs, [getattr(row, f"val_{name}") for row in history], "s-", color=ORANGE, ms=4, label="validation"
        )
        axis.axvline(best_epoch, color=GREY, ls="--", lw=1, label=f"kept: epoch {best_epoch}")
        axis.set(xlabel="epoch", ylabel=label, title=name.capitalize(), xlim=(epochs[0] - 0.5, epochs[-1] + 0.5))
        axis.xaxis.set_major_locator(ticker.MaxNLocator(integer=True, min_n_ticks=1))
        axis.legend(frameon=False, fontsize=8)
    loss.set_ylim(0, 1.06 * max(max(row.loss, row.val_loss) for row in history))
    lowest = min(min(row.accuracy, row.val_accuracy) for row in history)
    margin = 0.05 * max(1.0 - lowest, 0.01)
    accuracy.set_ylim(lowest - margin, 1.0 + margin)
    return _png(figure)


def ranking_png(labels: Labels, probabilities: Floats, threshold: float) -> bytes:
    """ROC and precision-recall, each with the point that the threshold chooses."""
    figure, (roc, recall_axis) = _figure(2)
    fpr, tpr, precision = _rates(labels, probabilities)
    called, positive = probabilities >= threshold, labels == 1
    sensitivity, false_alarm = float(called[positive].mean()), float(called[~positive].mean())
    roc.plot(fpr, tpr, color=BLUE, drawstyle="default")
    roc.plot([0, 1], [0, 1], color=GREY, ls=":", lw=1)
    roc.plot(false_alarm, sensitivity, "o", color=ORANGE, label=f"threshold {threshold:.3f}")
    roc.set(xlabel="1 - specificity", ylabel="sensitivity", title="ROC", xlim=(-0.02, 1.02), ylim=(-0.02, 1.02))
    recall_axis.step(tpr, precision, color=BLUE, where="pre")
    recall_axis.axhline(float(positive.mean()), color=GREY, ls=":", lw=1, label="share of positives")
    if called.any():
        recall_axis.plot(
            sensitivity, float(positive[called].mean()), "o", color=ORANGE, label=f"threshold {threshold:.3f}"
        )
    recall_axis.set(
        xlabel="recall (sensitivity)",
        ylabel="precision",
        title="Precision-recall",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    for axis in (roc, recall_axis):
        axis.legend(frameon=False, fontsize=8, loc="lower right" if axis is roc else "lower left")
    return _png(figure)


def _rates(labels: Labels, probabilities: Floats) -> tuple[Floats, Floats, Floats]:
    """False-positive rate, true-positive rate and precision at every distinct probability, from none called on."""
    order = np.argsort(-probabilities, kind="stable")
    ranked, y = probabilities[order], labels[order]
    last_of_ties = np.flatnonzero(np.r_[ranked[1:] != ranked[:-1], True])
    tp, fp = np.cumsum(y)[last_of_ties], np.cumsum(1 - y)[last_of_ties]
    return np.r_[0.0, fp / fp[-1]], np.r_[0.0, tp / tp[-1]], np.r_[1.0, tp / (tp + fp)]


def reliability_png(labels: Labels, probabilities: Floats) -> bytes:
    """Observed fraction (with its interval) against mean predicted probability in ten bins, and how many crops each
    bin holds."""
    figure, (axis, counts_axis) = _figure(2)
    bins = bin_of(probabilities)
    counts = np.bincount(bins, minlength=CALIBRATION_BINS)
    filled = counts > 0
    predicted = np.bincount(bins, probabilities, CALIBRATION_BINS)[filled] / counts[filled]
    positives = np.bincount(bins, labels, CALIBRATION_BINS)[filled]
    observed = positives / counts[filled]
    axis.plot([0, 1], [0, 1], color=GREY, ls=":", lw=1, label="perfectly calibrated")
    # Few crops make a wide interval: without it a bin of three looks like a fault of calibration.
    intervals = np.array([wilson_interval(int(k), int(n)) for k, n in zip(positives, counts[filled], strict=True)])
    reach = np.abs(intervals - observed[:, None]).T
    axis.errorbar(
        predicted, observed, yerr=reach, fmt="none", ecolor=BLUE, elinewidth=0.8, alpha=0.6, label="95% (Wilson)"
    )
    axis.plot(predicted, observed, "-", color=BLUE, lw=1)
    axis.scatter(predicted, observed, s=14 + 120 * counts[filled] / counts.max(), color=BLUE, zorder=3)
    axis.set(
        xlabel="mean predicted probability",
        ylabel="observed fraction globally sclerotic",
        title="Reliability (area: number of crops)",
        xlim=(-0.02, 1.02),
        ylim=(-0.02, 1.02),
    )
    axis.legend(frameon=False, fontsize=8, loc="upper left")
    edges = np.linspace(0, 1, CALIBRATION_BINS + 1)
    # Side by side: bars over one another hide the smaller one on a logarithmic scale.
    counts_axis.hist(
        [probabilities[labels == 0], probabilities[labels == 1]],
        edges,
        color=[BLUE, ORANGE],
        label=["not globally sclerotic", "globally sclerotic"],
        rwidth=0.85,
    )
    counts_axis.set(xlabel="predicted probability", ylabel="crops (log scale)", title="Predictions by true label")
    counts_axis.set_yscale("log")
    # From half a crop, so that a bar of one crop can be seen; room above for the legend.
    counts_axis.set_ylim(0.5, 4.0 * max(2, int(counts.max())))
    counts_axis.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:g}"))
    counts_axis.legend(frameon=False, fontsize=8, loc="upper center")
    return _png(figure)


def cases_png(figures: Sequence[CaseFigures]) -> bytes:
    """Per biopsy: true against predicted percentage of globally sclerotic glomeruli; area is the number of crops."""
    figure, (axis,) = _figure(1, 5.4, 5.0)
    true = [f.true_percent_gs for f in figures]
    predicted = [f.predicted_percent_gs for f in figures]
    agrees = [f.true_grade == f.predicted_grade for f in figures]
    top = max(20.0, *true, *predicted) * 1.08
    for limit in (20, 50):
        if limit < top:
            axis.axhline(limit, color=GREY, lw=0.6, ls="--")
            axis.axvline(limit, color=GREY, lw=0.6, ls="--")
    axis.plot([0, top], [0, top], color=GREY, ls=":", lw=1)
    for same, colour, name in ((True, BLUE, "same Remuzzi grade"), (False, ORANGE, "another grade")):
        chosen = [i for i, agree in enumerate(agrees) if agree is same]
        axis.scatter(
            [true[i] for i in chosen],
            [predicted[i] for i in chosen],
            s=[20 + 3 * figures[i].crops for i in chosen],
            color=colour,
            alpha=0.7,
            label=f"{name} ({len(chosen)})",
            zorder=3,
        )
    axis.set(
        xlabel="true %GS",
        ylabel="predicted %GS",
        title="Per biopsy (area: number of crops)",
        xlim=(-0.03 * top, top),
        ylim=(-0.03 * top, top),
    )
    legend = axis.legend(frameon=False, fontsize=8, loc="upper left")
    for handle in legend.legend_handles:
        handle.set_sizes([30])
    return _png(figure)
