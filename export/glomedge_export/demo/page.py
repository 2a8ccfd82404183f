"""``demo.html``: one page that leads through the demo, with links to everything that its commands wrote."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
from markupsafe import Markup

from glomedge.cases.labels import read_labels
from glomedge.files.writing import write_atomically
from glomedge.reports import html
from glomedge_export.demo.figures import Biopsy, Figures
from glomedge_export.demo.request import ANSWER_FILE, REQUEST_FILE
from glomedge_export.demo.steps import AWAY, HOME, Spent, Step

PAGE_FILE = "demo.html"
_SHOWN_OF_EACH = 4
_PICTURE_PX = 140
_JPEG_QUALITY = 85


class _Crop(NamedTuple):
    picture: Markup
    label: int
    name: str


def write_page(
    directory: Path, night: Figures, before: Figures, after: Figures, steps: Sequence[tuple[Step, Spent | None]]
) -> None:
    """Write ``demo.html`` into the demo folder.

    Args:
        directory: the demo folder.
        night: the biopsies that training never saw.
        before, after: those of the other laboratory, without and with recalibration.
        steps: each with what it took; None where it was left out.

    Raises:
        OSError: a file cannot be read or the page not be written.
    """
    page = html.render(
        "demo.html",
        title="glomedge demo: from crops to an answer, on drawn crops",
        home=HOME,
        away=AWAY,
        tiles=_tiles(night),
        pictures=[(HOME, _crops(directory / "night")), (AWAY, _crops(directory / "away-check"))],
        night=night,
        night_rows=[_row(biopsy) for biopsy in night.biopsies],
        changes=_changes(before, after),
        after=after,
        after_rows=[_row(biopsy) for biopsy in after.biopsies],
        answer=_answer(directory),
        exists={name: (directory / name).exists() for name in _LINKED},
        steps=[(step.says, step.command, spent) for step, spent in steps],
    )
    write_atomically(directory / PAGE_FILE, page.encode())


_LINKED = (
    "artifacts/training-report.html",
    "artifacts/model.card.md",
    "predictions/report.html",
    "predictions/cases.csv",
    "predictions/predictions.csv",
    "on-slides/report.html",
    "on-slides/annotations",
    "labelling/label.html",
    "labelling/labels.csv",
    "away.card.md",
    "before/report.html",
    "after/report.html",
    "validation.html",
    REQUEST_FILE,
    ANSWER_FILE,
)


def _tiles(night: Figures) -> list[tuple[str, str]]:
    return [
        ("AUROC", f"{night.auroc:.3f}"),
        ("sensitivity", f"{night.sensitivity:.3f}"),
        ("specificity", f"{night.specificity:.3f}"),
        ("crops called", str(night.crops)),
        ("of them to review", str(night.review)),
        ("biopsies", str(len(night.biopsies))),
        ("true %GS in interval", str(night.held)),
    ]


def _row(biopsy: Biopsy) -> tuple[str, str, str, str, str, str]:
    return (
        biopsy.case,
        str(biopsy.crops),
        f"{biopsy.true_percent:.1f}%",
        _interval(biopsy.percent, biopsy.low, biopsy.high),
        _interval(biopsy.corrected, biopsy.corrected_low, biopsy.corrected_high),
        "yes" if biopsy.held else "no",
    )


def _interval(value: float | None, low: float | None, high: float | None) -> str:
    return "-" if value is None or low is None or high is None else f"{value:.1f}% ({low:.1f}-{high:.1f})"


def _changes(before: Figures, after: Figures) -> list[tuple[str, str, str]]:
    def both(name: str, text: Any) -> tuple[str, str, str]:
        return name, text(before), text(after)

    return [
        both("AUROC (the ranking)", lambda f: f"{f.auroc:.3f}"),
        both(
            "globally sclerotic found (sensitivity)",
            lambda f: f"{f.true_positive} of {f.true_positive + f.false_negative} ({f.sensitivity:.3f})",
        ),
        both(
            "others left alone (specificity)",
            lambda f: f"{f.true_negative} of {f.true_negative + f.false_positive} ({f.specificity:.3f})",
        ),
        both("crops to review", lambda f: f"{f.review} of {f.crops}"),
        both("%GS, mean error per biopsy", lambda f: f"{f.percent_error:.1f} points"),
        both("true %GS in the interval", lambda f: f"{f.held} of {len(f.biopsies)} biopsies"),
    ]


def _crops(folder: Path) -> list[_Crop]:
    """The first crops, by name, of either label, small."""
    paths = {path.name: path for path in folder.glob("*/*.png")}
    truth = read_labels(folder / "public.csv")
    shown = []
    for label in (1, 0):
        for name in sorted(name for name, one in truth.items() if one == label and name in paths)[:_SHOWN_OF_EACH]:
            pixels = cv2.imdecode(np.frombuffer(paths[name].read_bytes(), np.uint8), cv2.IMREAD_COLOR)
            if pixels is None:
                continue
            small = cv2.resize(pixels, (_PICTURE_PX, _PICTURE_PX), interpolation=cv2.INTER_AREA)
            done, encoded = cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY))
            if done:
                shown.append(_Crop(html.data_uri("jpeg", encoded.tobytes()), label, name))
    return shown


def _answer(directory: Path) -> str | None:
    """The server's answer, as text; None where it was not asked."""
    try:
        answer = json.loads((directory / ANSWER_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    # One line for each tensor: indented in full, every number would have its own.
    outputs = ",\n  ".join(json.dumps(output) for output in answer.pop("outputs"))
    return f'{json.dumps(answer)[:-1]},\n "outputs": [\n  {outputs}\n]}}'
