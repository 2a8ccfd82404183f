"""``glomedge label``: which crops of a folder to label, the page to label them on, and two readers made one."""

from __future__ import annotations

import csv
import hashlib
import io
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glomedge.cases.agreement import Agreement
from glomedge.cases.labels import (
    LABEL_COLUMN,
    NAME_COLUMN,
    READER_COLUMN,
    UNSURE,
    WEIGHT_COLUMN,
    SiteLabels,
    read_site_labels,
)
from glomedge.cases.names import CaseFinder, compile_case_pattern
from glomedge.cases.sampling import Chosen, choose
from glomedge.cases.text import some
from glomedge.engine.options import DEFAULT_MODEL, EngineOptions
from glomedge.errors import DatasetError, OutputError, UsageError
from glomedge.files.names import guard, neutralise
from glomedge.files.writing import check_writable, replacing, same_file, write_atomically
from glomedge.model.crop_digests import among
from glomedge.model.file import ModelFile, read_model_file
from glomedge.pipeline.inputs import Found, Scan, scan
from glomedge.pipeline.prepare import Answer
from glomedge.runs.scores import Crops, logit_of, pixels_of, score
from glomedge.system.stopping import StoppedError

if TYPE_CHECKING:
    from markupsafe import Markup

PAGE_NAME, CHOSEN_NAME, MERGED_NAME = "label.html", "chosen.csv", "merged-labels.csv"
MAX_CROPS = 1000
"""On one page; nobody labels more at a sitting, and the page holds every picture."""
_JPEG_QUALITY = 95


@dataclass(frozen=True)
class LabelOptions:
    """The options of ``glomedge label``.

    Attributes:
        folder: crops of the site.
        model: whose scores spread the choice.
        output: folder of the page and the table.
        count: how many crops to label.
        seed: of the choice.
        engine: how to open the model.
        case_pattern: see ``cases.names.case_of``.
        workers: decode threads; None: one per core.
    """

    folder: Path
    model: Path = DEFAULT_MODEL
    output: Path = Path("labelling")
    count: int = 30
    seed: int = 0
    engine: EngineOptions = field(default_factory=EngineOptions)
    case_pattern: str | None = None
    workers: int | None = None

    def check(self) -> None:
        """Reject invalid options before any work begins. Raises UsageError."""
        self.engine.check()
        if not 1 <= self.count <= MAX_CROPS:
            raise UsageError(f"-n must be 1 to {MAX_CROPS} crops, not {self.count}.")
        if self.seed < 0:
            raise UsageError(f"--seed must be 0 or more, not {self.seed}.")
        if self.workers is not None and not 1 <= self.workers <= 512:
            raise UsageError(f"--workers must be 1 to 512, not {self.workers}.")
        if self.case_pattern is not None:
            compile_case_pattern(self.case_pattern)


@dataclass(frozen=True)
class Labelling:
    """What was prepared.

    Attributes:
        page, table: the files written.
        chosen: how many crops are on the page; of ``crops`` that could be chosen, of ``cases`` of ``all_cases``
            biopsies.
        provider: that scored them.
        notes: what was left out, and how the biopsies were found.
    """

    page: Path
    table: Path
    chosen: int
    crops: int
    cases: int
    all_cases: int
    provider: str
    notes: tuple[str, ...]


def prepare_labelling(
    options: LabelOptions,
    *,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] | None = None,
) -> Labelling | None:
    """Score a folder, choose crops and write the page and ``chosen.csv``; None if stopped.

    Raises:
        DatasetError: no crop could be classified, or the model was trained on all of them.
        OutputError: the output folder cannot be written.
        GlomedgeError: the model cannot be loaded or run.
    """
    from glomedge.imaging.images import ALLOWED_SUFFIXES

    options.check()
    file = read_model_file(options.model)
    check_writable(options.output, "Choose another --output.")
    try:
        found = scan(options.folder, ALLOWED_SUFFIXES, exclude=(options.output,), stop=stop)
    except StoppedError:
        return None
    if not found.inputs:
        raise DatasetError(f"There is no image in {options.folder}. Give a folder of glomerulus crops.")
    root = Path(os.fsdecode(found.root))
    scored = score(
        file, Crops(root, found.inputs), options.engine, workers=options.workers, stop=stop, progress=progress
    )
    if scored is None:
        return None
    answers, notes = _candidates(file, [scored.answers[one] for one in found.inputs])
    finder = CaseFinder([one.key for one in found.inputs], options.case_pattern)
    cases = [finder.case_of(answer.found.key).case for answer in answers]
    chosen = choose([logit_of(file.spec, answer) for answer in answers], cases, options.count, options.seed)
    _write(options, found, file, [(answers[one.index].found, cases[one.index], one) for one in chosen])
    return Labelling(
        options.output / PAGE_NAME,
        options.output / CHOSEN_NAME,
        len(chosen),
        len(answers),
        len({cases[one.index] for one in chosen}),
        len(set(cases)),
        scored.runtime.provider,
        (*found.notes(), *notes, *finder.sentences(), *scored.runtime.notes),
    )


def _candidates(file: ModelFile, answers: Sequence[Answer]) -> tuple[list[Answer], list[str]]:
    """Crops that may be labelled: classified, and not among those that the model was trained on."""
    notes = []
    classified = [answer for answer in answers if answer.probability is not None]
    if len(classified) < len(answers):
        failed = [answer.found.key for answer in answers if answer.probability is None]
        notes.append(f"{len(failed)} crops could not be classified and are not offered: {some(failed, 5)}.")
    training = file.spec.training
    seen: set[str] = set()
    if training is not None and training.crop_digests is not None:
        seen = among(training.crop_digests, [a.sha256 for a in classified if a.sha256 is not None])
    kept = [answer for answer in classified if answer.sha256 not in seen]
    if len(kept) < len(classified):
        notes.append(f"{len(classified) - len(kept)} crops were used to train the model and are not offered.")
    if not kept:
        why = "the model was trained on all of them" if classified else "none of them could be classified"
        raise DatasetError(f"No crop is left to label: {why}. Give a folder of crops of your own site.")
    return kept, notes


def _write(options: LabelOptions, found: Scan, file: ModelFile, chosen: Sequence[tuple[Found, str, Chosen]]) -> None:
    from glomedge.reports import html

    rows = [(neutralise(one.key), f"{picked.weight:.6g}", guard(case)) for one, case, picked in chosen]
    key = hashlib.sha256(repr((file.sha256, rows)).encode()).hexdigest()
    try:
        with replacing(options.output / PAGE_NAME) as temporary, temporary.open("wb") as handle:
            pictures = _pictures(found, [one for one, _, _ in chosen])
            crops = ({"name": name, "weight": weight, "picture": next(pictures)} for name, weight, _ in rows)
            for part in html.stream("label.html", crops=crops, total=len(rows), key=key):
                handle.write(part)
        text = _table((NAME_COLUMN, WEIGHT_COLUMN, "case"), rows)
        write_atomically(options.output / CHOSEN_NAME, text.encode())
    except OSError as error:
        raise OutputError(
            f"{options.output} cannot be written: {error.strerror}. Make room or choose another --output."
        ) from None


def _pictures(found: Scan, crops: Sequence[Found]) -> Iterator[Markup]:
    """Each crop at its own size as the decoder gives it, upright and without the file's metadata."""
    import cv2

    from glomedge.reports import html

    how = [
        cv2.IMWRITE_JPEG_QUALITY,
        _JPEG_QUALITY,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
    ]
    for one in crops:
        ok, data = cv2.imencode(".jpg", cv2.cvtColor(pixels_of(found.root, one), cv2.COLOR_RGB2BGR), how)
        assert ok
        yield html.data_uri("jpeg", np.asarray(data).tobytes())


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


@dataclass(frozen=True)
class TwoReaders:
    """Two readers' labels made one.

    Attributes:
        path: of the merged table: agreed labels; ``unsure`` where they disagree.
        agreement: over the crops that both labelled.
        disagreed: names that the two labelled differently.
        alone: names that only one of them labelled; they are left out.
        readers: who they are, as far as the files say.
    """

    path: Path
    agreement: Agreement
    disagreed: tuple[str, ...]
    alone: tuple[str, ...]
    readers: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        kappa = self.agreement.kappa()
        return {
            "path": str(self.path),
            "readers": list(self.readers),
            "crops": self.agreement.crops,
            "agreed": self.agreement.agreed,
            "kappa": None if kappa is None else {"value": kappa[0], "low": kappa[1], "high": kappa[2]},
            "disagreed": list(self.disagreed),
            "labelled_by_one": list(self.alone),
        }


def merge_readers(first: Path, second: Path, output: Path) -> TwoReaders:
    """Write ``merged-labels.csv`` of the labels that two readers agree on into a folder, and count their agreement.

    Raises:
        UsageError: that file is one of the two tables.
        DatasetError: a table cannot be used, they share no crop, or give a crop two weights.
        OutputError: the folder cannot be written.
    """
    for table in (first, second):
        if same_file(output / MERGED_NAME, table):
            raise UsageError(f"{table} would be overwritten by the merged table. Choose another --output.")
    one, two = read_site_labels(first), read_site_labels(second)
    shared = [name for name in one.labels if name in two.labels]
    if not shared:
        raise DatasetError(
            f"{first} and {second} have no crop in common. Give two readers the same page of glomedge label."
        )
    differing = [name for name in shared if abs(one.weights[name] - two.weights[name]) > 1e-6 * one.weights[name]]
    if differing:
        raise DatasetError(
            f"{first} and {second} give different weights to {some(differing, 3)}: they are not of one page. "
            "Give two readers the same page of glomedge label."
        )
    check_writable(output, "Choose another --output.")
    readers = _readers(one, two)
    together = " and ".join(readers) or "two readers"
    rows = [
        (
            name,
            str(one.labels[name]) if one.labels[name] == two.labels[name] else UNSURE,
            f"{one.weights[name]:.6g}",
            neutralise(together),
        )
        for name in shared
    ]
    header = (NAME_COLUMN, LABEL_COLUMN, WEIGHT_COLUMN, READER_COLUMN)
    try:
        write_atomically(output / MERGED_NAME, _table(header, rows).encode())
    except OSError as error:
        raise OutputError(f"{output} cannot be written: {error.strerror}. Choose another --output.") from None
    return TwoReaders(
        output / MERGED_NAME,
        Agreement.of(one.labels, two.labels),
        tuple(name for name, label, _, _ in rows if label == UNSURE),
        tuple(sorted(set(one.labels) ^ set(two.labels))),
        readers,
    )


def _readers(one: SiteLabels, two: SiteLabels) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*one.readers, *two.readers)))
