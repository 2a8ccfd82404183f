"""``glomedge infer``: a folder of crops in, a folder of results out, nothing lost on the way."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from glomedge.cases.names import CaseFinder
from glomedge.engine import loading
from glomedge.errors import OutputError, UsageError
from glomedge.files.names import escape_name, unescape_name
from glomedge.model.file import ModelFile, read_model_file
from glomedge.pipeline.batching import batches
from glomedge.pipeline.decode_process import processes_pay
from glomedge.pipeline.inputs import Found, Scan, scan
from glomedge.pipeline.pipeline import Pipeline, StageTimes
from glomedge.pipeline.prepare import Decoder
from glomedge.pipeline.settings import Settings
from glomedge.results.folder import JOURNAL, WORK_FOLDER, OutputFolder
from glomedge.results.grey_crops import MAX_GREY_PX, GreyStore
from glomedge.results.journal import Contents, Identity, Journal, read_entries, read_journal
from glomedge.results.resume import Plan, plan, publishable, unanswered
from glomedge.results.rows import Row
from glomedge.results.sink import FolderSink
from glomedge.results.thumbnails import Spool
from glomedge.runs.options import Options
from glomedge.runs.outcome import THUMBNAIL_PX, Outcome
from glomedge.system.stopping import StoppedError, unless_stopped

if TYPE_CHECKING:
    from glomedge.engine.engine import Engine

__all__ = ["Options", "Outcome", "infer_folder"]


def infer_folder(
    options: Options,
    *,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] | None = None,
    decoder: Decoder | None = None,
) -> Outcome:
    """Run a folder.

    Args:
        stop: asked many times a second from the search on; once true the run ends early, resumable.
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
    try:
        found = scan(
            options.folder,
            _suffixes(),
            follow_symlinks=options.follow_symlinks,
            exclude=[path for path in (options.output, options.heatmaps) if path is not None],
            stop=stop,
        )
    except StoppedError:
        kept = len(read_journal(options.output / WORK_FOLDER / JOURNAL).where)
        return Outcome(complete=False, inputs=kept, answered=kept, predicted=0, provider="none")
    if not found.inputs:
        raise UsageError(
            f"There is no image in {options.folder} ({found.other_files} other files). Name the folder with the crops."
        )
    output = OutputFolder(options.output, len(found.inputs))
    try:
        if options.heatmaps is not None:
            from glomedge.runs.heatmaps import check_folder

            check_folder(options.heatmaps)
        return _FolderRun(options, found, output, stop, progress, decoder, begin_s).run()
    finally:
        output.close()


def _suffixes() -> frozenset[str]:
    from glomedge.imaging.images import ALLOWED_SUFFIXES

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
        self._finder = CaseFinder([item.key for item in found.inputs], options.case_pattern)
        self._notes = found.notes()
        self._times = StageTimes()
        self._decoding: dict[str, Any] = {}
        self._hung = 0

    def run(self) -> Outcome:
        plan_ = plan(
            self._output.journal_path, self._identity(), resume=self._options.resume, overwrite=self._options.overwrite
        )
        journal = Journal(self._output.journal_path, plan_.contents.good_bytes)
        with contextlib.ExitStack() as open_:
            open_.callback(journal.close)
            spool = kept = None
            if self._options.report or self._options.heatmaps is not None:
                spool = Spool(self._output.spool_path, fresh=plan_.contents.good_bytes == 0)
                open_.callback(spool.close)
            if spool is not None and self._options.heatmaps is not None:
                kept = self._grey_store()
                open_.callback(kept.close)
                journal.make_room = spool.make_room = kept.drop
            open_.callback(self._close_engine)
            return self._run(plan_, journal, spool, kept)

    def _grey_store(self) -> GreyStore:
        from glomedge.runs.heatmaps import chosen

        options, threshold = self._options, self._threshold
        return GreyStore(self._output.work, lambda probability: chosen(probability, options, threshold))

    def _close_engine(self) -> None:
        if self._engine is not None:
            self._engine.close()

    def _identity(self) -> Identity:
        from glomedge.engine.providers import batch_of

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

    def _run(self, plan_: Plan, journal: Journal, spool: Spool | None, kept: GreyStore | None) -> Outcome:
        if plan_.contents.identity is None:
            journal.head(plan_.identity)
        self._notes += plan_.notes
        sink = FolderSink(journal, spool, kept)
        complete = False
        with contextlib.suppress(StoppedError):
            complete = self._predict(plan_, journal, sink)
        journal.sync()
        path = self._output.journal_path
        contents = publishable(path, self._found.inputs) if complete else read_journal(path)
        outcome = Outcome(
            complete=complete,
            inputs=len(self._found.inputs),
            answered=len(contents.where),
            predicted=sink.answered,
            provider=contents.provider or "none",
            notes=self._notes,
            decoding=self._decoding,
            times=self._times,
            hung=self._hung,
            biopsies_found=self._finder.as_json(),
        )
        if complete:
            from glomedge.runs.publish import Publication

            publication = Publication(
                self._options,
                self._model,
                self._threshold,
                outcome,
                self._found,
                self._engine,
                spool,
                kept,
                self._finder,
            )
            try:
                publication.write(
                    lambda: self._rows(contents, outcome.provider), plan_.identity.batch_size, self._begin_s
                )
                journal.done(len(contents.where))
            except StoppedError:
                # Nothing is half written, and ``--resume`` makes the files.
                outcome.complete = False
        outcome.wall_s = time.perf_counter() - self._begin_s
        return outcome

    def _predict(self, plan_: Plan, journal: Journal, sink: FolderSink) -> bool:
        """Predict on what has no answer yet; False, or StoppedError, when it was stopped."""
        inputs = self._found.inputs
        new, again = unanswered(self._found.root, unless_stopped(inputs, self._stop), plan_.contents)
        if not new and not again:
            return True
        crashed = any(found.key in plan_.contents.suspects for found in (*new, *again))
        if crashed:
            self._notes.append(
                "The last run ended in the middle of decoding. Each decoder now has a process of its own, so that a "
                "file that ends it costs that file only."
            )
        done = self._answer(plan_, journal, sink, new, again, self._settings(plan_.identity.batch_size, crashed))
        if self._engine is not None:
            self._notes += self._engine.runtime.notes
        if not done and not crashed:
            journal.stop()
        return done

    def _settings(self, batch_size: int, crashed: bool) -> Settings:
        from glomedge.engine.providers import run_threads
        from glomedge.system.cpu import usable_cpus

        options = self._options
        workers = options.workers or usable_cpus()
        in_processes = self._decode_in_processes(workers, crashed)
        self._decoding = {"workers": workers, "in": "processes" if in_processes else "threads"}
        return Settings(
            recipe=self._model.spec.recipe,
            batch_size=batch_size,
            decode_workers=workers,
            decode_processes=in_processes,
            run_threads=run_threads(options.provider, options.allow_fallback),
            decode_timeout_s=options.decode_timeout_s,
            views=options.tta,
            thumbnail_px=THUMBNAIL_PX if options.report else 0,
            grey_px=MAX_GREY_PX if options.heatmaps is not None else 0,
            follow_symlinks=options.follow_symlinks,
        )

    def _decode_in_processes(self, workers: int, crashed: bool) -> bool:
        """As asked for; but a decoder that took a whole run with it gets no second chance to."""
        options = self._options
        if self._decoder is not None:
            return False
        if crashed or options.decode_in != "auto":
            return crashed or options.decode_in == "processes"
        return processes_pay(workers, gpu=self._on_gpu())

    def _on_gpu(self) -> bool:
        from glomedge.engine.providers import runs_on_gpu

        return runs_on_gpu(self._options.provider, self._options.allow_fallback)

    def _answer(
        self, plan_: Plan, journal: Journal, sink: FolderSink, new: list[Found], again: list[Found], settings: Settings
    ) -> bool:
        import cv2

        options, size = self._options, settings.batch_size

        def load() -> Engine:
            self._engine = loading.load(
                self._model,
                options.provider,
                allow_fallback=options.allow_fallback,
                strict_placement=options.strict_placement,
                concurrency=settings.run_threads,
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
        already = total - len(new) - len(again)
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
            return pipeline.run(batches(self._found.inputs, new, again, size, taper=not self._on_gpu()))
        finally:
            cv2.setNumThreads(threads_before)
            self._hung = pipeline.hung

    def _rows(self, contents: Contents, provider: str) -> Iterator[Row]:
        """Every row, sorted by the bytes of the path, straight from the journal on disk."""
        names = self._model.spec.class_names
        keys = sorted(contents.where, key=unescape_name)
        entries = read_entries(self._output.journal_path, (contents.where[key] for key in keys))
        for entry in unless_stopped(entries, self._stop):
            label = None if entry.probability is None else int(entry.probability >= self._threshold)
            case, slide = self._finder.case_of(entry.key)
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
                review=None if entry.probability is None else int(self._options.to_review(entry.probability)),
                attachment=entry.attachment,
            )
