"""``glomedge evaluate``: the model's answers against the labels of a data set, by the pipeline that ``infer`` uses."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cases.labels import LABELS_NAME, read_labels, read_split
from glomedge.cases.metrics import CaseError, Confusion, auroc, average_precision, case_errors
from glomedge.engine import loading
from glomedge.errors import DatasetError, UsageError
from glomedge.files.names import escape_name
from glomedge.model.file import read_model_file
from glomedge.pipeline.batching import batches
from glomedge.pipeline.inputs import Found, scan
from glomedge.pipeline.pipeline import Pipeline
from glomedge.pipeline.prepare import Answer
from glomedge.pipeline.settings import Settings


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
    data: Path,
    model: Path,
    *,
    provider: str = "auto",
    allow_fallback: bool = False,
    strict_placement: bool = False,
    labels_file: Path | None = None,
    split_file: Path | None = None,
    split: str | None = None,
    threshold: float | None = None,
    case_pattern: str | None = None,
    batch_size: int | None = None,
    workers: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation | None:
    """Predict on every labelled crop and compare; None when stopped.

    Raises:
        DatasetError: labels and files do not fit.
        UsageError: an option out of range.
        GlomedgeError: the model cannot be loaded or run.
    """
    import cv2

    from glomedge.cases.summary import case_of
    from glomedge.engine import engine
    from glomedge.engine.providers import run_threads, runs_on_gpu, usual_batch
    from glomedge.imaging.images import ALLOWED_SUFFIXES
    from glomedge.system.cpu import usable_cpus

    if (split_file is None) != (split is None):
        raise UsageError("--split-file and --split go together. Example: --split-file artifacts/split.csv --split test")
    if threshold is not None and not 0.0 < threshold < 1.0:
        raise UsageError(f"--threshold must lie between 0 and 1, not {threshold:g}.")
    labels = read_labels(labels_file or data / LABELS_NAME)
    notes: list[str] = []
    if split_file is not None and split is not None:
        side = read_split(split_file, split)
        labels = {name: label for name, label in labels.items() if name in side}
        if not labels:
            raise DatasetError(
                f"No crop of {data} is in split {split!r} of {split_file}. Name the matching split file."
            )
    crops = find_crops(scan(data, ALLOWED_SUFFIXES).inputs, labels)
    file = read_model_file(model)
    if split is None and file.spec.training is not None:
        notes.append(
            "All labelled crops were used. If the model was trained on some of them these figures flatter it: give "
            "--split-file and --split test."
        )
    size = batch_size or usual_batch(provider, allow_fallback)
    callers = run_threads(provider, allow_fallback)
    settings = Settings(file.spec.recipe, size, decode_workers=workers or usable_cpus(), run_threads=callers)
    sink = MemorySink()
    loaded: list[engine.Engine] = []

    def load() -> engine.Engine:
        loaded.append(
            loading.load(
                model,
                provider,
                allow_fallback=allow_fallback,
                strict_placement=strict_placement,
                concurrency=callers,
                batch_size=size,
            )
        )
        return loaded[0]

    threads_before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        pipeline = Pipeline(
            os.fsencode(data),
            settings,
            load,
            sink,
            stop=stop,
            progress=None if progress is None else lambda done: progress(done, len(crops)),
        )
        inputs = [found for found, _ in crops]
        if not pipeline.run(batches(inputs, inputs, (), size, taper=not runs_on_gpu(provider, allow_fallback))):
            return None
        notes += loaded[0].runtime.notes
        ran = loaded[0].provider
    finally:
        cv2.setNumThreads(threads_before)
        for held in loaded:
            held.close()
    limit = threshold if threshold is not None else file.spec.threshold
    good = [(found, label, sink.answers[found]) for found, label in crops]
    answered = [(found, label, a.probability) for found, label, a in good if a.probability is not None]
    truth = np.array([label for _, label, _ in answered], np.int64)
    scores = np.array([probability for _, _, probability in answered], np.float64)
    calls = (scores >= limit).astype(np.int64)
    return Evaluation(
        crops=len(crops),
        answered=len(answered),
        errors={found.key: a.status.partition(":")[2] for found, _, a in good if a.probability is None},
        threshold=limit,
        provider=ran,
        model_sha256=file.sha256,
        split=split,
        confusion=Confusion.of(truth, calls),
        auroc=auroc(truth, scores),
        average_precision=average_precision(truth, scores),
        cases=case_errors([case_of(found.key, case_pattern).case for found, _, _ in answered], truth, calls),
        notes=notes,
    )
