"""The labelled data set, checked completely before anything is trained on it.

    DIR/public.csv                          columns `name`, `ground truth` (0 or 1)
    DIR/globally_sclerotic_glomeruli/       the crops labelled 1, in subfolders if wanted
    DIR/non_globally_sclerotic_glomeruli/   the crops labelled 0

Every problem is found and listed at once. Nothing here imports TensorFlow, so that bad data is rejected in a second.
"""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt

from glomedge.cases.labels import LABELS_NAME, TableError, parse_labels
from glomedge.cases.matching import class_folder_label, copies, match_files
from glomedge.cases.names import CaseFinder
from glomedge.cases.text import Problems, some
from glomedge.errors import DatasetError, ImageError, UsageError
from glomedge.imaging import images
from glomedge.model.crop_digests import data_sha256
from glomedge.pipeline.inputs import scan

CSV_NAME = LABELS_NAME
# Index is the label.
FOLDERS = ("non_globally_sclerotic_glomeruli", "globally_sclerotic_glomeruli")
# Each of train, validation and test must contain crops of both labels, from separate biopsies.
MIN_CASES = 3


@dataclass(frozen=True)
class Item:
    """One labelled crop.

    Attributes:
        name: file name as listed in public.csv.
        path: its file.
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
        notes: how the table was read and the biopsies were found, what was left out, what to check; for a person.
    """

    directory: Path
    items: tuple[Item, ...]
    case_pattern: str | None = None
    notes: tuple[str, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Hash of the training data: names, labels and file contents, but not their location."""
        return data_sha256((item.name, item.label, item.sha256) for item in self.items)

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """int64 ``[N]``, 0 or 1."""
        return np.array([item.label for item in self.items], np.int64)

    @cached_property
    def cases(self) -> npt.NDArray[np.str_]:
        """The biopsy of each crop, ``[N]``."""
        return np.array([item.case for item in self.items])


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
        case_pattern: see ``glomedge.cases.case_of``; the class folder counts as a folder of the path.
        min_cases: how many biopsies each label must come from (0: not checked).
        known_good: asked with the data set's SHA-256 whether these very bytes were decoded before; where it says
            True decoding is not repeated.

    Raises:
        DatasetError: lists every problem found, at most 20 of each kind.
        UsageError: the pattern is not usable, or fits no name.
    """
    directory = Path(directory)
    problems = Problems()
    notes: list[str] = []
    files = _scan(directory, problems, notes)
    labels = _read_csv(directory / CSV_NAME, problems, notes)
    chosen = _match(files, labels, problems, notes)
    finder = CaseFinder([place for _, place, _ in chosen], case_pattern)
    items = _hash_and_decode(directory, sorted(chosen), finder, problems, known_good)
    _check_copies(items, problems, notes, refuse_leaks=min_cases > 0)
    for problem in _too_few(items, labels, min_cases):
        problems.add("too few", problem)
    if problems:
        raise DatasetError(
            problems.message(f"The data set {directory}", f"Fix the files or {CSV_NAME}, then start again.")
        )
    return Dataset(directory, items, case_pattern, (*notes, *(finder.sentences() if items else ())))


def _scan(directory: Path, problems: Problems, notes: list[str]) -> list[str]:
    """Every image below the two class folders, as its path below ``directory``, ``/`` between folders."""
    files: list[str] = []
    if not directory.is_dir():
        problems.add("folder", f"{directory} is not a folder")
        return files
    for folder in FOLDERS:
        try:
            # Data sets are often folders of links to the crops.
            found = scan(directory / folder, images.ALLOWED_SUFFIXES, follow_symlinks=True)
        except UsageError:
            reason = "No such file or directory" if not (directory / folder).exists() else "it cannot be listed"
            problems.add("folder", f"folder {folder}: {reason}")
            continue
        if not found.inputs:
            problems.add("folder", f"folder {folder}: contains no image")
        for item in found.inputs:
            path = f"{folder}/{os.fsdecode(item.relative)}"
            if item.error is None:
                files.append(path)
            else:
                problems.add("unreadable", f"{path}: {item.error}")
        notes += [f"{folder}: {note}" for note in found.notes()]
    return files


def _match(
    files: Sequence[str], labels: dict[str, int], problems: Problems, notes: list[str]
) -> list[tuple[str, str, int]]:
    """Name, path and label of every listed crop; everything that does not fit becomes a problem."""
    matches = match_files(labels, files)
    chosen = [(name, files[place], labels[name]) for name, place in matches.file_of.items()]
    for name in matches.missing:
        problems.add("missing", f"{name}: in {CSV_NAME} but in neither folder")
    for name, places in matches.ambiguous.items():
        if len({class_folder_label(files[place]) for place in places}) > 1:
            problems.add("ambiguous", f"{name}: the same name is in both folders")
        else:
            problems.add("ambiguous", f"{name}: may be {some([files[place] for place in places], 3, ' or ')}")
        chosen.append((name, files[places[0]], labels[name]))
    for names in matches.shared.values():
        problems.add("shared", f"{' and '.join(names)}: listed separately in {CSV_NAME}, but the same file")
    placed = {name: files[place] for name, place in matches.file_of.items()}
    for name, path in placed.items():
        in_folder = class_folder_label(path)
        if in_folder is not None and in_folder != labels[name]:
            problems.add(
                "contradiction", f"{name}: labelled {labels[name]} in {CSV_NAME} but is in {FOLDERS[in_folder]}"
            )
    if labels:
        known = {*matches.file_of.values(), *(place for places in matches.ambiguous.values() for place in places)}
        for place, path in enumerate(files):
            if place not in known:
                folder, _, name = path.partition("/")
                problems.add("unlisted", f"{name}: is in {folder} but not in {CSV_NAME}")
    notes += matches.notes(CSV_NAME)
    return chosen


def _check_copies(items: Sequence[Item], problems: Problems, notes: list[str], *, refuse_leaks: bool) -> None:
    """Identical bytes under two labels are contradictory; in two biopsies they may be on both sides of the split."""
    under_two_labels, in_two_biopsies = copies((item.name, item.sha256, item.label, item.case) for item in items)
    for row in under_two_labels:
        problems.add("two labels", f"the same image under two labels: {row}")
    for row in in_two_biopsies:
        if refuse_leaks:
            problems.add("two biopsies", f"the same image in two biopsies: {row}")
    if in_two_biopsies and not refuse_leaks:
        listed = some(in_two_biopsies, 5, "; ")
        notes.append(f"CHECK: {len(in_two_biopsies)} images are listed in two biopsies each: {listed}.")


def _read_csv(path: Path, problems: Problems, notes: list[str]) -> dict[str, int]:
    """Name -> label of every usable row."""
    try:
        found = parse_labels(path)
    except TableError as error:
        problems.add("table", f"{CSV_NAME}: {error.reason}")
        return {}
    if not found.labels and not found.problems:
        problems.add("table", f"{CSV_NAME}: contains no rows")
    for problem in found.problems:
        problems.add("rows", f"{CSV_NAME} {problem}")
    notes += found.notes
    return found.labels


def _hash_and_decode(
    directory: Path,
    chosen: Sequence[tuple[str, str, int]],
    finder: CaseFinder,
    problems: Problems,
    known_good: Callable[[str], bool] | None,
) -> tuple[Item, ...]:
    """Two passes, so that bytes decoded in an earlier run cost a hash only (the second read is from memory)."""

    def hash_one(entry: tuple[str, str, int]) -> Item | str:
        name, place, label = entry
        path = directory / place
        try:
            digest = hashlib.sha256(images.read(path)).hexdigest()
        except ImageError as error:
            return f"{name}: {error}"
        case, slide = finder.case_of(place)
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
        failed = [entry for entry in hashed if isinstance(entry, str)]
        sha256 = data_sha256((item.name, item.label, item.sha256) for item in items)
        if known_good is None or not known_good(sha256):
            failed += [message for message in pool.map(decode_one, items) if message is not None]
    for message in failed:
        problems.add("unreadable", message)
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
