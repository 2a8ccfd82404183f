"""Train, validation and test: by biopsy, as published (at random), or as a file says.

A crop resembles the other crops of its biopsy (same stain, same scanner, same kidney). Where crops of one biopsy are
on both sides, the test figures do not predict performance on the next biopsy; so the default keeps biopsies whole.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast, get_args

import numpy as np
import numpy.typing as npt

from glomedge.cases.labels import SPLIT_COLUMN, TableError, named_values
from glomedge.errors import DatasetError, UsageError
from glomedge.files.writing import write_atomically
from glomedge.model.spec import SplitCounts
from glomedge_export.data.dataset import Dataset
from glomedge_export.training_record import SplitName

SplitMethod = Literal["case", "random", "file"]
SIDES: tuple[SplitName, ...] = get_args(SplitName)
# Of the biopsies: 70 / 15 / 15.
VALIDATION_FRACTION = 0.15
TEST_FRACTION = 0.15
PUBLISHED_SEED = 42
# Assignments drawn; the best balanced one is taken.
DRAWS = 4096


@dataclass(frozen=True)
class Split:
    """Which side each crop is on.

    Attributes:
        sides: crop name -> train, validation or test.
        method: how it was made.
        warnings: what a reader of the figures must know.
    """

    sides: Mapping[str, SplitName]
    method: SplitMethod
    warnings: tuple[str, ...] = ()

    def indices(self, dataset: Dataset, side: SplitName) -> npt.NDArray[np.int64]:
        """Positions in ``dataset.items`` on one side, ascending, int64 ``[n]``."""
        return np.array([i for i, item in enumerate(dataset.items) if self.sides[item.name] == side], np.int64)

    def counts(self, dataset: Dataset) -> dict[str, SplitCounts]:
        """Crops, positives and biopsies on each side."""
        result: dict[str, SplitCounts] = {}
        for side in SIDES:
            items = [item for item in dataset.items if self.sides[item.name] == side]
            result[side] = SplitCounts(
                crops=len(items), positive=sum(i.label for i in items), cases=len({i.case for i in items})
            )
        return result


def split_by_case(dataset: Dataset, seed: int = 42) -> Split:
    """70/15/15 of the biopsies, each side with its fair share of crops of either label.

    Biopsies are of very uneven size and percentage, so of ``DRAWS`` random assignments the one is taken whose
    shares of positive and of negative crops lie nearest to 70/15/15 (least sum of squared relative errors).

    Raises:
        DatasetError: no assignment gives every side crops of both labels.
    """
    cases = len(set(dataset.cases))
    held = max(1, round(TEST_FRACTION * cases)), max(1, round(VALIDATION_FRACTION * cases))
    if cases - sum(held) < 1:
        raise DatasetError(
            f"{cases} biopsies cannot be split into train, validation and test. Add crops of more biopsies, give a "
            "--case-pattern that tells them apart, or use --split random."
        )
    wanted = (1 - TEST_FRACTION - VALIDATION_FRACTION, VALIDATION_FRACTION, TEST_FRACTION)
    sides = _assigned(dataset, SIDES, (cases - sum(held), held[1], held[0]), wanted, seed)
    if sides is None:
        raise DatasetError(
            "No split by biopsy gives train, validation and test crops of both labels. Add biopsies with the rarer "
            "label, or use --split random or --split-file."
        )
    return Split(sides, "case")


def split_in_halves(dataset: Dataset, seed: int = 42) -> Split:
    """Half of the biopsies ``validation``, to fit a threshold on, and half ``test``, to count on what it gives.

    For a model trained elsewhere: none of the crops here need be kept for training.

    Raises:
        DatasetError: no assignment gives both sides crops of both labels.
    """
    cases = len(set(dataset.cases))
    sizes = (cases - cases // 2, cases // 2)
    sides = _assigned(dataset, ("validation", "test"), sizes, (0.5, 0.5), seed) if cases > 1 else None
    if sides is None:
        raise DatasetError(
            f"The {cases} {'biopsy' if cases == 1 else 'biopsies'} of {dataset.directory} cannot be split into two "
            "halves with crops of both labels each, one to fit on and one to count on. Add biopsies, or give a "
            "--case-pattern that tells them apart."
        )
    return Split(sides, "case")


def _assigned(
    dataset: Dataset, names: Sequence[SplitName], sizes: Sequence[int], wanted: Sequence[float], seed: int
) -> dict[str, SplitName] | None:
    """Crop name -> side, biopsies whole; None where no draw gives every side crops of both labels.

    Of ``DRAWS`` random assignments the one whose shares of positive and of negative crops lie nearest to ``wanted``
    (least sum of squared relative errors).

    Args:
        dataset: the crops.
        names: of the sides.
        sizes: biopsies on each side; the last side is drawn first.
        wanted: share of the crops on each side.
        seed: of the draws.
    """
    found, case_index = np.unique(dataset.cases, return_inverse=True)
    counts = np.zeros((len(found), 2))
    np.add.at(counts, (case_index, dataset.labels), 1)
    totals, aims = counts.sum(0), np.array(wanted)
    ends = np.cumsum(sizes[::-1])[::-1]
    begins = [*ends[1:], 0]
    rng = np.random.default_rng(seed)
    best_cost, best_order = np.inf, None
    for _ in range(DRAWS):
        order = rng.permutation(len(found))
        sides = [counts[order[begin:end]].sum(0) for begin, end in zip(begins, ends, strict=True)]
        shares = np.stack(sides) / totals
        if shares.min() <= 0:
            continue
        cost = float((((shares - aims[:, None]) / aims[:, None]) ** 2).sum())
        if cost < best_cost:
            best_cost, best_order = cost, order
    if best_order is None:
        return None
    side_of_case: dict[int, SplitName] = {
        int(case): name for name, begin, end in zip(names, begins, ends, strict=True) for case in best_order[begin:end]
    }
    return {item.name: side_of_case[int(c)] for item, c in zip(dataset.items, case_index, strict=True)}


def split_published(dataset: Dataset) -> Split:
    """The published split: 15% of the crops test, then 15% of the rest validation, at random, seed 42.

    The same draw as scikit-learn's ``train_test_split(..., random_state=42)`` twice, over the crops by name.

    Raises:
        DatasetError: a side would lack a label.
    """
    rest = np.arange(len(dataset.items))
    drawn: dict[SplitName, npt.NDArray[np.int64]] = {}
    for side, fraction in (("test", TEST_FRACTION), ("validation", VALIDATION_FRACTION)):
        order = np.random.RandomState(PUBLISHED_SEED).permutation(len(rest))
        held = int(np.ceil(fraction * len(rest)))
        drawn[cast("SplitName", side)] = rest[order[:held]]
        rest = rest[order[held:]]
    drawn["train"] = rest
    sides = {dataset.items[int(i)].name: side for side, indices in drawn.items() for i in indices}
    leaks = _shared_cases(dataset, sides)
    warnings = (
        f"The split is at random, as published: crops of {leaks} of {len(set(dataset.cases))} biopsies are on more "
        "than one side, so the figures do not predict performance on the next biopsy.",
    )
    return _checked(dataset, Split(sides, "random", warnings if leaks else ()))


def read_split(path: Path | str, dataset: Dataset) -> Split:
    """Read a split from a CSV file with the columns ``name`` and ``split`` (train, validation or test).

    Raises:
        DatasetError: lists everything that does not fit the data set.
    """
    path = Path(path)
    try:
        found = named_values(path, SPLIT_COLUMN)
    except TableError as error:
        raise DatasetError(
            f"The split file {path} cannot be read: {error.reason}. Name a split.csv that glomedge train wrote "
            "with --split-file."
        ) from error
    known = {item.name for item in dataset.items}
    sides: dict[str, SplitName] = {}
    problems = found.listed()
    for name, side in found.values.items():
        if name not in known:
            problems.append(f"{name}: not in the data set")
        elif side not in SIDES:
            problems.append(f"{name}: {side!r} is not train, validation or test")
        else:
            sides[name] = side
    problems += [f"{name}: not in the split file" for name in sorted(known - found.values.keys())]
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems[:200])
        raise DatasetError(
            f"The split file {path} does not fit the data set ({len(problems)} problems):\n{listed}\n"
            "Fix the file, or omit --split-file to draw a new split."
        )
    leaks = _shared_cases(dataset, sides)
    warnings = (
        (f"The split file puts crops of {leaks} biopsies on more than one side: the figures flatter the model.",)
        if leaks
        else ()
    )
    return _checked(dataset, Split(sides, "file", warnings))


def make_split(dataset: Dataset, method: SplitMethod, *, seed: int = 42, file: Path | str | None = None) -> Split:
    """Split by ``case``, ``random`` (published) or ``file``."""
    match method:
        case "case":
            return split_by_case(dataset, seed)
        case "random":
            return split_published(dataset)
        case "file":
            if file is None:
                raise UsageError("A split by file needs the file. Give it with --split-file split.csv")
            return read_split(file, dataset)
    raise UsageError(f"Unknown split {method!r}. Choose case or random, or give --split-file.")


def write_split(path: Path, dataset: Dataset, split: Split) -> None:
    """Write ``split.csv``: name, label, case, slide, split; one line a crop, sorted by name."""
    buffer = io.StringIO(newline="")
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["name", "label", "case", "slide", "split"])
    writer.writerows([i.name, i.label, i.case, i.slide, split.sides[i.name]] for i in dataset.items)
    write_atomically(path, buffer.getvalue().encode())


def _shared_cases(dataset: Dataset, sides: Mapping[str, SplitName]) -> int:
    pairs = {(item.case, sides[item.name]) for item in dataset.items}
    return sum(1 for count in Counter(case for case, _ in pairs).values() if count > 1)


def _checked(dataset: Dataset, split: Split) -> Split:
    incomplete: Sequence[str] = [
        f"{side} ({count.crops} crops, {count.positive} positive)"
        for side, count in split.counts(dataset).items()
        if not 0 < count.positive < count.crops
    ]
    if incomplete:
        raise DatasetError(
            f"The split leaves a side without crops of both labels: {', '.join(incomplete)}. Add crops, or choose "
            "another split."
        )
    return split
