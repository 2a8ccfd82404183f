"""The labelled data set in the users' layout, checked as a whole before anything is trained on it.

    DIR/public.csv                          columns `name`, `ground truth` (0 or 1)
    DIR/globally_sclerotic_glomeruli/       the crops labelled 1
    DIR/non_globally_sclerotic_glomeruli/   the crops labelled 0

Every problem is found and listed at once. Nothing here imports TensorFlow, so that bad data is refused in a second.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from glomedge.cases.labels import LABELS_NAME, TableError, parse_labels
from glomedge.cases.summary import case_of
from glomedge.errors import DatasetError, ImageError
from glomedge.imaging import images

CSV_NAME = LABELS_NAME
# Index is the label.
FOLDERS = ("non_globally_sclerotic_glomeruli", "globally_sclerotic_glomeruli")
# Each of train, validation and test must hold crops of both labels, from biopsies of its own.
MIN_CASES = 3
# A message longer than this helps nobody; the count still says how many there are.
MAX_LISTED = 200


@dataclass(frozen=True)
class Item:
    """One labelled crop.

    Attributes:
        name: file name as it stands in public.csv.
        path: where it lies.
        label: 1 globally sclerotic, 0 not.
        case: the biopsy.
        slide: the slide.
        sha256: of the file's bytes.
    """

    name: str
    path: Path
    label: int
    case: str
    slide: str
    sha256: str


@dataclass(frozen=True)
class Dataset:
    """Labelled crops, sorted by name.

    Attributes:
        directory: as given by the user.
        items: at least one of each label.
        case_pattern: the pattern that cases were read with, None for the default ones.
    """

    directory: Path
    items: tuple[Item, ...]
    case_pattern: str | None = None

    @cached_property
    def sha256(self) -> str:
        """Hash of what was learned from: names, labels and file contents, not where they lie."""
        return _digest((item.name, item.label, item.sha256) for item in self.items)

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """int64 ``[N]``, 0 or 1."""
        return np.array([item.label for item in self.items], np.int64)

    @cached_property
    def cases(self) -> npt.NDArray[np.str_]:
        """The biopsy of each crop, ``[N]``."""
        return np.array([item.case for item in self.items])


def _digest(rows: Iterable[tuple[str, int, str]]) -> str:
    digest = hashlib.sha256()
    for row in rows:
        digest.update(json.dumps(row).encode() + b"\n")
    return digest.hexdigest()


def read_dataset(
    directory: Path | str,
    case_pattern: str | None = None,
    *,
    min_cases: int = MIN_CASES,
    known_good: Callable[[str], bool] | None = None,
) -> Dataset:
    """Read and check a data set: every crop is found, labelled once, decodable and agrees with its folder.

    Args:
        directory: holds public.csv and the two folders.
        case_pattern: see ``glomedge.cases.case_of``.
        min_cases: how many biopsies each label must come from (0: not checked).
        known_good: asked with the data set's SHA-256 whether these very bytes were decoded before; where it says
            True decoding is not repeated.

    Raises:
        DatasetError: lists every problem found.
    """
    directory = Path(directory)
    problems: list[str] = []
    found = _scan(directory, problems)
    labels = _read_csv(directory / CSV_NAME, problems)
    chosen: list[tuple[str, Path, int]] = []
    for name, label in labels.items():
        places = found.get(name, [])
        if not places:
            problems.append(f"{name}: in {CSV_NAME} but in neither folder")
        elif len(places) > 1:
            problems.append(f"{name}: the same name lies in both folders")
        elif places[0] != label:
            problems.append(f"{name}: labelled {label} in {CSV_NAME} but lies in {FOLDERS[places[0]]}")
        if places:
            chosen.append((name, directory / FOLDERS[places[0]] / name, label))
    if labels:
        strangers = sorted(found.keys() - labels.keys())
        problems += [f"{name}: lies in {FOLDERS[found[name][0]]} but not in {CSV_NAME}" for name in strangers]
    items = _hash_and_decode(sorted(chosen), case_pattern, problems, known_good)
    problems += _too_few(items, labels, min_cases)
    if problems:
        raise DatasetError(_message(directory, problems))
    return Dataset(directory, items, case_pattern)


def _scan(directory: Path, problems: list[str]) -> dict[str, list[int]]:
    """File name -> the labels of the folders it lies in."""
    found: dict[str, list[int]] = {}
    if not directory.is_dir():
        problems.append(f"{directory} is not a folder")
        return found
    for label, folder in enumerate(FOLDERS):
        try:
            names = sorted(entry.name for entry in os.scandir(directory / folder) if _is_candidate(entry.name))
        except OSError as error:
            problems.append(f"folder {folder}: {error.strerror}")
            continue
        if not names:
            problems.append(f"folder {folder}: holds no image")
        for name in names:
            found.setdefault(name, []).append(label)
    return found


def _is_candidate(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in images.ALLOWED_SUFFIXES


def _read_csv(path: Path, problems: list[str]) -> dict[str, int]:
    """Name -> label of every usable row."""
    try:
        found = parse_labels(path)
    except TableError as error:
        problems.append(f"{CSV_NAME}: {error.reason}")
        return {}
    if not found.labels and not found.problems:
        problems.append(f"{CSV_NAME}: holds no row")
    problems += [f"{CSV_NAME} {problem}" for problem in found.problems]
    return found.labels


def _hash_and_decode(
    chosen: Sequence[tuple[str, Path, int]],
    case_pattern: str | None,
    problems: list[str],
    known_good: Callable[[str], bool] | None,
) -> tuple[Item, ...]:
    """Two passes, so that bytes decoded in an earlier run cost a hash only (the second read is from memory)."""

    def hash_one(entry: tuple[str, Path, int]) -> Item | str:
        name, path, label = entry
        try:
            digest = hashlib.sha256(images.read(path)).hexdigest()
        except ImageError as error:
            return f"{name}: {error}"
        case, slide = case_of(name, case_pattern)
        return Item(name, path, label, case, slide, digest)

    def decode_one(item: Item) -> str | None:
        try:
            images.decode(images.read(item.path))
        except ImageError as error:
            return f"{item.name}: {error}"
        return None

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        hashed = list(pool.map(hash_one, chosen))
        items = tuple(entry for entry in hashed if isinstance(entry, Item))
        problems += [entry for entry in hashed if isinstance(entry, str)]
        sha256 = _digest((item.name, item.label, item.sha256) for item in items)
        if known_good is None or not known_good(sha256):
            problems += [message for message in pool.map(decode_one, items) if message is not None]
    return items


def _too_few(items: Sequence[Item], labels: dict[str, int], min_cases: int) -> list[str]:
    if not labels:
        return []
    counts = Counter(labels.values())
    if len(counts) == 1:
        return [f"{CSV_NAME}: every crop is labelled {next(iter(counts))}; both labels are needed"]
    problems: list[str] = []
    if min_cases:
        for label in (0, 1):
            cases = {item.case for item in items if item.label == label}
            if 0 < len(cases) < min_cases:
                problems.append(
                    f"crops labelled {label} come from {len(cases)} "
                    f"{'biopsy' if len(cases) == 1 else 'biopsies'}, but {min_cases} are needed: one each for train, "
                    "validation and test (see --case-pattern and --split random)"
                )
    return problems


def _message(directory: Path, problems: Sequence[str]) -> str:
    listed = [f"  {problem}" for problem in problems[:MAX_LISTED]]
    if len(problems) > MAX_LISTED:
        listed.append(f"  ... and {len(problems) - MAX_LISTED} more")
    count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
    body = "\n".join(listed)
    return f"The data set {directory} has {count}:\n{body}\nFix the files or {CSV_NAME}, then start again."
