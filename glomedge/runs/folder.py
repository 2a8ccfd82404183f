"""``glomedge infer``: from a folder of crops to a folder of results, without losing any."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from glomedge.errors import OutputError
from glomedge.files.names import escape_name
from glomedge.model import origin, site
from glomedge.model.file import ModelFile, read_model_file
from glomedge.pipeline.decode_process import processes_possible
from glomedge.pipeline.inputs import Found
from glomedge.pipeline.pipeline import StageTimes
from glomedge.pipeline.prepare import Decoder
from glomedge.pipeline.settings import DecodePlan, Settings, decode_plan, reads_at_once
from glomedge.results.folder import JOURNAL, WORK_FOLDER, OutputFolder
from glomedge.results.grey_crops import MAX_GREY_PX
from glomedge.results.journal import Contents, Identity, Journal, read_journal, read_on
from glomedge.results.published_rows import PublishedRows
from glomedge.results.resume import Plan, forget_unpictured, plan, publishable, require_outlines, unanswered
from glomedge.results.sink import FolderSink
from glomedge.runs.manifest import case_finder
from glomedge.runs.options import Options
from glomedge.runs.outcome import OWNED, THUMBNAIL_PX, Outcome
from glomedge.runs.pipeline_run import PipelineRun
from glomedge.runs.slides import Inputs, classes_note, find_inputs, mpp_note, reader_note
from glomedge.runs.stores import RunStores
from glomedge.system.stopping import StoppedError

if TYPE_CHECKING:
    from glomedge.engine.engine import Engine
    from glomedge.runs.shard import Share

__all__ = ["Options", "Outcome", "infer_folder"]


def infer_folder(
    options: Options,
    *,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] | None = None,
    decoder: Decoder | None = None,
) -> Outcome:
    """Classify a folder of crops and write the results.

    Args:
        stop: polled many times a second from the search on; once true, the run ends early and can be resumed.
        progress: called with answered and total.
        decoder: for tests.

    Raises:
        GlomedgeError: the run cannot continue; the files of an earlier run are then untouched.
    """
    options.check()
    begin_s = time.perf_counter()
    if options.address is None and options.folder.is_symlink() and options.folder.is_file():
        # A link to an image that was given explicitly is followed.
        options = replace(options, follow_symlinks=True)
    searched, shard, share = options, options.shard, None
    if shard is not None:
        options = replace(options, output=shard.folder(options.output))
    try:
        inputs = find_inputs(searched, stop)
    except StoppedError:
        kept = len(read_journal(options.output / WORK_FOLDER / JOURNAL).answers)
        return Outcome(complete=False, inputs=kept, answered=kept, predicted=0, provider="none")
    if shard is not None:
        from glomedge.runs.shard import Share

        share = Share.of(options, inputs)
        inputs = share.mine
    output = OutputFolder(options.output, len(inputs.found.inputs))
    try:
        if options.heatmaps is not None and share is None:
            from glomedge.runs.heatmaps import check_folder

            check_folder(options.heatmaps)
        return _FolderRun(options, inputs, output, Callbacks(stop, progress, decoder), begin_s, share).run()
    finally:
        output.close()


@dataclass(frozen=True)
class Callbacks:
    """What the run calls of its caller; see ``infer_folder``."""

    stop: Callable[[], bool] = lambda: False
    progress: Callable[[int, int], None] | None = None
    decoder: Decoder | None = None


class _FolderRun:
    def __init__(
        self,
        options: Options,
        inputs: Inputs,
        output: OutputFolder,
        callbacks: Callbacks,
        begin_s: float,
        share: Share | None = None,
    ) -> None:
        self._options = options
        self._share = share
        self._found = found = inputs.found
        self._parts = inputs.parts
        self._model: ModelFile = read_model_file(options.model)
        self._notes: list[str] = []
        self._annotations: list[str] = []
        if self._parts is not None:
            self._parts.model_mpp = self._model.spec.mpp
            from glomedge.runs.answer_files import find_dicom, planned

            self._notes = find_dicom(options, self._parts)
            self._annotations = [name for _, _, name in planned(options, self._parts)]
        self._output = output
        self._stop = callbacks.stop
        self._progress = callbacks.progress
        self._decoder = callbacks.decoder
        self._begin_s = begin_s
        site.check_site(self._model.spec, options.site)
        if options.heatmaps is not None:
            from glomedge.runs.heatmaps import require_map

            require_map(self._model)
        self._threshold = options.threshold if options.threshold is not None else self._model.spec.threshold
        self._engine: Engine | None = None
        self._finder = case_finder(options, found.inputs, inputs.manifest) if share is None else share.finder
        self._notes += found.notes()
        if self._parts is not None:
            self._notes += filter(None, [classes_note(self._parts), mpp_note(self._parts), reader_note(self._parts)])
        if options.threshold is None and origin.threshold_is_unknown(self._model.spec):
            self._notes.append(
                f"The threshold of this model is not known, and {self._threshold:g} was assumed. Give --threshold, or "
                "export the model again with --data or --threshold."
            )
        self._times = StageTimes()
        self._decoding: dict[str, Any] = {}
        self._hung = 0

    def run(self) -> Outcome:
        plan_ = plan(
            self._output.journal_path,
            self._identity(),
            self._found.inputs,
            resume=self._options.resume,
            overwrite=self._options.overwrite,
            results=(*OWNED, *self._annotations),
        )
        require_outlines(plan_, self._options.output, {} if self._parts is None else self._parts.problems())
        if self._options.report or self._options.heatmaps is not None:
            forget_unpictured(plan_, self._output.thumbnails_path)
        self._notes += plan_.notes
        if self._share is not None:
            self._share.write(self._output.work, self._options)
        with contextlib.ExitStack() as open_:
            map_shape = self._model.spec.map_shape
            stores = open_.enter_context(RunStores(self._options, self._output, plan_, self._threshold, map_shape))
            open_.callback(self._close_engine)
            return self._run(plan_, stores)

    def _close_engine(self) -> None:
        if self._engine is not None:
            self._engine.close()

    def _identity(self) -> Identity:
        from glomedge.engine.providers import batch_of

        options = self._options
        return Identity(
            folder=escape_name(bytes(options.address or options.folder.resolve())),
            model_sha256=self._model.sha256,
            recipe=self._model.spec.recipe.model_dump_json(),
            threshold=self._threshold,
            tta=options.tta,
            batch_size=batch_of(options.engine, self._model.spec),
            bf16=options.engine.bf16,
            classes=", ".join(options.slides.classes),
            mpp=options.slides.mpp,
            outlines={} if self._parts is None else self._parts.outlines_sha256(),
            shard="" if options.shard is None else str(options.shard),
        )

    def _run(self, plan_: Plan, stores: RunStores) -> Outcome:
        sink = stores.sink()
        complete = False
        with contextlib.suppress(StoppedError):
            complete = self._predict(plan_, stores.journal, sink)
        sink.flush()
        path = self._output.journal_path
        if complete:
            contents = publishable(path, self._found.inputs, plan_.contents)
        else:
            contents = read_on(path, plan_.contents)
        outcome = self._outcome(contents, complete=complete, predicted=sink.answered)
        if complete:
            try:
                self._publish(outcome, contents, stores, plan_.identity.batch_size)
                stores.journal.done(len(contents.answers))
            except StoppedError:
                # Nothing is half written, and ``--resume`` makes the files.
                outcome.complete = False
        outcome.wall_s = time.perf_counter() - self._begin_s
        return outcome

    def _outcome(self, contents: Contents, *, complete: bool, predicted: int) -> Outcome:
        return Outcome(
            complete=complete,
            inputs=len(self._found.inputs),
            answered=len(contents.answers),
            predicted=predicted,
            provider=contents.provider or "none",
            notes=self._notes,
            decoding=self._decoding,
            times=self._times,
            hung=self._hung,
            biopsies_found=self._finder.as_json() if self._share is None else {},
        )

    def _publish(self, outcome: Outcome, contents: Contents, stores: RunStores, batch_size: int) -> None:
        from glomedge.runs.publish import Publication

        rows = PublishedRows(
            answers=contents.answers,
            threshold=self._threshold,
            class_names=self._model.spec.class_names,
            provider=outcome.provider,
            review_band=self._options.band(self._threshold),
            cases=self._finder,
            outline=None if self._parts is None else self._parts.facts,
        )
        if self._share is not None:
            from glomedge.runs.record import record

            outcome.wall_s = time.perf_counter() - self._begin_s
            said = record(self._options, self._model, self._threshold, outcome, self._engine, batch_size)
            self._share.publish(outcome, rows, self._options, said)
            return
        publication = Publication(
            self._options,
            self._model,
            Inputs(self._found, self._parts),
            rows,
            stores.thumbnails,
            stores.grey_crops,
            self._engine,
            self._stop,
            started=stores.started,
        )
        publication.write(outcome, batch_size, self._begin_s)

    def _predict(self, plan_: Plan, journal: Journal, sink: FolderSink) -> bool:
        """Classify the inputs without an answer; False, or StoppedError, if it was stopped."""
        new, again = unanswered(self._found.root, plan_.contents, self._stop, self._parts)
        if not new and not again:
            return True
        crashed = any(found.key in plan_.contents.suspects for found in (*new, *again))
        if crashed:
            self._notes.append(
                "The previous run ended while decoding. Each decoder now runs in its own process, so that a file that "
                "crashes it costs only that file."
            )
        done = self._answer(plan_, journal, sink, new, again, self._settings(plan_.identity.batch_size, crashed))
        if self._engine is not None:
            self._notes += self._engine.runtime.notes
        if not done and not crashed:
            journal.stop()
        return done

    def _settings(self, batch_size: int, crashed: bool) -> Settings:
        from glomedge.engine.providers import run_threads

        options = self._options
        plan = self._decode_plan(crashed)
        self._decoding = {"workers": plan.workers, "in": "processes" if plan.processes else "threads"}
        return Settings(
            recipe=self._model.spec.recipe,
            batch_size=batch_size,
            decode_workers=plan.workers,
            decode_processes=plan.processes,
            run_threads=run_threads(options.engine, self._model.spec),
            decode_timeout_s=options.decode_timeout_s,
            views=options.tta,
            thumbnail_px=THUMBNAIL_PX if options.report else 0,
            grey_px=MAX_GREY_PX if options.heatmaps is not None and self._share is None else 0,
            follow_symlinks=options.follow_symlinks,
            source=self._parts,
        )

    def _decode_plan(self, crashed: bool) -> DecodePlan:
        """As requested; but after a decoder has crashed a run, decoding is moved to processes.

        From storage, many threads at once: most of the time each waits for the network.
        """
        from glomedge.engine.providers import runs_on_gpu

        options, workers = self._options, self._options.workers
        only_slides = self._parts is not None and all(found.part is not None for found in self._found.inputs)
        if self._decoder is not None or (only_slides and not crashed and options.decode_in == "auto"):
            decode_in = "threads"  # slides are read without the interpreter lock
        elif options.address is not None and not crashed and options.decode_in == "auto":
            decode_in, workers = "threads", workers or reads_at_once()
        else:
            decode_in = "processes" if crashed and processes_possible() else options.decode_in
        # The GPU is asked for only where it decides.
        gpu = decode_in == "auto" and runs_on_gpu(options.engine, self._model.spec)
        return decode_plan(workers, gpu=gpu, decode_in=decode_in)

    def _answer(
        self, plan_: Plan, journal: Journal, sink: FolderSink, new: list[Found], again: list[Found], settings: Settings
    ) -> bool:
        options, progress, total = self._options, self._progress, len(self._found.inputs)
        already = total - len(new) - len(again)

        def opened(engine: Engine) -> None:
            self._engine = engine
            before = plan_.contents.provider
            if before is not None and before != engine.provider:
                raise OutputError(
                    f"The run in {options.output} cannot be resumed with another provider: {before} in the unfinished "
                    f"run, {engine.provider} now. Use --provider {before}, or start over with --overwrite."
                )
            journal.engine(engine.provider)
            if options.report and self._share is None:
                from glomedge.reports import run_page

                run_page.prepare()  # while the first batches are computed

        run = PipelineRun(
            self._model,
            options.engine,
            settings,
            stop=self._stop,
            progress=None if progress is None else lambda done: progress(already + done, total),
            decoder=self._decoder,
            opened=opened,
        )
        share, root = self._share, self._found.root
        inputs = self._found.inputs if share is None else share.whole.found.inputs
        try:
            return run.run(root, inputs, sink, new=new, again=again, share=share is not None)
        finally:
            self._times, self._hung = run.times, run.hung
