"""Tables of labelled crops: ``public.csv`` and ``labels.csv`` (name and label), ``split.csv`` (name and split).

Train, evaluate and everything else that takes labels read them here, by one rule; ``csv_text`` parses the file.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from glomedge.cases.csv_text import TableError, read_table
from glomedge.cases.text import problem_report, some
from glomedge.errors import DatasetError
from glomedge.files.names import restore

__all__ = [
    "LABELS_NAME",
    "LABEL_COLUMN",
    "NAME_COLUMN",
    "READER_COLUMN",
    "SPLIT_COLUMN",
    "UNSURE",
    "WEIGHT_COLUMN",
    "LabelledNames",
    "NamedValues",
    "SiteLabels",
    "TableError",
    "named_values",
    "parse_labels",
    "read_labels",
    "read_rows",
    "read_site_labels",
    "read_split",
    "usable_labels",
]

LABELS_NAME = "public.csv"
NAME_COLUMN = "name"
LABEL_COLUMN = "ground truth"
SPLIT_COLUMN = "split"
WEIGHT_COLUMN, READER_COLUMN = "weight", "reader"
"""Further columns of the ``labels.csv`` that the page of ``glomedge label`` writes."""
UNSURE = "unsure"
"""In place of a label: the reader could not tell. Such crops are left out, and a note counts them."""

# What programs make of 0 and 1: pandas and spreadsheets write 1.0, in other countries 1,0.
_LABELS = {"0": 0, "1": 1, "0.0": 0, "1.0": 1, "0,0": 0, "1,0": 1}


@dataclass
class NamedValues:
    """One column of a table by the file name in each row.

    Attributes:
        values: file name -> value, of every usable row, in their order.
        more: file name -> the cells of the optional columns.
        lines: file name -> line number in the file, from 1 (the header).
        problems: line number -> what is wrong with the row there.
        notes: how the file was read, where not as plain UTF-8 with commas.
        sha256: of the file's bytes, as they were read.
    """

    values: dict[str, str] = field(default_factory=dict)
    more: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    sha256: str = ""

    def listed(self) -> list[str]:
        """The problems in the order of the file: ``line 3: ...``."""
        return [f"line {line}: {problem}" for line, problem in sorted(self.problems.items())]


@dataclass(frozen=True)
class LabelledNames:
    """What a ``public.csv`` says.

    Attributes:
        labels: file name -> label, 1 globally sclerotic and 0 not, of every usable row, in their order.
        lines: file name -> line number in the file, from 1 (the header).
        problems: one clause for each unusable row, with its line number; empty where all are usable.
        sha256: of the file's bytes, as they were read.
        notes: how the file was read, where not as plain UTF-8 with commas.
    """

    labels: dict[str, int]
    lines: dict[str, int]
    problems: list[str]
    sha256: str
    notes: list[str] = field(default_factory=list)


def parse_labels(path: Path) -> LabelledNames:
    """Every row of a ``public.csv``: columns ``name`` and ``ground truth``, others are ignored.

    A usable row has a name that no earlier row has (folders before it are taken; ``matching`` finds its file) and the
    label 0 or 1. Names come in Unicode form NFC, without blanks around them. Rows labelled ``unsure`` are left out.

    Raises:
        TableError: no such file, not a CSV file, or without these columns.
    """
    return _labels_of(path, named_values(path, LABEL_COLUMN))


def _labels_of(path: Path, found: NamedValues) -> LabelledNames:
    labels, unsure = {}, 0
    for name, value in found.values.items():
        if value in _LABELS:
            labels[name] = _LABELS[value]
        elif value.lower() == UNSURE:
            unsure += 1
        else:
            found.problems[found.lines[name]] = f"label {value!r} of {name!r} is neither 0 nor 1"
    if unsure:
        crops = "1 crop is" if unsure == 1 else f"{unsure} crops are"
        found.notes.append(f"{crops} labelled '{UNSURE}' in {path.name} and left out.")
    lines = {name: found.lines[name] for name in labels}
    return LabelledNames(labels, lines, found.listed(), found.sha256, found.notes)


def read_labels(path: Path) -> dict[str, int]:
    """File name -> label (1 globally sclerotic) from a ``public.csv``, read as ``parse_labels`` does.

    Raises:
        DatasetError: the table cannot be read, has no row, or has unusable rows; lists them.
    """
    return usable_labels(path).labels


def usable_labels(path: Path) -> LabelledNames:
    """As ``parse_labels``, where every row must be usable. Raises DatasetError as ``read_labels``."""
    found = parse_labels(path)
    _refuse(path, found.problems)
    _refuse_empty(path, found.labels)
    return found


def _refuse_empty(path: Path, labels: dict[str, int]) -> None:
    if not labels:
        raise DatasetError(f"{path} contains no label. Its columns are: {NAME_COLUMN},{LABEL_COLUMN}")


@dataclass(frozen=True)
class SiteLabels:
    """What the ``labels.csv`` of a site says, or its ``public.csv``.

    Attributes:
        labels: file name -> label, 1 globally sclerotic and 0 not, in the order of the file.
        weights: file name -> how many crops of the site it stands for; 1 for all where the file has no weights.
        readers: who labelled, sorted; empty where the file does not say.
        sha256: of the file's bytes, as they were read.
        notes: how the file was read.
    """

    labels: dict[str, int]
    weights: dict[str, float]
    readers: tuple[str, ...]
    sha256: str
    notes: list[str]


def read_site_labels(path: Path) -> SiteLabels:
    """Labels with the optional columns ``weight`` and ``reader``; every row must be usable.

    Raises:
        DatasetError: as ``read_labels``; or a weight is not a positive number, or only some rows have one.
    """
    found = named_values(path, LABEL_COLUMN, (WEIGHT_COLUMN, READER_COLUMN))
    listed = _labels_of(path, found)
    weights, readers, bare = {}, set(), []
    for name in listed.labels:
        text, reader = found.more[name]
        readers.update([restore(reader)] if reader else [])
        weights[name] = 1.0
        if not text:
            bare.append(name)
        elif (weight := _positive(text)) is None:
            found.problems[found.lines[name]] = f"weight {text!r} of {name!r} is not a positive number"
        else:
            weights[name] = weight
    if bare and len(bare) < len(weights):
        for name in bare:
            found.problems[found.lines[name]] = f"{name!r} has no weight, but other rows have one"
    _refuse(path, found.listed())
    _refuse_empty(path, listed.labels)
    return SiteLabels(listed.labels, weights, tuple(sorted(readers)), found.sha256, found.notes)


def _positive(text: str) -> float | None:
    try:
        value = float(text.replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def read_split(path: Path, wanted: str) -> set[str]:
    """Names that a ``split.csv`` (columns ``name`` and ``split``) puts on that side. Raises DatasetError."""
    found = named_values(path, SPLIT_COLUMN)
    _refuse(path, found.listed())
    sides = set(found.values.values())
    if wanted not in sides:
        raise DatasetError(
            f"{path} has no split {wanted!r}; it has: {some(sorted(sides), 20)}. Choose one with --split."
        )
    return {name for name, side in found.values.items() if side == wanted}


def _refuse(path: Path, problems: Sequence[str]) -> None:
    if problems:
        rows = "rows cannot be used" if len(problems) > 1 else "row cannot be used"
        raise DatasetError(problem_report(str(path), {rows: problems}, "Correct these lines.", "; "))


def named_values(path: Path, column: str, optional: Sequence[str] = ()) -> NamedValues:
    """One column of a table whose rows are named by the column ``name``, blanks removed. Raises TableError."""
    table = read_table(path, (NAME_COLUMN, column), optional)
    found = NamedValues(notes=table.notes, sha256=table.sha256)
    for line in table.lines:
        name, value, *more = line.cells
        if not name or name.endswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            found.problems[line.number] = f"{name!r} is not a file name"
        elif name in found.values:
            found.problems[line.number] = f"{name!r} is listed twice (first in line {found.lines[name]})"
        else:
            found.values[name], found.lines[name], found.more[name] = value, line.number, tuple(more)
    return found


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """The number of the line each row ends in (the header is line 1), and the row by column.

    Raises:
        TableError: no such file, not a CSV file, or without one of ``columns``.
    """
    for line in read_table(path, columns).lines:
        yield line.number, dict(zip(columns, line.cells, strict=True))
