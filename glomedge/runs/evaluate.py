"""``glomedge evaluate``: predictions against the labels of a data set, with the pipeline of ``infer``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cases.labels import LABELS_NAME, read_split, usable_labels
from glomedge.cases.matching import contradictions, copies, match_files
from glomedge.cases.metrics import CaseError, Confusion, auroc, average_precision, case_errors
from glomedge.cases.names import CaseFinder
from glomedge.cases.text import problem_report, some
from glomedge.errors import DatasetError
from glomedge.files.names import escape_name
from glomedge.files.writing import sha256_of
from glomedge.model.file import ModelFile, read_model_file
from glomedge.pipeline.inputs import Found, scan
from glomedge.runs.options import EvaluateOptions
from glomedge.runs.scores import Crops, Scored, score


@dataclass(frozen=True)
class EvaluatedCrop:
    """One labelled crop that was answered.

    Attributes:
        found: its file.
        case: its biopsy.
        label: 1 globally sclerotic, 0 not.
        probability: of the model.
        sha256: of the file's bytes, if it was read.
        activation: float32 ``[cells, cells]``; None for a network without an exact map.
    """

    found: Found
    case: str
    label: int
    probability: float
    sha256: str | None
    activation: npt.NDArray[np.float32] | None


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        crops: requested labelled crops; ``answered`` of them have a probability.
        errors: relative path -> error code of the other crops, which are excluded from all figures.
        auroc, average_precision: None if a class is missing.
        cases: %GS by labels and by calls.
        labels_sha256: of the label table, as it was read; ``split_sha256``: of the split file, None without one.
        details: the answered crops, for the validation report.
    """

    crops: int
    answered: int
    errors: dict[str, str]
    threshold: float
    provider: str
    model_sha256: str
    split: str | None
    confusion: Confusion
    auroc: float | None
    average_precision: float | None
    cases: list[CaseError]
    notes: list[str]
    labels_sha256: str
    split_sha256: str | None = None
    details: tuple[EvaluatedCrop, ...] = ()

    def mean_case_error(self) -> float | None:
        """Mean of the absolute %GS errors, in percentage points."""
        return float(np.mean([abs(case.error) for case in self.cases])) if self.cases else None

    def max_case_error(self) -> float | None:
        """Largest absolute %GS error, in percentage points."""
        return max((abs(case.error) for case in self.cases), default=None)

    def as_json(self) -> dict[str, Any]:
        """Everything, for machines."""
        return {
            "notice": RESEARCH_USE_NOTICE,
            "crops": self.crops,
            "answered": self.answered,
            "errors": self.errors,
            "threshold": self.threshold,
            "provider": self.provider,
            "model_sha256": self.model_sha256,
            "split": self.split,
            "confusion": asdict(self.confusion),
            "accuracy": self.confusion.accuracy.as_json(),
            "sensitivity": self.confusion.sensitivity.as_json(),
            "specificity": self.confusion.specificity.as_json(),
            "precision": self.confusion.precision.as_json(),
            "auroc": self.auroc,
            "average_precision": self.average_precision,
            "percent_gs_error": {"mean_absolute": self.mean_case_error(), "max_absolute": self.max_case_error()},
            "cases": [{**asdict(case), "error": case.error} for case in self.cases],
            "notes": self.notes,
        }


def find_crops(
    inputs: Sequence[Found], labels: dict[str, int], side: set[str] | None = None
) -> tuple[list[tuple[Found, int]], list[str]]:
    """Each labelled crop with its file, in the files' order, and notes: see ``find_named``."""
    file_of, notes = find_named(inputs, labels, side)
    pairs = [(found, labels[name]) for name, found in file_of.items()]
    return sorted(pairs, key=lambda pair: pair[0].relative), notes


def find_named(
    inputs: Sequence[Found], labels: dict[str, int], side: set[str] | None = None, listed_in: str = LABELS_NAME
) -> tuple[dict[str, Found], list[str]]:
    """The file of each labelled name, and notes on how the names had to be read.

    Args:
        inputs: of the folder.
        labels: by name.
        side: names in the requested split; all others are omitted.
        listed_in: name of the table, for messages.

    Raises:
        DatasetError: names without a file, that match several files or the same file, or whose label contradicts the
            class folder of their file; lists them.
    """
    paths = [os.fsdecode(found.relative) for found in inputs]
    matches = match_files(labels, paths)
    chosen = dict(matches.file_of)
    wanted = set(labels)
    if side is not None:
        on_side = match_files(side, paths)
        places = set(on_side.file_of.values())
        chosen = {name: place for name, place in chosen.items() if place in places}
        wanted = (wanted & side) | set(chosen)
    shown = {name: escape_name(os.fsencode(name)) for name in wanted}
    by_name = {name: paths[place] for name, place in chosen.items()}
    problems = {
        "labelled crops have no file": [shown[name] for name in matches.missing if name in wanted],
        "labelled names belong to several files": [shown[name] for name in matches.ambiguous if name in wanted],
        "files are listed under several names": [
            " = ".join(shown[name] for name in names) for names in matches.shared.values() if set(names) <= wanted
        ],
        "labels contradict the class folder of their crop": [
            escape_name(os.fsencode(row)) for row in contradictions(labels, by_name, list(by_name))
        ],
    }
    if any(problems.values()):
        raise DatasetError(
            problem_report("The labels and the files do not match", problems, f"Correct the folder or {listed_in}.")
        )
    return {name: inputs[place] for name, place in chosen.items()}, matches.notes(listed_in)


def _copies(crops: Sequence[tuple[str, str, int, str]]) -> list[str]:
    """Notes on crops with identical bytes: they count twice, or contradict each other."""
    under_two_labels, in_two_biopsies = copies(crops)
    return [
        f"CHECK: the same image {how} ({len(rows)} times): {some(rows, 5, '; ')}."
        for how, rows in (
            ("is listed under both labels", under_two_labels),
            ("is listed in two biopsies", in_two_biopsies),
        )
        if rows
    ]


def evaluate_folder(
    options: EvaluateOptions,
    *,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation | None:
    """Classify every labelled crop and compare; None if stopped.

    Raises:
        DatasetError: labels and files do not match.
        UsageError: an option out of range.
        GlomedgeError: the model cannot be loaded or run.
    """
    options.check()
    listed = _labelled_crops(options)
    file = read_model_file(options.model)
    scored = score(
        file, Crops(options.data, [found for found, _ in listed.crops]), options.engine,
        workers=options.workers, stop=stop, progress=progress,
    )  # fmt: skip
    return None if scored is None else _compare(options, file, listed, scored)


@dataclass(frozen=True)
class _Listed:
    """The requested crops with their labels, how table and folder were read, and what was read."""

    crops: list[tuple[Found, int]]
    notes: list[str]
    labels_sha256: str
    split_sha256: str | None


def _labelled_crops(options: EvaluateOptions) -> _Listed:
    """What is to be evaluated. Raises DatasetError."""
    from glomedge.imaging.images import ALLOWED_SUFFIXES

    side, split_sha256 = None, None
    if options.split_file is not None and options.split is not None:
        side, split_sha256 = read_split(options.split_file, options.split), sha256_of(options.split_file)
    listed = usable_labels(options.labels_file or options.data / LABELS_NAME)
    found_in = scan(options.data, ALLOWED_SUFFIXES)
    crops, notes = find_crops(found_in.inputs, listed.labels, side)
    if not crops:
        raise DatasetError(
            f"No crop of {options.data} is in split {options.split!r} of {options.split_file}. Give the split "
            "file of this data set."
        )
    return _Listed(crops, [*listed.notes, *found_in.notes(), *notes], listed.sha256, split_sha256)


def _compare(options: EvaluateOptions, file: ModelFile, listed: _Listed, scored: Scored) -> Evaluation:
    """The figures from each crop's file, label and answer."""
    answers = [(found, label, scored.answers[found]) for found, label in listed.crops]
    finder = CaseFinder([found.key for found, _ in listed.crops], options.case_pattern)
    notes = [
        *listed.notes,
        *finder.sentences(),
        *scored.runtime.notes,
        *_copies(
            [(found.key, a.sha256 or found.key, label, finder.case_of(found.key).case) for found, label, a in answers]
        ),
    ]
    if options.split is None and (file.spec.training is not None or file.spec.source is not None):
        notes.insert(
            0,
            "All labelled crops were used. If the model was trained on some of them, these figures are too optimistic: "
            "give --split-file and --split test.",
        )
    limit = options.threshold if options.threshold is not None else file.spec.threshold
    answered = [(found, label, a.probability) for found, label, a in answers if a.probability is not None]
    truth = np.array([label for _, label, _ in answered], np.int64)
    scores = np.array([probability for _, _, probability in answered], np.float64)
    calls = (scores >= limit).astype(np.int64)
    return Evaluation(
        crops=len(answers),
        answered=len(answered),
        errors={found.key: a.status.partition(":")[2] for found, _, a in answers if a.probability is None},
        threshold=limit,
        provider=scored.runtime.provider,
        model_sha256=file.sha256,
        split=options.split,
        confusion=Confusion.of(truth, calls),
        auroc=auroc(truth, scores),
        average_precision=average_precision(truth, scores),
        cases=case_errors([finder.case_of(found.key).case for found, _, _ in answered], truth, calls),
        notes=notes,
        labels_sha256=listed.labels_sha256,
        split_sha256=listed.split_sha256,
        details=tuple(
            EvaluatedCrop(found, finder.case_of(found.key).case, label, float(a.probability), a.sha256, a.activation)
            for found, label, a in answers
            if a.probability is not None
        ),
    )
