"""One worker: a warm engine, warm decode processes, and the parts that it is given, one after the other.

Nothing here knows of Ray, and a test runs it in its own process.
"""

from __future__ import annotations

import dataclasses
import heapq
import io
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glomedge.about import RESEARCH_USE_NOTICE, __version__
from glomedge.cases.names import CaseName
from glomedge.cluster.crops_seen import require_folder, require_seen
from glomedge.cluster.plan import Plan, part_batches
from glomedge.cluster.stamps import stamps_bytes
from glomedge.cluster.store import Store, parquet_bytes
from glomedge.engine.options import EngineOptions
from glomedge.errors import OutputError, StorageError
from glomedge.files.addresses import is_address
from glomedge.files.names import unescape_name
from glomedge.model.file import ModelFile, read_model_file
from glomedge.pipeline.inputs import Found, Keys
from glomedge.pipeline.prepare import Answer
from glomedge.pipeline.settings import Settings
from glomedge.pipeline.standing import StandingPipeline
from glomedge.pipeline.witnesses import Witnesses
from glomedge.reports.run_page_data import importance
from glomedge.results.answer_table import AnswerTable
from glomedge.results.journal import pack
from glomedge.results.published_rows import PublishedRows
from glomedge.results.rows import RowBlock
from glomedge.results.tables import ParquetWriter
from glomedge.runs.manifest import GivenCases
from glomedge.runs.outcome import THUMBNAIL_PX

if TYPE_CHECKING:
    from glomedge.engine.engine import Engine


_READERS_A_CPU = 4
"""Decode processes for crops in storage: most of the time each waits for the network."""
MOST_ATTEMPTS = 10
"""Workers that may end, one after the other, over the same part."""


@dataclass(frozen=True)
class Job:
    """What every worker of a run is told.

    Attributes:
        plan: the parts.
        store: where the results go.
        root: folder that the inputs are relative to.
        model_name: of the file, for messages.
        engine: provider and batch.
        cpus: of a worker: threads of the engine, and decode processes.
        threshold: from which on a crop is called globally sclerotic.
        review_band: least and greatest probability to be reviewed.
        views: 1 or 8.
        decode_timeout_s: longest time for a crop.
        follow_symlinks: whether linked files may be read.
        pictures: of how many crops of a part the report gets a picture.
        witnesses: names of inputs that tell whether a node sees the crops (``pipeline.witnesses``).
        version: of glomedge; that of every worker must be the same.
    """

    plan: Plan
    store: Store
    root: bytes
    model_name: str
    engine: EngineOptions
    cpus: int
    threshold: float
    review_band: tuple[float, float]
    views: int = 1
    decode_timeout_s: float = 30.0
    follow_symlinks: bool = False
    pictures: int = 0
    witnesses: tuple[bytes, ...] = ()
    version: str = __version__


@dataclass(frozen=True)
class Done:
    """A part that is answered.

    Attributes:
        part: its number.
        rows: inputs in it.
        engine: how the worker's engine runs, for ``run.json``.
    """

    part: int
    rows: int
    engine: dict[str, Any]


class Worker:
    """Answers parts, several at once where it is called from several threads; make it once, where it is to run.

    Args:
        job: what to do.
        model: the bytes of the model's file.

    Raises:
        GlomedgeError: this machine has another glomedge, or does not see the crops, or the model cannot be opened here.
    """

    def __init__(self, job: Job, model: bytes) -> None:
        if job.version != __version__:
            raise OutputError(
                f"This run is of glomedge {job.version}, and a worker has {__version__}. Install the same version on "
                "every node."
            )
        require_folder(job.root)
        self._job, self._witnesses = job, Witnesses(job.root, job.witnesses)
        self._folder = tempfile.TemporaryDirectory(prefix="glomedge-model-")
        path = Path(self._folder.name) / job.model_name
        path.write_bytes(model)
        self._model = read_model_file(path)
        self._engine: Engine | None = None
        self._pipeline = StandingPipeline(job.root, self._settings(), self._load)

    @property
    def model(self) -> ModelFile:
        """The model, read."""
        return self._model

    def _settings(self) -> Settings:
        from glomedge.engine.providers import GPU_RUN_THREADS, MOST_RUN_THREADS

        job = self._job
        return Settings(
            recipe=self._model.spec.recipe,
            batch_size=job.plan.batch_size,
            decode_workers=job.cpus * (_READERS_A_CPU if is_address(job.root) else 1),
            # A file that ends its decoder then costs its own row, not the worker.
            decode_processes=True,
            run_threads=GPU_RUN_THREADS if on_gpu(job.engine) else min(job.cpus, MOST_RUN_THREADS),
            decode_timeout_s=job.decode_timeout_s,
            views=job.views,
            thumbnail_px=THUMBNAIL_PX if job.pictures else 0,
            follow_symlinks=job.follow_symlinks,
        )

    def _load(self) -> Engine:
        import cv2

        from glomedge.engine import loading

        cv2.setNumThreads(1)
        options = replace(self._job.engine, batch_size=self._job.plan.batch_size)
        concurrency = self._settings().run_threads
        engine = loading.open_engine(self._model, options, threads=self._job.cpus, concurrency=concurrency)
        try:
            loading.require_bf16(engine, options)
        except BaseException:
            engine.close()
            raise
        self._engine = engine
        return engine

    def answer(self, part: int) -> Done:
        """Answer a part and write its file, unless it is there.

        Raises:
            GlomedgeError: the model cannot be run, the store cannot be read or written, or this node no longer sees the
                crops.
        """
        job, plan = self._job, self._job.plan
        begin, end = plan.bounds(part)
        if not job.store.has(plan.part_file(part)):
            paths, cases = read_inputs(job.store, plan.inputs_file, part)
            self._begin(part, paths)
            self._write(part, paths, cases)
            job.store.remove(plan.attempts_file(part))
        engine = {} if self._engine is None else dataclasses.asdict(self._engine.runtime)
        return Done(part, end - begin, {**engine, "times": self._times()})

    def _begin(self, part: int, paths: list[str]) -> None:
        """Count the attempt: Ray gives a part to another worker without end, whatever it does to them."""
        name = self._job.plan.attempts_file(part)
        before = int(self._job.store.read(name) or b"0")
        if before >= MOST_ATTEMPTS:
            raise OutputError(
                f"{before} workers have ended while they answered part {part}, {paths[0]} to {paths[-1]}. Mostly there "
                "is too little memory: give fewer --workers, or more memory to each. What is answered is kept: run "
                "again with --resume."
            )
        self._job.store.write(name, b"%d" % (before + 1))

    def _write(self, part: int, paths: list[str], cases: list[CaseName]) -> None:
        job = self._job
        found = [Found(unescape_name(path)) for path in paths]
        bounds = part_batches(job.plan, part, taper=not on_gpu(job.engine))
        answers = self._pipeline.answers([found[begin:end] for begin, end in bounds])
        require_seen(answers, self._witnesses, job.root)
        blocks = self._blocks(answers, found, dict(zip(paths, cases, strict=True)))
        if job.pictures:
            # First, so that a part that is there has its pictures.
            pictures = _pictures(blocks, {answer.found.key: answer for answer in answers}, job.pictures)
            job.store.write(job.plan.pictures_file(part), pictures)
        by_path = {answer.found.key: answer for answer in answers}
        job.store.write(job.plan.stamps_file(part), stamps_bytes([by_path[path] for path in paths]))
        sink = io.BytesIO()
        writer = ParquetWriter(sink, tta=job.views > 1)
        for block in blocks:
            writer.write(block)
        writer.close()
        job.plan.require_current(job.store)
        job.store.write(job.plan.part_file(part), sink.getvalue())

    def _blocks(self, answers: list[Answer], found: list[Found], cases: dict[str, CaseName]) -> list[RowBlock]:
        table = AnswerTable(found)
        table.put([pack(answer, None) for answer in answers])
        assert self._engine is not None
        rows = PublishedRows(
            answers=table,
            threshold=self._job.threshold,
            class_names=self._model.spec.class_names,
            provider=self._engine.provider,
            review_band=self._job.review_band,
            cases=GivenCases(Keys(found), cases),
        )
        return list(rows.blocks())

    def _times(self) -> dict[str, float]:
        times = self._pipeline.times
        names = ("decode_s", "enhance_s", "infer_s", "infer_wall_s", "engine_load_wall_s")
        return {name: getattr(times, name) for name in names}

    def close(self) -> None:
        """End the decode processes and free the engine."""
        self._pipeline.close()
        if self._engine is not None:
            self._engine.close()
        self._folder.cleanup()


def on_gpu(engine: EngineOptions) -> bool:
    """Whether the provider, which is named, runs on a GPU."""
    from glomedge.engine import providers

    return providers.named(engine.provider).gpu


_reading = threading.Lock()
"""The list of inputs is one open file, with one place to read from."""


@lru_cache(maxsize=1)
def _inputs_of(store: Store, name: str) -> Any:
    import pyarrow.parquet

    return pyarrow.parquet.ParquetFile(store.open(name))


def read_inputs(store: Store, name: str, part: int) -> tuple[list[str], list[CaseName]]:
    """Path and biopsy of each input of a part. Raises OutputError."""
    import pyarrow

    try:
        with _reading:
            columns = _inputs_of(store, name).read_row_group(part).to_pydict()
    except StorageError as error:
        _inputs_of.cache_clear()
        raise OutputError(f"{error} What is answered is kept: use --resume.") from None
    except (pyarrow.ArrowException, OSError) as error:
        _inputs_of.cache_clear()
        where = f"{store.where.rstrip('/')}/{name}"
        if isinstance(error, OSError) and error.errno is not None:  # the disk's; pyarrow's own have no number
            raise OutputError(
                f"{where} cannot be read: {error.strerror}. Check the disk, then run again with --resume."
            ) from None
        raise OutputError(f"{where} is damaged: {str(error)[:120]}. Run again with --overwrite.") from None
    return columns["path"], [CaseName(*both) for both in zip(columns["case"], columns["slide"], strict=True)]


def inputs_bytes(plan: Plan, columns: Sequence[Sequence[str]]) -> bytes:
    """The list of inputs, for ``read_inputs``."""
    import pyarrow

    table = pyarrow.table(
        dict(
            zip(("path", "case", "slide"), (pyarrow.array(column, pyarrow.string()) for column in columns), strict=True)
        )
    )
    bounds = [plan.bounds(part) for part in range(plan.parts)]
    return parquet_bytes(table.replace_schema_metadata({"notice": RESEARCH_USE_NOTICE}), [b - a for a, b in bounds])


def _pictures(blocks: Iterable[RowBlock], answers: dict[str, Answer], most: int) -> bytes:
    """Path, JPEG and map (float32, little-endian) of the crops that a report would show first."""
    import numpy as np
    import pyarrow

    rows = (
        block.row(place) for block in blocks for place, value in enumerate(block.probabilities) if value is not None
    )
    chosen = sorted(row.path for row in heapq.nsmallest(most, rows, key=importance))
    maps = [answers[path].activation for path in chosen]
    columns: dict[str, Any] = {
        "path": pyarrow.array(chosen, pyarrow.string()),
        "jpeg": pyarrow.array([answers[path].thumbnail or b"" for path in chosen], pyarrow.binary()),
        "map": pyarrow.array(
            [None if each is None else np.ascontiguousarray(each, "<f4").tobytes() for each in maps], pyarrow.binary()
        ),
    }
    return parquet_bytes(pyarrow.table(columns))


AnswerParts = Callable[[Job, bytes, Sequence[int], Callable[[Done], None], Callable[[], bool]], bool]
"""Answers parts somewhere: the job, the model's bytes, the parts, what is called with each that is done, and what says
that it is time to stop; True when all are done."""
