"""``glomedge infer``: a folder of crops in, a folder of results out, nothing lost on the way."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glomedge.casenames import compile_case_pattern
from glomedge.errors import OutputError, UsageError
from glomedge.escape import escape_name, unescape_name
from glomedge.journal import Contents, Identity, Journal, read_entries, read_journal
from glomedge.modelfile import ModelFile, read_model_file
from glomedge.outputs import FolderSink, OutputFolder, Plan, plan, unanswered
from glomedge.pipeline import Pipeline, Settings, StageTimes
from glomedge.preparing import Decoder
from glomedge.results import FORMATS, Row
from glomedge.scan import Found, Scan, scan
from glomedge.spool import Spool

if TYPE_CHECKING:
    from glomedge.cases import CaseSummary
    from glomedge.engine import Engine

OWNED = ("predictions.csv", "predictions.jsonl", "predictions.parquet", "cases.csv", "report.html", "run.json")
HEATMAP_CHOICES = ("positives", "uncertain", "all")
THUMBNAIL_PX = 112
DECODE_CHOICES = ("auto", "threads", "processes")
PROCESSES_FROM = 4
_GPU_PROVIDERS = ("cuda", "tensorrt", "tensorrt-rtx")


@dataclass(frozen=True)
class Options:
    """What ``glomedge infer`` was asked for; see ``cli/infer.py`` for the meaning of each."""

    folder: Path
    model: Path = Path("artifacts/model.onnx")
    output: Path = Path("predictions")
    provider: str = "auto"
    allow_fallback: bool = False
    strict_placement: bool = False
    batch_size: int | None = None
    workers: int | None = None
    threshold: float | None = None
    formats: tuple[str, ...] = ("csv",)
    resume: bool = False
    overwrite: bool = False
    follow_symlinks: bool = False
    case_pattern: str | None = None
    exclude_flagged: bool = False
    review_band: tuple[float, float] = (0.2, 0.8)
    tta: int = 1
    heatmaps: Path | None = None
    heatmaps_for: str = "positives"
    decode_timeout_s: float = 30.0
    decode_in: str = "auto"
    report: bool = True

    def check(self) -> None:
        """Raises UsageError on a value that cannot be carried out."""
        low, high = self.review_band
        problems = [
            (self.threshold is not None and not 0.0 < self.threshold < 1.0, "--threshold must lie between 0 and 1"),
            (not 0.0 <= low <= high <= 1.0, "--review-band must be two probabilities, such as 0.2..0.8"),
            (self.tta not in (1, 8), "--tta must be 1 or 8"),
            (self.batch_size is not None and not 1 <= self.batch_size <= 1024, "--batch-size must be 1 to 1024"),
            (self.workers is not None and not 1 <= self.workers <= 512, "--workers must be 1 to 512"),
            (not self.decode_timeout_s > 0, "--decode-timeout must be more than 0 seconds"),
            (self.resume and self.overwrite, "--resume and --overwrite exclude each other"),
            (self.decode_in not in DECODE_CHOICES, f"--decode-in must be one of {', '.join(DECODE_CHOICES)}"),
            (self.heatmaps_for not in HEATMAP_CHOICES, f"--heatmaps-for must be one of {', '.join(HEATMAP_CHOICES)}"),
        ]
        problems += [
            (name not in FORMATS, f"--format {name!r} is unknown: use csv, jsonl or parquet") for name in self.formats
        ]
        for wrong, message in problems:
            if wrong:
                raise UsageError(f"{message}. See: glomedge infer --help")
        if self.case_pattern is not None:
            compile_case_pattern(self.case_pattern)


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        complete: False when it was stopped; then there are no files but the journal, for ``--resume``.
        inputs: how many were found; ``answered`` of them have a row by now, ``predicted`` more than when it began.
        counts: rows by kind (``ok``, ``flagged``, ``error``, ``positive``, ``negative``, ``uncertain``).
        errors: rows by error code.
        cases: the summaries of the biopsies.
        files: what was written.
        record: the content of ``run.json``.
        hung: threads that sit in a library and do not come back.
    """

    complete: bool
    inputs: int
    answered: int
    predicted: int
    provider: str
    counts: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    cases: list[CaseSummary] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    times: StageTimes = field(default_factory=StageTimes)
    wall_s: float = 0.0
    hung: int = 0

    @property
    def exit_code(self) -> int:
        """0 all predicted on, 2 some errors (FAULTS)."""
        return 2 if self.errors else 0


def default_batch_size(provider: str) -> int:
    """4 on a CPU (fastest for int8 with one run thread a core), 32 where a GPU was asked for."""
    return 32 if provider in _GPU_PROVIDERS else 4


def infer_folder(
    options: Options,
    *,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] | None = None,
    decoder: Decoder | None = None,
) -> Outcome:
    """Run a folder.

    Args:
        stop: asked many times a second; once true the run ends early, resumable.
        progress: called with answered and total.
        decoder: for tests.

    Raises:
        GlomedgeError: whatever keeps the run from going on; files of an earlier run are then untouched.
    """
    options.check()
    begin_s = time.perf_counter()
    found = scan(
        options.folder,
        _suffixes(),
        follow_symlinks=options.follow_symlinks,
        exclude=[path for path in (options.output, options.heatmaps) if path is not None],
    )
    if not found.inputs:
        raise UsageError(
            f"There is no image in {options.folder} ({found.other_files} other files). Name the folder with the crops."
        )
    output = OutputFolder(options.output, len(found.inputs))
    try:
        return _FolderRun(options, found, output, stop, progress, decoder, begin_s).run()
    finally:
        output.close()


def _suffixes() -> frozenset[str]:
    from glomedge.images import ALLOWED_SUFFIXES

    return ALLOWED_SUFFIXES


class _FolderRun:
    def __init__(
        self,
        options: Options,
        found: Scan,
        output: OutputFolder,
        stop: Callable[[], bool],
        progress: Callable[[int, int], None] | None,
        decoder: Decoder | None,
        begin_s: float,
    ) -> None:
        self._options = options
        self._found = found
        self._output = output
        self._stop = stop
        self._progress = progress
        self._decoder = decoder
        self._begin_s = begin_s
        self._model: ModelFile = read_model_file(options.model)
        self._threshold = options.threshold if options.threshold is not None else self._model.spec.threshold
        self._engine: Engine | None = None
        self._times = StageTimes()
        self._hung = 0

    def run(self) -> Outcome:
        plan_ = plan(
            self._output.journal_path, self._identity(), resume=self._options.resume, overwrite=self._options.overwrite
        )
        journal = Journal(self._output.journal_path, plan_.contents.good_bytes)
        try:
            spool = None
            if self._options.report or self._options.heatmaps is not None:
                spool = Spool(self._output.spool_path, fresh=plan_.contents.good_bytes == 0)
            try:
                return self._run(plan_, journal, spool)
            finally:
                if spool is not None:
                    spool.close()
                if self._engine is not None:
                    self._engine.close()
        finally:
            journal.close()

    def _identity(self) -> Identity:
        options = self._options
        return Identity(
            folder=escape_name(bytes(options.folder.resolve())),
            model_sha256=self._model.sha256,
            recipe=self._model.spec.recipe.model_dump_json(),
            threshold=self._threshold,
            tta=options.tta,
            batch_size=options.batch_size or default_batch_size(options.provider),
        )

    def _run(self, plan_: Plan, journal: Journal, spool: Spool | None) -> Outcome:
        if plan_.contents.identity is None:
            journal.head(plan_.identity)
        new, again = unanswered(self._found.root, self._found.inputs, plan_.contents)
        notes = [*self._found.notes(), *plan_.notes]
        new, again, quarantined = self._quarantine(plan_.contents, new, again)
        notes += quarantined
        already = len(self._found.inputs) - len(new) - len(again)
        sink = FolderSink(journal, spool)
        complete, provider = True, plan_.contents.provider
        if new or again:
            complete = self._answer(plan_, journal, sink, new, again, already)
            if self._engine is not None:
                provider = self._engine.provider
                notes += self._engine.runtime.notes
        journal.sync()
        contents = read_journal(self._output.journal_path)
        outcome = Outcome(
            complete=complete,
            inputs=len(self._found.inputs),
            answered=len(contents.where),
            predicted=len(contents.where) - len(plan_.contents.where),
            provider=provider or "none",
            notes=notes,
            times=self._times,
            hung=self._hung,
        )
        if complete:
            from glomedge.publish import Publication

            Publication(self._options, self._model, self._threshold, outcome, self._found, self._engine, spool).write(
                lambda: self._rows(contents, outcome.provider), plan_.identity.batch_size, self._begin_s
            )
            journal.done(len(contents.where))
        outcome.wall_s = time.perf_counter() - self._begin_s
        return outcome

    def _quarantine(
        self, contents: Contents, new: list[Found], again: list[Found]
    ) -> tuple[list[Found], list[Found], list[str]]:
        """After a crash, decode what was open then in a child process first; who kills it is not opened here again."""
        suspects = [found for found in (*new, *again) if found.error is None and found.key in contents.suspects]
        if not suspects:
            return new, again, []
        from glomedge.quarantine import find_killers

        paths = [self._found.path(found) for found in suspects]
        if self._options.follow_symlinks:
            paths = [os.path.realpath(path) for path in paths]
        killers = {suspects[index] for index in find_killers(paths, self._options.decode_timeout_s)}

        def marked(inputs: list[Found]) -> list[Found]:
            return [Found(found.relative, "decoder") if found in killers else found for found in inputs]

        notes = [f"{found.key} ends the decoder and was set aside." for found in sorted(killers)]
        return marked(new), marked(again), notes

    def _answer(
        self, plan_: Plan, journal: Journal, sink: FolderSink, new: list[Found], again: list[Found], already: int
    ) -> bool:
        import cv2

        from glomedge import engine
        from glomedge.hardware import usable_cpus

        options, size = self._options, plan_.identity.batch_size
        cpus = usable_cpus()
        gpu = options.provider in _GPU_PROVIDERS
        run_threads = 2 if gpu else min(cpus, 8)
        workers = options.workers or cpus
        settings = Settings(
            recipe=self._model.spec.recipe,
            batch_size=size,
            decode_workers=workers,
            decode_processes=self._decode_in_processes(workers),
            run_threads=run_threads,
            decode_timeout_s=options.decode_timeout_s,
            views=options.tta,
            thumbnail_px=THUMBNAIL_PX if options.report else 0,
            follow_symlinks=options.follow_symlinks,
        )

        def load() -> Engine:
            self._engine = engine.load(
                options.model,
                options.provider,
                allow_fallback=options.allow_fallback,
                strict_placement=options.strict_placement,
                concurrency=run_threads,
                batch_size=size,
            )
            before = plan_.contents.provider
            if before is not None and before != self._engine.provider:
                raise OutputError(
                    f"The run in {options.output} cannot be resumed with another provider: {before} in the unfinished "
                    f"run, {self._engine.provider} now. Use --provider {before}, or start over with --overwrite."
                )
            if self._engine.file.sha256 != self._model.sha256:
                raise OutputError(f"{options.model} was replaced while the run began. Start again.")
            journal.engine(self._engine.provider)
            return self._engine

        total = len(self._found.inputs)
        progress = self._progress
        pipeline = Pipeline(
            self._found.root,
            settings,
            load,
            sink,
            stop=self._stop,
            progress=None if progress is None else lambda done: progress(already + done, total),
            decoder=self._decoder,
        )
        self._times = pipeline.times
        # Many decoders at once are faster than one decoder with many threads.
        threads_before = cv2.getNumThreads()
        cv2.setNumThreads(1)
        try:
            complete = pipeline.run(itertools.chain(_chunks(new, size), _chunks(again, size)))
        finally:
            cv2.setNumThreads(threads_before)
        self._hung = pipeline.hung
        return complete

    def _decode_in_processes(self, workers: int) -> bool:
        """Threads are cheaper; but a decoder that holds the interpreter lock keeps more than three of them waiting."""
        if self._decoder is not None or not hasattr(os, "memfd_create"):
            return False
        if self._options.decode_in == "auto":
            from glomedge.decoders import fast_png_decoder

            return workers >= PROCESSES_FROM and fast_png_decoder() is not None
        return self._options.decode_in == "processes"

    def _rows(self, contents: Contents, provider: str) -> Iterator[Row]:
        """Every row, sorted by the bytes of the path, straight from the journal on disk."""
        from glomedge.cases import case_of

        names = self._model.spec.class_names
        keys = sorted(contents.where, key=unescape_name)
        for entry in read_entries(self._output.journal_path, (contents.where[key] for key in keys)):
            label = None if entry.probability is None else int(entry.probability >= self._threshold)
            case, slide = case_of(entry.key, self._options.case_pattern)
            yield Row(
                path=entry.key,
                case=case,
                slide=slide,
                probability=entry.probability,
                label=label,
                class_name=None if label is None else names[label],
                threshold=self._threshold,
                status=entry.status,
                provider=provider,
                sha256=entry.sha256,
                tta_disagreement=entry.disagreement,
                message=entry.message,
                attachment=entry.attachment,
            )


def _chunks(inputs: Sequence[Found], size: int) -> Iterator[Sequence[Found]]:
    for begin in range(0, len(inputs), size):
        yield inputs[begin : begin + size]
