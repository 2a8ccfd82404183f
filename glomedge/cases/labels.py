"""Tables of labelled crops: ``public.csv`` (name and label) and ``split.csv`` (name and split of a training run).

Train, evaluate and everything else that takes labels read them here, by one rule.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from glomedge.errors import DatasetError

LABELS_NAME = "public.csv"
NAME_COLUMN = "name"
LABEL_COLUMN = "ground truth"
SPLIT_COLUMN = "split"


class TableError(DatasetError):
    """A table that cannot be read at all.

    Attributes:
        reason: what is wrong with it, without its path.
    """

    def __init__(self, path: Path, reason: str, advice: str) -> None:
        super().__init__(f"{path} cannot be read: {reason}. {advice}")
        self.reason = reason


@dataclass
class NamedValues:
    """One column of a table by the file name in each row.

    Attributes:
        values: file name -> value, of every usable row, in their order.
        lines: file name -> line number in the file, from 1 (the header).
        problems: line number -> what is wrong with the row there.
    """

    values: dict[str, str] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    problems: dict[int, str] = field(default_factory=dict)

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
    """

    labels: dict[str, int]
    lines: dict[str, int]
    problems: list[str]


def parse_labels(path: Path) -> LabelledNames:
    """Every row of a ``public.csv``: columns ``name`` and ``ground truth``, others are ignored.

    A usable row has a file name that no earlier row has, without any folder, and the label 0 or 1; blanks around
    either are ignored.

    Raises:
        TableError: no such file, not a CSV file, or without these columns.
    """
    found = named_values(path, LABEL_COLUMN)
    labels = {}
    for name, value in found.values.items():
        if value in ("0", "1"):
            labels[name] = int(value)
        else:
            found.problems[found.lines[name]] = f"label {value!r} of {name!r} is neither 0 nor 1"
    return LabelledNames(labels, {name: found.lines[name] for name in labels}, found.listed())


def read_labels(path: Path) -> dict[str, int]:
    """File name -> label (1 globally sclerotic) from a ``public.csv``, read as ``parse_labels`` does.

    Raises:
        DatasetError: the table cannot be read, has no row, or has unusable rows; lists every one.
    """
    found = parse_labels(path)
    if found.problems:
        raise DatasetError(f"{path}: {'; '.join(found.problems)}. Correct these lines.")
    if not found.labels:
        raise DatasetError(f"{path} holds no label. Its columns are: {NAME_COLUMN},{LABEL_COLUMN}")
    return found.labels


def read_split(path: Path, wanted: str) -> set[str]:
    """Names that a ``split.csv`` (columns ``name`` and ``split``) puts on that side. Raises DatasetError."""
    found = named_values(path, SPLIT_COLUMN)
    if found.problems:
        raise DatasetError(f"{path}: {'; '.join(found.listed())}. Correct these lines.")
    sides = set(found.values.values())
    if wanted not in sides:
        raise DatasetError(
            f"{path} has no split {wanted!r}; it has: {', '.join(sorted(sides))}. Name one with --split."
        )
    return {name for name, side in found.values.items() if side == wanted}


def named_values(path: Path, column: str) -> NamedValues:
    """One column of a table whose rows are named by the column ``name``, blanks removed. Raises TableError."""
    found = NamedValues()
    for line, row in read_rows(path, (NAME_COLUMN, column)):
        name = row[NAME_COLUMN].strip()
        if not name or Path(name).name != name:
            found.problems[line] = f"{name!r} is not a file name"
        elif name in found.values:
            found.problems[line] = f"{name!r} is listed twice (first in line {found.lines[name]})"
        else:
            found.values[name], found.lines[name] = row[column].strip(), line
    return found


def read_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Open a table and give the number of the line each row ends in (the header is line 1), and the row by column.

    The only place where such a file is opened, so that whatever its dialect asks for belongs here.

    Raises:
        TableError: no such file, not a CSV file, or without one of ``columns``.
    """
    advice = f"Its columns are: {','.join(columns)}"
    try:
        # utf-8-sig: spreadsheets write a byte order mark.
        with path.open(encoding="utf-8-sig", newline="") as handle:
            reader = csv.DictReader(handle, restval="")
            present = reader.fieldnames or ()
            missing = [name for name in columns if name not in present]
            if missing:
                raise TableError(
                    path,
                    f"there is no column {' and '.join(map(repr, missing))}; it has {', '.join(present) or 'none'}",
                    advice,
                )
            for row in reader:
                yield reader.line_num, row
    except FileNotFoundError:
        raise TableError(path, "there is no such file", advice) from None
    except OSError as error:
        raise TableError(path, error.strerror or str(error), advice) from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise TableError(path, f"it is not a CSV file ({error})", advice) from None
