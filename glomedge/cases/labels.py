"""Labels as a data set holds them: public.csv, and the split of a training run."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from pathlib import Path

from glomedge.errors import DatasetError

LABELS_NAME = "public.csv"
LABEL_COLUMN = "ground truth"


def read_labels(path: Path) -> dict[str, int]:
    """File name -> label (1 globally sclerotic) from a ``public.csv``: columns ``name`` and ``ground truth``.

    Raises:
        DatasetError: missing, without these columns, a label other than 0 or 1, a name twice; lists every bad line.
    """
    labels: dict[str, int] = {}
    problems: list[str] = []
    for number, row in _lines(path, ("name", LABEL_COLUMN)):
        name, label = row["name"], row[LABEL_COLUMN].strip()
        if label not in ("0", "1"):
            problems.append(f"line {number}: label {label!r} of {name!r} is neither 0 nor 1")
        elif name in labels:
            problems.append(f"line {number}: {name!r} stands there twice")
        else:
            labels[name] = int(label)
    if problems:
        raise DatasetError(f"{path}: {'; '.join(problems)}. Correct these lines.")
    if not labels:
        raise DatasetError(f"{path} holds no label. Its columns are: name,{LABEL_COLUMN}")
    return labels


def read_split(path: Path, wanted: str) -> set[str]:
    """Names that a ``split.csv`` (columns ``name`` and ``split``) puts on that side. Raises DatasetError."""
    sides: dict[str, set[str]] = {}
    for _, row in _lines(path, ("name", "split")):
        sides.setdefault(row["split"].strip(), set()).add(row["name"])
    if wanted not in sides:
        raise DatasetError(
            f"{path} has no split {wanted!r}; it has: {', '.join(sorted(sides))}. Name one with --split."
        )
    return sides[wanted]


def _lines(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, restval="")
            missing = [name for name in columns if name not in (reader.fieldnames or ())]
            if missing:
                raise DatasetError(f"{path} has no column {', '.join(missing)}. Its columns are: {','.join(columns)}")
            for row in reader:
                yield reader.line_num, row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise DatasetError(f"{path} cannot be read: {reason}. Name a data set folder with a {LABELS_NAME}.") from None
