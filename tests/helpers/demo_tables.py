"""The tables that the demo reads its figures from, as small as they can be."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

_CASES = (
    "case",
    "percent_gs",
    "interval_low",
    "interval_high",
    "corrected_percent_gs",
    "corrected_low",
    "corrected_high",
)


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])


def write_labels(path: Path, labels: Sequence[int]) -> None:
    """``public.csv`` of the crops ``0.png``, ``1.png``, ..."""
    _write(path, ("name", "ground truth"), [(f"{index}.png", label) for index, label in enumerate(labels)])


def write_answers(
    folder: Path, probabilities: Sequence[object], intervals: Sequence[object] = (0, 100, "", "")
) -> None:
    """``predictions.csv`` and ``cases.csv``, threshold 0.5, of one biopsy, ``'12-3``.

    Args:
        folder: made where missing.
        probabilities: of the crops ``sub/0.png``, ...; from 0.2 to 0.8 to be reviewed.
        intervals: of the biopsy: as called, low and high; corrected, low and high, empty for none.
    """
    rows: list[tuple[object, ...]] = []
    called: list[int] = []
    for index, value in enumerate(probabilities):
        if isinstance(value, float):
            called.append(int(value >= 0.5))
            rows.append((f"sub/{index}.png", "'12-3", value, called[-1], int(0.2 <= value <= 0.8)))
        else:
            rows.append((f"sub/{index}.png", "'12-3", value, "", ""))
    _write(folder / "predictions.csv", ("path", "case", "probability", "label", "review"), rows)
    percent = 100 * sum(called) / max(1, len(called))
    low, high, corrected_low, corrected_high = intervals
    corrected = percent if corrected_low != "" else ""
    _write(
        folder / "cases.csv", _CASES, [("'12-3", f"{percent:.2f}", low, high, corrected, corrected_low, corrected_high)]
    )
