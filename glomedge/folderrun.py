"""``glomedge infer``: a folder of crops in, a folder of results out, nothing lost on the way."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glomedge.batching import batches
from glomedge.errors import OutputError, UsageError
from glomedge.escape import escape_name, unescape_name
from glomedge.inferoptions import Options
from glomedge.journal import Contents, Identity, Journal, read_entries, read_journal
from glomedge.modelfile import ModelFile, read_model_file
from glomedge.outputs import FolderSink, OutputFolder, Plan, plan, unanswered
from glomedge.pipeline import Pipeline, Settings, StageTimes
from glomedge.preparing import Decoder
from glomedge.results import Row
from glomedge.scan import Found, Scan, scan
from glomedge.spool import Spool

if TYPE_CHECKING:
    from glomedge.cases import CaseSummary
    from glomedge.engine import Engine

__all__ = ["Options", "Outcome", "infer_folder"]

OWNED = ("predictions.csv", "predictions.jsonl", "predictions.parquet", "cases.csv", "report.html", "run.json")
THUMBNAIL_PX = 112
PROCESSES_FROM = 4


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
    if options.folder.is_symlink() and options.folder.is_file():
        # A linked image that was named itself is meant.
        options = replace(options, follow_symlinks=True)
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
        if options.heatmaps is not None:
            from glomedge.heatmaps import check_folder

            check_folder(options.heatmaps)
        return _FolderRun(options, found, output, stop, progress, decoder, begin_s).run()
    finally:
        output.close()


def _suffixes() -> frozenset[str]:
    from glomedge.images import ALLOWED_SUFFIXES

    return ALLOWED_SUFFIXES


class _StoppedError(Exception):
    """A signal came while the files were being made: nothing is published, and ``--resume`` makes them."""


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
        from glomedge.providers import batch_of

        options = self._options
        return Identity(
            folder=escape_name(bytes(options.folder.resolve())),
            model_sha256=self._model.sha256,
            recipe=self._model.spec.recipe.model_dump_json(),
            threshold=self._threshold,
            tta=options.tta,
            batch_size=batch_of(
                options.provider,
                options.batch_size,
                options.max_batch,
                fixed_batch=options.fixed_batch,
                allow_fallback=options.allow_fallback,
            ),
            bf16=options.bf16,
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
            predicted=sink.answered,
            provider=provider or "none",
            notes=notes,
            times=self._times,
            hung=self._hung,
        )
        if complete:
            from glomedge.publish import Publication

            publication = Publication(
                self._options, self._model, self._threshold, outcome, self._found, self._engine, spool
            )
            try:
                publication.write(
                    lambda: self._rows(contents, outcome.provider), plan_.identity.batch_size, self._begin_s
                )
                journal.done(len(contents.where))
            except _StoppedError:
                outcome.complete = False
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
        from glomedge.providers import run_threads, runs_on_gpu

        options, size = self._options, plan_.identity.batch_size
        cpus = usable_cpus()
        on_gpu = runs_on_gpu(options.provider, options.allow_fallback)
        callers = run_threads(options.provider, options.allow_fallback)
        workers = options.workers or cpus
        settings = Settings(
            recipe=self._model.spec.recipe,
            batch_size=size,
            decode_workers=workers,
            decode_processes=self._decode_in_processes(workers),
            run_threads=callers,
            decode_timeout_s=options.decode_timeout_s,
            views=options.tta,
            thumbnail_px=THUMBNAIL_PX if options.report else 0,
            follow_symlinks=options.follow_symlinks,
        )

        def load() -> Engine:
            self._engine = engine.load(
                self._model,
                options.provider,
                allow_fallback=options.allow_fallback,
                strict_placement=options.strict_placement,
                concurrency=callers,
                batch_size=size,
                max_batch=options.max_batch,
                fixed_batch=options.fixed_batch,
                bf16=options.bf16,
                cache_dir=options.cache_dir,
            )
            before = plan_.contents.provider
            if before is not None and before != self._engine.provider:
                raise OutputError(
                    f"The run in {options.output} cannot be resumed with another provider: {before} in the unfinished "
                    f"run, {self._engine.provider} now. Use --provider {before}, or start over with --overwrite."
                )
            if options.bf16 and self._engine.runtime.precision != "bf16":
                raise UsageError(
                    f"--bf16: {self._engine.provider} computes this model in {self._engine.runtime.precision}. Use "
                    "--provider openvino on a processor with bfloat16, or leave the option off."
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
            complete = pipeline.run(batches(self._found.inputs, new, again, size, taper=not on_gpu))
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
        low, high = self._options.review_band
        for entry in read_entries(self._output.journal_path, (contents.where[key] for key in keys)):
            if self._stop():
                raise _StoppedError
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
                review=None if entry.probability is None else int(low <= entry.probability <= high),
                attachment=entry.attachment,
            )
