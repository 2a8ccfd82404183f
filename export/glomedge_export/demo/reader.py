"""The drawn truth in place of the reader who would label the chosen crops in a browser."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

from glomedge.cases.labels import LABEL_COLUMN, NAME_COLUMN, READER_COLUMN, WEIGHT_COLUMN, read_labels
from glomedge.errors import GlomedgeError

READER = "drawn truth"


def answer_as_drawn(directory: Path, say: Callable[[str], None]) -> None:
    """Write ``labelling/labels.csv`` as the page saves it, each chosen crop with the label it was drawn with.

    Args:
        directory: the demo folder, with ``away/`` and ``labelling/chosen.csv``.
        say: prints one line.

    Raises:
        DatasetError: the labels of ``away/`` cannot be read.
        GlomedgeError: a chosen crop has no drawn label.
        OSError: a file cannot be read or written.
    """
    truth = read_labels(directory / "away" / "public.csv")
    with (directory / "labelling" / "chosen.csv").open(newline="", encoding="utf-8") as file:
        chosen = list(csv.DictReader(file))
    # The page writes a crop's path, public.csv its base name.
    names = [Path(row[NAME_COLUMN]).name for row in chosen]
    missing = [name for name in names if name not in truth]
    if missing:
        raise GlomedgeError(f"{missing[0]} was chosen but not drawn. Run the demo again with --fresh.")
    with (directory / "labelling" / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow((NAME_COLUMN, LABEL_COLUMN, WEIGHT_COLUMN, READER_COLUMN))
        for row, name in zip(chosen, names, strict=True):
            writer.writerow((row[NAME_COLUMN], truth[name], row[WEIGHT_COLUMN], READER))
    positive = sum(truth[name] for name in names)
    say(f"{len(names)} crops labelled, {positive} of them globally sclerotic: labelling/labels.csv")
