"""``glomedge infer-ray``: from a manifest to a folder of results, on many machines, every input exactly once."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from glomedge.about import __version__
from glomedge.cases.text import counted
from glomedge.cluster.beginning import agreed, drop, withdraw
from glomedge.cluster.options import CohortOptions
from glomedge.cluster.plan import ATTEMPTS, Plan, inputs_sha256, part_rows_for
from glomedge.cluster.publish import CohortPublication, DamagedPartError, PartRows, clear_foreign
from glomedge.cluster.stamps import changed_parts
from glomedge.cluster.store import Store
from glomedge.cluster.worker import AnswerParts, Done, Job, inputs_bytes, on_gpu
from glomedge.errors import OutputError, UsageError
from glomedge.files.names import escape_name
from glomedge.model import origin, site
from glomedge.model.file import ModelFile, read_model_file
from glomedge.pipeline.inputs import Found, Scan
from glomedge.pipeline.witnesses import evenly
from glomedge.reports.run_page_data import MAX_THUMBNAILS
from glomedge.results.answer_table import AnswerTable
from glomedge.results.folder import WORK_FOLDER, OutputFolder
from glomedge.results.thumbnails import ThumbnailFile
from glomedge.runs.manifest import case_finder, listed
from glomedge.runs.options import Options
from glomedge.runs.outcome import Outcome
from glomedge.runs.slides import Inputs
from glomedge.slides.pairs import SLIDE_SUFFIXES
from glomedge.system import cpu
from glomedge.system.stopping import StoppedError

_AT_ONCE = 4096
_DEFAULT_CPUS = 2


def infer_cohort(
    options: CohortOptions,
    answer_parts: AnswerParts,
    *,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Answer a manifest and publish the results.

    Args:
        answer_parts: who answers the parts, such as ``ray_job.answer_on_ray`` with the number of workers.
        stop: polled many times a second; once true, the run ends early and can be resumed.
        progress: called with answered and total.

    Raises:
        GlomedgeError: the run cannot continue; the parts that are answered stay for ``--resume``.
    """
    begin_s = time.perf_counter()
    options = options.checked()
    with _held(options) as store:
        return _Cohort(options, store, begin_s).run(answer_parts, stop, progress)


@contextlib.contextmanager
def _held(options: CohortOptions) -> Iterator[Store]:
    """The place of the results; a folder is this run's alone. In an object store nothing can be locked: there a run
    is its plan's, of which there is one (``beginning.agreed``), and two drivers of the same plan write the same."""
    if options.folder is None:
        yield Store(options.output)
        return
    output = OutputFolder(options.folder, 0)
    try:
        # Workers may start in another folder.
        yield Store(str(options.folder.resolve()))
    finally:
        output.close()


@dataclass
class _Answered:
    """What the workers have said."""

    rows: int = 0
    new: int = 0
    engine: dict[str, Any] = field(default_factory=dict)


class _Cohort:
    def __init__(self, options: CohortOptions, store: Store, begin_s: float) -> None:
        run = options.run
        self._options, self._store, self._begin_s = options, store, begin_s
        self._model: ModelFile = read_model_file(run.model)
        site.check_site(self._model.spec, run.site)
        self._threshold = run.threshold if run.threshold is not None else self._model.spec.threshold
        found, manifest = listed(run)
        _require_crops(found)
        self._found = found
        self._finder = case_finder(run, found.inputs, manifest)
        self._columns = self._named()
        self._notes: list[str] = []
        if run.threshold is None and origin.threshold_is_unknown(self._model.spec):
            self._notes.append(f"The threshold of this model is not known, and {self._threshold:g} was assumed.")
        self._answered = _Answered()

    def run(
        self,
        answer_parts: AnswerParts,
        stop: Callable[[], bool],
        progress: Callable[[int, int], None] | None,
    ) -> Outcome:
        plan = self._plan()
        complete = self._answer(plan, answer_parts, stop, progress)
        outcome = Outcome(
            complete=complete,
            inputs=plan.total,
            answered=self._answered.rows,
            predicted=self._answered.new,
            provider=self._options.run.engine.provider,
            notes=self._notes,
            biopsies_found=self._finder.as_json(),
        )
        if complete:
            try:
                self._publish(plan, outcome, stop)
            except StoppedError:
                outcome.complete = False
            except DamagedPartError as error:
                drop(self._store, plan, [error.part])
                raise
        outcome.wall_s = time.perf_counter() - self._begin_s
        return outcome

    # What is to be done.

    def _named(self) -> tuple[list[str], list[str], list[str]]:
        """Path, biopsy and slide of every input."""
        inputs, columns = self._found.inputs, (list[str](), list[str](), list[str]())
        for begin in range(0, len(inputs), _AT_ONCE):
            paths = [each.key for each in inputs[begin : begin + _AT_ONCE]]
            names = self._finder.cases_of(paths)
            for column, values in zip(
                columns, (paths, [name.case for name in names], [name.slide for name in names]), strict=True
            ):
                column += values
        return columns

    def _identity(self) -> dict[str, Any]:
        from glomedge.engine.providers import batch_of

        run = self._options.run
        return {
            "glomedge": __version__,
            "folder": escape_name(_root(run)),
            "model_sha256": self._model.sha256,
            "recipe": self._model.spec.recipe.model_dump_json(),
            "threshold": self._threshold,
            "review_band": list(run.band(self._threshold)),
            "tta": run.tta,
            "batch_size": batch_of(run.engine, self._model.spec),
            "provider": run.engine.provider,
            "bf16": run.engine.bf16,
            "inputs_sha256": inputs_sha256(self._columns),
        }

    def _plan(self) -> Plan:
        """The plan of the run that is resumed, or a new one, written. Raises OutputError."""
        options, identity = self._options, self._identity()
        total, size = len(self._found.inputs), identity["batch_size"]
        rows = part_rows_for(total, size, gpu=on_gpu(options.run.engine), wanted=options.part_rows)
        own = Plan(total, rows, size, identity)
        run = options.run
        plan, notes = agreed(
            self._store, own, lambda: inputs_bytes(own, self._columns), resume=run.resume, overwrite=run.overwrite
        )
        self._notes += notes
        return plan

    # Doing it.

    def _job(self, plan: Plan) -> Job:
        run, options = self._options.run, self._options
        return Job(
            plan=plan,
            store=self._store,
            root=_root(run),
            model_name=run.model.name,
            engine=run.engine,
            cpus=cpus_of(options),
            threshold=self._threshold,
            review_band=run.band(self._threshold),
            views=run.tta,
            decode_timeout_s=run.decode_timeout_s,
            follow_symlinks=run.follow_symlinks,
            pictures=-(-MAX_THUMBNAILS // plan.parts) if run.report else 0,
            witnesses=evenly(self._found.inputs),
        )

    def _answer(
        self,
        plan: Plan,
        answer_parts: AnswerParts,
        stop: Callable[[], bool],
        progress: Callable[[int, int], None] | None,
    ) -> bool:
        answered, store = self._answered, self._store
        before = plan.done(store)
        try:
            before -= self._replaced(plan, sorted(before), stop)
        except StoppedError:
            answered.rows = sum(end - begin for begin, end in map(plan.bounds, before))
            return False
        answered.rows = sum(end - begin for begin, end in map(plan.bounds, before))
        if before:
            self._notes.append(f"Resumed: {counted(answered.rows, 'result was', 'results were')} already there.")
        seen = set(before)

        def done(part: Done) -> None:
            if part.part in seen:
                return
            seen.add(part.part)
            answered.rows += part.rows
            answered.new += part.rows
            answered.engine = part.engine or answered.engine
            if progress is not None:
                progress(answered.rows, plan.total)

        if progress is not None:
            progress(answered.rows, plan.total)
        self._forget_attempts()  # of another driver
        left = [part for part in range(plan.parts) if part not in before]
        if left:
            withdraw(self._store)
        if left and not answer_parts(self._job(plan), self._model.path.read_bytes(), left, done, stop):
            return False
        self._forget_attempts()
        # Not what the workers have said, but what is there.
        if missing := plan.parts - len(plan.done(self._store)):
            raise OutputError(
                f"{counted(missing, 'part')} of {plan.parts} {'is' if missing == 1 else 'are'} not in "
                f"{self._store.where}, although the workers answered them. Every node must see that folder; give one "
                "that all share, or a URI. Then run again with --resume."
            )
        return True

    def _replaced(self, plan: Plan, parts: list[int], stop: Callable[[], bool]) -> set[int]:
        """The parts with crops that are others by now, removed. Raises StoppedError."""
        root, inputs = _root(self._options.run), self._found.inputs
        changed = changed_parts(self._store, plan, root, inputs, parts, stop)
        drop(self._store, plan, changed)
        if changed:
            self._notes.append(f"Parts with crops that were replaced since are answered again: {len(changed)}.")
        return set(changed)

    def _forget_attempts(self) -> None:
        for name in self._store.names(ATTEMPTS):
            self._store.remove(f"{ATTEMPTS}/{name}")

    # The results.

    def _publish(self, plan: Plan, outcome: Outcome, stop: Callable[[], bool]) -> None:
        run, spec = self._options.run, self._model.spec
        clear_foreign(self._store, plan)
        with contextlib.ExitStack() as open_:
            folder = self._options.folder
            if folder is None:
                folder = Path(open_.enter_context(tempfile.TemporaryDirectory(prefix="glomedge-results-")))
                (folder / WORK_FOLDER).mkdir()
            thumbnails = None
            if run.report:
                path = folder / WORK_FOLDER / "thumbnails"
                thumbnails = ThumbnailFile(path, fresh=True, map_shape=spec.map_shape)
                open_.callback(lambda: path.unlink(missing_ok=True))
                open_.callback(thumbnails.close)
            rows = PartRows(
                answers=AnswerTable(),
                threshold=self._threshold,
                class_names=spec.class_names,
                provider=outcome.provider,
                review_band=run.band(self._threshold),
                cases=self._finder,
                store=self._store,
                plan=plan,
                thumbnails=thumbnails,
            )
            publication = CohortPublication(
                replace(run, output=folder), self._model, Inputs(self._found), rows, thumbnails, None, None, stop,
                self._said(plan),
            )  # fmt: skip
            publication.write(outcome, plan.batch_size, self._begin_s)
            if self._options.folder is None:
                clear_foreign(self._store, plan)  # reading the parts took a while
                withdraw(self._store)
                for path in outcome.files:  # the record is the last of them
                    self._store.write(path.name, path.read_bytes())

    def _said(self, plan: Plan) -> dict[str, Any]:
        from glomedge.runs.record import arguments

        options = self._options
        cohort = {"output": options.output, "workers": options.workers, "cpus_per_worker": cpus_of(options)}
        return {
            "arguments": {**arguments(options.run), **cohort},
            "engine": {**self._answered.engine} or None,
            "inputs_sha256": plan.identity["inputs_sha256"],
            "run_id": plan.run_id,
            "parts": plan.parts,
            "part_rows": plan.part_rows,
        }


def _require_crops(found: Scan) -> None:
    endings = tuple(suffix.encode() for suffix in SLIDE_SUFFIXES)
    slides = [each for each in found.inputs if _is(each, endings)]
    if slides:
        raise UsageError(
            f"The manifest lists {counted(len(slides), 'slide')}, such as {slides[0].key}. infer-ray answers crops; "
            "use glomedge infer --shard for slides."
        )


def _root(run: Options) -> bytes:
    """What the inputs are relative to, on every node."""
    return bytes(run.folder.resolve()) if run.address is None else bytes(run.address)


def _is(found: Found, endings: Sequence[bytes]) -> bool:
    return found.relative.lower().endswith(tuple(endings))


def cpus_of(options: CohortOptions) -> int:
    """CPUs of each worker."""
    return options.cpus_per_worker or min(_DEFAULT_CPUS, cpu.usable_cpus())
