"""``glomedge recalibrate``: a finished model made right for one site, from crops that were labelled there."""

from __future__ import annotations

import datetime
import math
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from glomedge.about import __version__
from glomedge.cases import recalibration
from glomedge.cases.decision import parse_rule
from glomedge.cases.labels import SiteLabels, read_site_labels
from glomedge.cases.matching import contradictions
from glomedge.cases.metrics import Confusion
from glomedge.cases.names import CaseFinder, compile_case_pattern
from glomedge.cases.text import problem_report, some
from glomedge.engine.options import EngineOptions
from glomedge.errors import DatasetError, ModelError, OutputError, UsageError
from glomedge.files.names import escape_name, neutralise
from glomedge.files.writing import check_writable, same_file, write_atomically
from glomedge.model.file import ModelFile, read_model_file, sealed
from glomedge.model.site_calibration import SiteCalibration, SiteScores
from glomedge.model.site_graph import with_site_line
from glomedge.model.spec import Golden, ModelSpec
from glomedge.pipeline.inputs import Found, scan
from glomedge.runs.evaluate import find_named
from glomedge.runs.scores import Crops, Scored, logit_of, score
from glomedge.runs.seen_crops import refuse_seen
from glomedge.runs.site_scores import NO_SCORES, reference_crops, site_scores


@dataclass(frozen=True)
class RecalibrateOptions:
    """The options of ``glomedge recalibrate``.

    Attributes:
        models: files of one model (fp32, fp16, int8), each recalibrated on its own answers.
        labels: ``labels.csv`` of ``glomedge label``, or a ``public.csv``.
        images: folder of the labelled crops.
        site: whose crops they are.
        output: the new file; with several models, the folder of the new files.
        threshold: rule, see ``decision.choose_threshold``.
        engine: how to open the models.
        case_pattern: see ``cases.names.case_of``.
        workers: decode threads; None: one per core.
    """

    models: tuple[Path, ...]
    labels: Path
    images: Path
    site: str
    output: Path
    threshold: str = "0.5"
    engine: EngineOptions = field(default_factory=EngineOptions)
    case_pattern: str | None = None
    workers: int | None = None

    def check(self) -> None:
        """Reject invalid options before any work begins. Raises UsageError."""
        self.engine.check()
        parse_rule(self.threshold)
        if self.case_pattern is not None:
            compile_case_pattern(self.case_pattern)
        if not self.site.strip() or not self.site.isprintable() or len(self.site) > 100:
            raise UsageError("--site must be the name of your laboratory, 1 to 100 printable characters.")
        if self.workers is not None and not 1 <= self.workers <= 512:
            raise UsageError(f"--workers must be 1 to 512, not {self.workers}.")
        if len(self.models) > 1 and self.output.suffix == ".onnx":
            raise UsageError(f"{len(self.models)} models give as many files: name a folder with -o, not {self.output}.")
        if len(self.models) == 1 and self.output.suffix != ".onnx":
            raise UsageError(f"The new model's name must end in .onnx: -o {self.output}.onnx")
        for path in self.outputs():
            for new in (path, _card(path)):
                for read in (*self.models, self.labels):
                    if same_file(new, read):
                        raise UsageError(
                            f"{read} is read and would be overwritten. Give the new files another name or folder with "
                            "-o, or another --site."
                        )
        if len(set(self.outputs())) < len(self.models):
            raise UsageError("Two of the models have the same file name. Recalibrate them one by one.")

    def outputs(self) -> list[Path]:
        """The new files, in the order of the models."""
        if len(self.models) == 1:
            return [self.output]
        site = re.sub(r"[^A-Za-z0-9_-]+", "-", self.site).strip("-") or "site"
        return [self.output / f"{model.stem}.{site}.onnx" for model in self.models]


def _card(path: Path) -> Path:
    """The model card of a new file."""
    return path.with_suffix(".card.md")


@dataclass(frozen=True)
class Recalibration:
    """One new file.

    Attributes:
        path: of it; its model card is beside it.
        spec: what it says of itself.
        sha256: of it, as runners name it.
        provider: that gave the answers.
        before: calls of the parent at its threshold, over the labelled crops, not weighted.
        after: calls of lines fitted without the crop's biopsy, over the same crops.
        share_before, share_after: of either, the weighted share of right calls: what all crops of the site would show.
        notes: how the labels were read.
    """

    path: Path
    spec: ModelSpec
    sha256: str
    provider: str
    before: Confusion
    after: Confusion
    share_before: float
    share_after: float
    notes: tuple[str, ...]

    @property
    def site(self) -> SiteCalibration:
        """The site's part of the spec."""
        assert self.spec.site is not None
        return self.spec.site


@dataclass(frozen=True)
class _Crops:
    """The labelled crops: file, label and weight of each, the biopsies, and how they were read.

    ``reference`` are the crops whose scores stand for the site's, labelled or not.
    """

    found: list[Found]
    reference: list[Found]
    labels: list[int]
    weights: list[float]
    listed: SiteLabels
    finder: CaseFinder
    notes: tuple[str, ...]

    def all(self) -> list[Found]:
        """Every crop that is scored, in the order of the files."""
        return sorted({*self.found, *self.reference}, key=lambda one: one.relative)


def recalibrate_models(
    options: RecalibrateOptions,
    *,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Recalibration] | None:
    """Recalibrate each model on its own answers and write the new files; None if stopped.

    Raises:
        DatasetError: labels that do not match the files, are too few, of one class, or of crops the model has seen.
        ModelError: a model that was recalibrated before, or models of different weights.
        GlomedgeError: a model cannot be loaded or run, or its new file cannot be written.
    """
    options.check()
    files = [read_model_file(path) for path in options.models]
    _check_models(files)
    crops = _labelled_crops(options)
    recalibration.check_labels(crops.labels, [crops.finder.case_of(found.key).case for found in crops.found])
    for path in options.outputs():
        check_writable(path.parent, "Choose another -o.")
    made = []
    for file, path in zip(files, options.outputs(), strict=True):
        scored = score(
            file,
            Crops(options.images, crops.all()),
            options.engine,
            workers=options.workers,
            stop=stop,
            progress=progress,
        )
        if scored is None:
            return None
        made.append(_one(options, file, crops, scored, path))
    return made


def _check_models(files: Sequence[ModelFile]) -> None:
    first = files[0]
    for file in files:
        if (site := file.spec.site) is not None:
            raise ModelError(
                f"{file.path} was recalibrated before, for {site.site!r}. Recalibrate the model that it was made from "
                f"(SHA-256 {site.parent_sha256[:12]}...)."
            )
        if file.spec.weights_sha256 != first.spec.weights_sha256:
            raise ModelError(
                f"{file.path} and {first.path} are not of one model: their weights differ. Recalibrate them in two "
                "calls."
            )
        if (file.spec.recipe, file.spec.input_scaling) != (first.spec.recipe, first.spec.input_scaling):
            raise ModelError(
                f"{file.path} and {first.path} differ in their preprocessing (recipe '{file.spec.recipe.name}' and "
                f"'{first.spec.recipe.name}'). Recalibrate them in two calls."
            )


def _labelled_crops(options: RecalibrateOptions) -> _Crops:
    from glomedge.imaging.images import ALLOWED_SUFFIXES

    listed = read_site_labels(options.labels)
    inputs = scan(options.images, ALLOWED_SUFFIXES)
    # The page writes a crop's path as predictions.csv does: such a name is the file's, whatever it looks like.
    by_cell = {neutralise(found.key): found for found in inputs.inputs}
    exact = {name: by_cell[name] for name in listed.labels if name in by_cell}
    others = {name: label for name, label in listed.labels.items() if name not in exact}
    rest, notes = find_named(inputs.inputs, others, listed_in=options.labels.name) if others else ({}, [])
    name_of = {found: name for name, found in exact.items()}
    twice = [found.key for found in rest.values() if found in name_of]
    if twice:
        raise DatasetError(f"{options.labels} lists a crop under two names: {some(twice, 5)}. Remove one of the lines.")
    by_name = {name: escape_name(one.relative) for name, one in exact.items()}
    if wrong := contradictions(listed.labels, by_name, by_name):
        raise DatasetError(
            problem_report(
                "The labels and the files do not match",
                {"labels contradict the class folder of their crop": wrong},
                f"Correct the folder or {options.labels.name}.",
            )
        )
    name_of |= {found: name for name, found in rest.items()}
    found = sorted(name_of, key=lambda one: one.relative)
    finder = CaseFinder([one.key for one in inputs.inputs], options.case_pattern)
    weights = [listed.weights[name_of[one]] for one in found]
    return _Crops(
        found,
        reference_crops(inputs.inputs, finder, weights),
        [listed.labels[name_of[one]] for one in found],
        weights,
        listed,
        finder,
        (*listed.notes, *inputs.notes(), *notes, *finder.sentences()),
    )


def _one(options: RecalibrateOptions, file: ModelFile, crops: _Crops, scored: Scored, path: Path) -> Recalibration:
    """Fit one model and write its new file."""
    answers = [scored.answers[found] for found in crops.found]
    kept = [index for index, answer in enumerate(answers) if answer.probability is not None]
    notes = list(crops.notes)
    failed = [answer for answer in answers if answer.probability is None]
    if failed:
        why = ", ".join(sorted({answer.status.partition(":")[2] for answer in failed}))
        names = some((answer.found.key for answer in failed), 2)
        notes.append(f"{len(failed)} labelled crops could not be classified ({why}) and are left out: {names}.")
    if file.spec.training is not None:
        refuse_seen(file, file.spec.training, options.images, answers)
    cases = [crops.finder.case_of(answers[index].found.key).case for index in kept]
    labels = [crops.labels[index] for index in kept]
    try:
        recalibration.check_labels(labels, cases)
    except DatasetError:
        # All labelled crops were enough, so it is for those that failed.
        raise DatasetError(
            f"{notes[-1]} The other {len(kept)} are too few. Mend these files or label others."
        ) from None
    labelled = recalibration.of_crops(
        [logit_of(file.spec, answers[index]) for index in kept],
        labels,
        [crops.weights[index] for index in kept],
        cases,
    )
    result = recalibration.recalibrate(labelled, options.threshold)
    line = result.line.slope, result.line.offset
    reference = [scored.answers[found] for found in crops.reference]
    scores = site_scores(file.spec, line, result.threshold, reference, crops.finder)
    if scores is None:
        notes.append(NO_SCORES)
    spec = _spec(options, file, crops, labelled, result, scores)
    sha256 = _write(path, file, spec, options.engine)
    before = np.array([answers[index].probability for index in kept], np.float64) >= file.spec.threshold
    weights = labelled.weights / labelled.weights.sum()
    was, now = (float(weights[labelled.labels == calls].sum()) for calls in (before, result.calls))
    if now < was:
        notes.append(
            f"CHECK: {path.name} calls fewer crops right than before, with each biopsy left out. Label more crops, or "
            "keep the model as it was."
        )
    return Recalibration(
        path,
        spec,
        sha256,
        scored.runtime.provider,
        Confusion.of(labelled.labels, before.astype(np.int64)),
        Confusion.of(labelled.labels, result.calls),
        was,
        now,
        tuple(notes),
    )


def _spec(
    options: RecalibrateOptions,
    file: ModelFile,
    crops: _Crops,
    labelled: recalibration.Labelled,
    result: recalibration.Recalibrated,
    scores: SiteScores | None,
) -> ModelSpec:
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    # The graph's constants are float32: the spec says the same numbers.
    slope, offset = float(np.float32(result.line.slope)), float(np.float32(result.line.offset))
    site = SiteCalibration(
        site=options.site.strip(),
        created_utc=now,
        parent_sha256=file.sha256,
        readers=crops.listed.readers,
        labels_sha256=crops.listed.sha256,
        crops=len(labelled.labels),
        positive=int(labelled.labels.sum()),
        cases=len(set(labelled.cases)),
        effective_crops=recalibration.effective_size(labelled.weights),
        slope=slope,
        offset=offset,
        covariance=result.line.covariance,
        prior_log_slope_sd=recalibration.LOG_SLOPE_SD,
        prior_offset_sd=recalibration.OFFSET_SD,
        threshold_rule=options.threshold,
        scores=scores,
    )
    parent = file.spec
    source = parent.source
    if source is not None:
        source = source.model_copy(update={"threshold_from": "measured", "temperature_from": "measured"})
    changed = {
        "schema_version": 2,
        "producer": f"glomedge {__version__}",
        "created_utc": now,
        "threshold": result.threshold,
        "operating_point": result.operating_point,
        "site": site,
        "source": source,
        "golden": shifted_golden(parent.golden, slope, offset),
    }
    return ModelSpec.model_validate({**dict(parent), **changed})


def shifted_golden(golden: Golden, slope: float, offset: float) -> Golden:
    """The self-test of the recalibrated file: the same pixels, the probability and its tolerance carried over.

    The probability is worked out rather than measured, so that it stays the one of the exporting machine. The
    tolerance grows with how much steeper the new probability is there; it never shrinks.
    """
    p = min(max(golden.probability, 1e-7), 1.0 - 1e-7)
    logit = slope * math.log(p / (1.0 - p)) + offset
    new = 1.0 / (1.0 + math.exp(-logit)) if logit >= 0 else math.exp(logit) / (1.0 + math.exp(logit))
    steeper = slope * new * (1.0 - new) / (p * (1.0 - p))
    tolerance = min(0.5, golden.probability_tolerance * max(1.0, steeper))
    return golden.model_copy(update={"probability": new, "probability_tolerance": tolerance})


def _write(path: Path, file: ModelFile, spec: ModelSpec, engine: EngineOptions) -> str:
    """Write the new file and its card; it appears only once it has been loaded and has passed its self-test."""
    from glomedge.engine.loading import open_engine
    from glomedge.reports import model_card

    assert spec.site is not None
    if not file.unchanged():
        raise ModelError(f"{file.path} was replaced while it was running. Run the command again.")
    data = sealed(with_site_line(file.path, spec.site.slope, spec.site.offset), spec)
    with _naming(path):
        scratch = tempfile.TemporaryDirectory(prefix=f".{path.stem}.", dir=path.parent, ignore_cleanup_errors=True)
    with scratch as folder:
        new = Path(folder) / path.name
        with _naming(path):
            write_atomically(new, data)
        with open_engine(new, engine) as opened:
            sha256 = opened.file.sha256
        with _naming(path):
            new.replace(path)
    card = _card(path)
    with _naming(card, f"The model {path.name} itself is complete. "):
        write_atomically(card, model_card.markdown(spec, path.name, sha256).encode())
    return sha256


@contextmanager
def _naming(path: Path, before: str = "") -> Iterator[None]:
    """Turn an OSError into an OutputError that names the file."""
    try:
        yield
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written: {error.strerror}. {before}Make room or choose another -o."
        ) from None
