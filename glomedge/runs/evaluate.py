"""``glomedge evaluate``: the model's answers against the labels of a data set, by the pipeline that ``infer`` uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cases.labels import LABELS_NAME, read_labels, read_split
from glomedge.cases.metrics import CaseError, Confusion, auroc, average_precision, case_errors
from glomedge.errors import DatasetError
from glomedge.files.names import escape_name
from glomedge.model.file import ModelFile, read_model_file
from glomedge.pipeline.inputs import Found, scan
from glomedge.pipeline.prepare import Answer
from glomedge.pipeline.settings import Settings
from glomedge.runs.options import EvaluateOptions
from glomedge.runs.pipeline_run import PipelineRun

if TYPE_CHECKING:
    from glomedge.engine.engine import Runtime


@dataclass(frozen=True)
class Evaluation:
    """What was found.

    Attributes:
        crops: labelled crops asked for; ``answered`` of them have a probability.
        errors: relative path -> error code of the others; they are in no figure.
        auroc, average_precision: None where a class is missing.
        cases: %GS by labels and by calls.
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


def find_crops(inputs: Sequence[Found], labels: dict[str, int]) -> list[tuple[Found, int]]:
    """Each labelled crop with its file, in the files' order. Raises DatasetError listing missing and doubled names."""
    by_name: dict[str, list[Found]] = {}
    for found in inputs:
        by_name.setdefault(os.fsdecode(found.relative.rpartition(b"/")[2]), []).append(found)
    missing = [name for name in labels if name not in by_name]
    doubled = [name for name in labels if len(by_name.get(name, ())) > 1]
    problems = [f"{len(missing)} labelled crops have no file: {_some(missing)}"] if missing else []
    if doubled:
        problems.append(f"{len(doubled)} labelled names belong to several files: {_some(doubled)}")
    if problems:
        raise DatasetError(f"{'; '.join(problems)}. Put them right in the folder or in {LABELS_NAME}.")
    chosen = [(by_name[name][0], label) for name, label in labels.items()]
    return sorted(chosen, key=lambda pair: pair[0].relative)


def _some(names: list[str]) -> str:
    shown = ", ".join(escape_name(os.fsencode(name)) for name in names[:10])
    return shown + (f" and {len(names) - 10} more" if len(names) > 10 else "")


class MemorySink:
    """Keeps the answers of a data set small enough to be labelled by hand."""

    def __init__(self) -> None:
        self.answers: dict[Found, Answer] = {}

    def start(self, batch: Sequence[Found]) -> None:
        """Nothing to note."""

    def rows(self, answers: Sequence[Answer]) -> None:
        """Keep one batch; ``dict.update`` is atomic, so run threads need no lock."""
        self.answers.update({answer.found: answer for answer in answers})

    def sync(self) -> None:
        """Nothing to put on disk."""


def evaluate_folder(
    options: EvaluateOptions,
    *,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation | None:
    """Predict on every labelled crop and compare; None when stopped.

    Raises:
        DatasetError: labels and files do not fit.
        UsageError: an option out of range.
        GlomedgeError: the model cannot be loaded or run.
    """
    from glomedge.engine.providers import batch_of, run_threads
    from glomedge.imaging.images import ALLOWED_SUFFIXES
    from glomedge.system.cpu import usable_cpus

    options.check()
    labels = _labels(options)
    crops = find_crops(scan(options.data, ALLOWED_SUFFIXES).inputs, labels)
    file = read_model_file(options.model)
    settings = Settings(
        file.spec.recipe,
        batch_of(options.engine),
        decode_workers=options.workers or usable_cpus(),
        run_threads=run_threads(options.engine),
    )
    sink = MemorySink()
    run = PipelineRun(
        file,
        options.engine,
        settings,
        stop=stop,
        progress=None if progress is None else lambda done: progress(done, len(crops)),
    )
    inputs = [found for found, _ in crops]
    try:
        if not run.run(os.fsencode(options.data), inputs, sink, new=inputs):
            return None
        assert run.engine is not None
        runtime = run.engine.runtime
    finally:
        run.close()
    return _compare(options, file, [(found, label, sink.answers[found]) for found, label in crops], runtime)


def _labels(options: EvaluateOptions) -> dict[str, int]:
    """The labels asked for, those of one side where a split is given. Raises DatasetError."""
    labels = read_labels(options.labels_file or options.data / LABELS_NAME)
    if options.split_file is None or options.split is None:
        return labels
    side = read_split(options.split_file, options.split)
    labels = {name: label for name, label in labels.items() if name in side}
    if not labels:
        raise DatasetError(
            f"No crop of {options.data} is in split {options.split!r} of {options.split_file}. Name the matching split "
            "file."
        )
    return labels


def _compare(
    options: EvaluateOptions, file: ModelFile, answers: Sequence[tuple[Found, int, Answer]], runtime: Runtime
) -> Evaluation:
    """The figures from each crop's file, label and answer."""
    from glomedge.cases.summary import case_of

    notes = list(runtime.notes)
    if options.split is None and file.spec.training is not None:
        notes.insert(
            0,
            "All labelled crops were used. If the model was trained on some of them these figures flatter it: give "
            "--split-file and --split test.",
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
        provider=runtime.provider,
        model_sha256=file.sha256,
        split=options.split,
        confusion=Confusion.of(truth, calls),
        auroc=auroc(truth, scores),
        average_precision=average_precision(truth, scores),
        cases=case_errors([case_of(found.key, options.case_pattern).case for found, _, _ in answered], truth, calls),
        notes=notes,
    )
