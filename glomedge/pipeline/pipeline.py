"""Files in, answers out, every core busy: threads decode and enhance into batches, others feed them to the engine.

    feeder (caller's thread) -> tasks -> decode workers -> ready batches -> run threads -> sink

A fixed number of batch buffers circulates, so queues are bounded and memory does not grow with the folder. Which crops
share a batch depends on their order alone, never on timing, so the answers do not depend on the worker count. Nor do
they depend on files that cannot be read: these leave their place in the batch empty.

The feeder also watches the decoders: when one does not return in time, its file gets ``error:decoder``, its thread is
abandoned and replaced, and the buffer it may still write to is never used again. Where decoding runs in child processes
(``decode_process.py``) the child is killed instead, and its thread returns.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from glomedge.engine.views import Infer, predict_views
from glomedge.errors import GlomedgeError
from glomedge.pipeline.batching import PlacedBatch
from glomedge.pipeline.decode_process import DecodeChild, SharedBuffers
from glomedge.pipeline.inputs import Found
from glomedge.pipeline.prepare import Answer, Decoder, Pixels, default_decoder, fill, prepare
from glomedge.pipeline.settings import Settings

_TICK_S = 0.05
_STOP_WITHIN_S = 8.0
# This many at once mean broken storage or a broken decoder, not a bad file. Going on would leave a thread per crop.
MAX_HUNG_DECODERS = 32


class Sink(Protocol):
    """Where answers go. ``rows`` is called from run threads, with one complete batch each time."""

    def start(self, batch: Sequence[Found]) -> None: ...
    def rows(self, answers: Sequence[Answer]) -> None: ...
    def sync(self) -> None: ...


@dataclass
class StageTimes:
    """Processor seconds summed over threads, per stage; ``infer_wall_s`` is elapsed time of engine calls."""

    decode_s: float = 0.0
    enhance_s: float = 0.0
    infer_s: float = 0.0
    infer_wall_s: float = 0.0
    write_s: float = 0.0
    engine_load_wall_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, **seconds: float) -> None:
        """Add to the named stages; thread-safe."""
        with self.lock:
            for name, value in seconds.items():
                setattr(self, name, getattr(self, name) + value)


class _Batch:
    """One trip of a buffer: filled by decode workers, answered by a run thread."""

    def __init__(self, placed: PlacedBatch, offset: int, images: Pixels) -> None:
        self.answers = [Answer(found) for found in placed.inputs]
        self.places = placed.places  # of each answer's pixels in ``images``
        self.size = placed.size
        self.offset = offset  # in the memory shared with decode processes
        self.images = images
        self.pending = len(self.answers)
        self.retired = False


class _Worker(threading.Thread):
    """A decode thread. ``task`` and ``abandoned`` are guarded by the pipeline's lock."""

    def __init__(self, pipeline: Pipeline, child: DecodeChild | None) -> None:
        super().__init__(name="glomedge-decode", daemon=True)
        self._pipeline = pipeline
        self.child = child
        self.task: tuple[_Batch, int] | None = None  # and the number of the answer in it
        self.started_s = 0.0
        self.abandoned = False

    def run(self) -> None:
        try:
            while not self.abandoned and (task := self._pipeline.tasks.get()) is not None:
                self._pipeline.decode_one(self, task)
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, which raises it
            self._pipeline.decoder_failed(error)
        finally:
            if self.child is not None:
                self.child.close()


class Pipeline:
    """One run over a list of inputs.

    Args:
        root: folder that the inputs are relative to.
        engine: called once, on its own thread, while decoding has already begun.
        sink: receives the answers.
        stop: called many times a second; once true, batches in the engine are finished and the rest is left.
        progress: called with the number of inputs answered.
        decoder: for tests; of this process.
        child_command: for tests; starts a decode process.
    """

    def __init__(
        self,
        root: bytes,
        settings: Settings,
        engine: Callable[[], Infer],
        sink: Sink,
        *,
        stop: Callable[[], bool] = lambda: False,
        progress: Callable[[int], None] | None = None,
        decoder: Decoder | None = None,
        child_command: Sequence[str] | None = None,
    ) -> None:  # what every run gives, then what only some replace: more parameters than usual, but no second object
        self._how = settings.preparation(root)
        self._settings = settings
        self._load = engine
        self._sink = sink
        self._stop = stop
        self._progress = progress
        self._decoder = decoder
        self._child_command = child_command
        self._buffers: SharedBuffers | None = None
        self.tasks: queue.SimpleQueue[tuple[_Batch, int] | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[tuple[int, Pixels]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._abandoned: list[_Worker] = []
        self._threads: list[threading.Thread] = []
        self._unfinished = 0
        self._answered = 0
        self._failure: BaseException | None = None
        self._stopping = False
        self._engine: Infer | None = None
        self._engine_settled = threading.Event()
        self._all_answered = threading.Event()
        self.times = StageTimes()

    @property
    def hung(self) -> int:
        """How many threads are still alive after ``run``: they hang in a library."""
        return sum(thread.is_alive() for thread in (*self._threads, *self._workers, *self._abandoned))

    # The caller's thread.

    def run(self, batches: Iterable[Sequence[Found] | PlacedBatch | None]) -> bool:
        """Answer every input; ``batches`` are taken one by one as buffers become free.

        Args:
            batches: None among them says that there is no more work yet: the next one is asked for at once, after a
                look at the decoders, so whoever has none to give waits a moment before.

        Returns:
            True when all were answered, False when it was stopped.

        Raises:
            GlomedgeError: the engine failed or the sink cannot write.
        """
        settings = self._settings
        self._make_buffers()
        loader = threading.Thread(target=self._load_engine, name="glomedge-load", daemon=True)
        loader.start()
        runners = [
            threading.Thread(target=self._run_batches, name="glomedge-run", daemon=True)
            for _ in range(settings.run_threads)
        ]
        finished = False
        try:
            if self._decoder is None and not settings.decode_processes:
                self._decoder = default_decoder(follow_symlinks=settings.follow_symlinks)
            for _ in range(settings.decode_workers):
                self._add_worker()
            for runner in runners:
                runner.start()
            finished = self._feed(batches) and self._drain()
        finally:
            self._stopping = True
            for worker in self._workers:
                self.tasks.put(None)
                if worker.child is not None and not finished:
                    # It may hang on a file, and would outlive this process.
                    worker.child.kill()
            for _ in runners:
                self._ready.put(None)
            self._threads = [loader, *runners]
            # A thread still inside a C++ library when the interpreter exits can crash the process.
            deadline_s = time.monotonic() + _STOP_WITHIN_S
            killed = [worker for worker in self._abandoned if worker.child is not None]
            for thread in (*runners, *self._workers, loader, *killed):
                if thread.ident is not None:
                    thread.join(max(0.0, deadline_s - time.monotonic()))
            if self._buffers is not None:
                self._buffers.close()
            self._let_go()
            self._sink.sync()
        if self._failure is not None:
            raise self._failure
        return finished

    def _let_go(self) -> None:
        """Release the buffers' memory, which ended threads would hold until a garbage collection."""
        self._buffers, self._free = None, queue.SimpleQueue()
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        self._workers = [worker for worker in self._workers if worker.is_alive()]
        self._abandoned = [worker for worker in self._abandoned if worker.is_alive()]

    def _make_buffers(self) -> None:
        settings, side_px = self._settings, self._settings.recipe.size_px
        if settings.decode_processes:
            self._buffers = SharedBuffers(settings.buffers, settings.batch_size, side_px, self._how.grey_px)
            for number in range(settings.buffers):
                self._free.put(self._buffers.batch(number))
        else:
            for _ in range(settings.buffers):
                self._free.put((0, np.zeros((settings.batch_size, side_px, side_px, 3), np.uint8)))

    def _feed(self, batches: Iterable[Sequence[Found] | PlacedBatch | None]) -> bool:
        for each in batches:
            if each is None:
                if self._watch():
                    return False
                continue
            placed = each if isinstance(each, PlacedBatch) else PlacedBatch(each, range(len(each)), len(each))
            buffer = self._next_buffer()
            if buffer is None:
                return False
            self._sink.start(placed.inputs)
            batch = _Batch(placed, *buffer)
            with self._lock:
                self._unfinished += 1
            for number in range(len(placed.inputs)):
                self.tasks.put((batch, number))
        return True

    def _next_buffer(self) -> tuple[int, Pixels] | None:
        while not self._watch():
            try:
                return self._free.get(timeout=_TICK_S)
            except queue.Empty:
                continue
        return None

    def _drain(self) -> bool:
        while True:
            with self._lock:
                answered = self._unfinished == 0
                if not answered:
                    self._all_answered.clear()
            if answered and self._engine_settled.is_set():
                return self._failure is None
            if self._watch():
                return False
            # Woken by the last batch: polling would cost a small run a tenth of a batch.
            (self._engine_settled if answered else self._all_answered).wait(_TICK_S / 5)

    def _watch(self) -> bool:
        """Whether to stop; also replaces hung decoders, reports progress and syncs the sink."""
        if self._failure is not None or self._stop():
            return True
        limit = time.perf_counter() - self._settings.decode_timeout_s
        with self._lock:
            hung = [worker for worker in self._workers if worker.task is not None and worker.started_s < limit]
            for worker in hung:
                self._abandon(worker)
        # Workers whose child was killed, or that returned late, no longer count: a long run may meet many such files.
        self._abandoned = [worker for worker in self._abandoned if worker.is_alive()]
        if len(self._abandoned) > MAX_HUNG_DECODERS:
            raise GlomedgeError(
                f"{len(self._abandoned)} decoders hang at once, each for more than {self._settings.decode_timeout_s:g} "
                "s: the disk or network share seems to hang. Check it, or raise --decode-timeout; then continue with "
                "--resume."
            )
        self._sink.sync()
        if self._progress is not None:
            self._progress(self._answered)
        return False

    def _abandon(self, worker: _Worker) -> None:
        """Give up on a decoder (the lock is held). A child is killed; a thread can only be abandoned."""
        assert worker.task is not None
        batch, number = worker.task
        worker.abandoned, worker.task = True, None
        self._workers.remove(worker)
        self._abandoned.append(worker)
        left = batch.answers[number]
        if worker.child is not None:
            stamp = worker.child.seen()
            worker.child.kill()
        else:
            stamp = left.stamp
            batch.retired = True
        given_up = f"not decoded within {self._settings.decode_timeout_s:g} s"
        # A new Answer: the abandoned thread may still write to the old one.
        batch.answers[number] = Answer(left.found).stamped(stamp).fail("decoder", given_up)
        self._slot_done(batch)
        self._add_worker()

    def _add_worker(self) -> None:
        child = None
        if self._buffers is not None:
            child = DecodeChild(self._how, self._buffers, self._child_command)
        worker = _Worker(self, child)
        self._workers.append(worker)
        worker.start()

    def _slot_done(self, batch: _Batch) -> None:
        batch.pending -= 1
        if batch.pending == 0:
            self._ready.put(batch)

    # Decode workers.

    def decode_one(self, worker: _Worker, task: tuple[_Batch, int]) -> None:
        """Fill one place of one batch."""
        batch, number = task
        if worker.child is not None:
            worker.child.start()
        if self._stopping:
            return
        answer, place = batch.answers[number], batch.places[number]
        with self._lock:
            worker.task, worker.started_s = task, time.perf_counter()
        if worker.child is not None:
            decode_s, enhance_s = worker.child.prepare(answer, batch.offset + place * batch.images.strides[0])
        else:
            assert self._decoder is not None
            decode_s, enhance_s = prepare(answer, self._how, self._decoder, batch.images[place])
        self.times.add(decode_s=decode_s, enhance_s=enhance_s)
        with self._lock:
            if not worker.abandoned:
                worker.task = None
                self._slot_done(batch)

    def decoder_failed(self, error: BaseException) -> None:
        """A worker failed, or its child does not start: this ends the run, unless the run is already ending."""
        if not self._stopping:
            self._failure = self._failure or error

    # Run threads.

    def _load_engine(self) -> None:
        begin_s = time.perf_counter()
        try:
            self._engine = self._load()
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, which raises it
            self._failure = error
        finally:
            self.times.add(engine_load_wall_s=time.perf_counter() - begin_s)
            self._engine_settled.set()

    def _run_batches(self) -> None:
        self._engine_settled.wait()
        while (batch := self._ready.get()) is not None:
            if self._failure is not None or self._stopping:
                return
            try:
                self._run_batch(batch)
            except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, which raises it
                self._failure = self._failure or error
                return
            with self._lock:
                self._unfinished -= 1
                self._answered += len(batch.answers)
                if self._unfinished == 0:
                    self._all_answered.set()
            self._free.put((batch.offset, np.zeros_like(batch.images) if batch.retired else batch.images))

    def _run_batch(self, batch: _Batch) -> None:
        good = [
            (answer, place)
            for answer, place in zip(batch.answers, batch.places, strict=True)
            if not answer.status.startswith("error:")
        ]
        if good:
            # Empty places hold what was there before: a crop's bits depend on its place and on the number of pictures.
            images = batch.images[: batch.size]
            if batch.retired:
                images = images.copy()  # an abandoned decoder must not change what is being classified
            assert self._engine is not None
            begin_s, begin_wall_s = time.thread_time(), time.perf_counter()
            probability, disagreement, activation = predict_views(self._engine, images, self._settings.views)
            self.times.add(infer_s=time.thread_time() - begin_s, infer_wall_s=time.perf_counter() - begin_wall_s)
            for answer, place in good:
                fill(answer, probability[place], disagreement, activation, place)
        begin_s = time.thread_time()
        self._sink.rows(batch.answers)
        self.times.add(write_s=time.thread_time() - begin_s)
