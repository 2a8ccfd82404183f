"""Files in, answers out, every core busy: threads decode and enhance into batches, others feed them to the engine.

    feeder (caller's thread) -> tasks -> decode workers -> ready batches -> run threads -> sink

A fixed number of batch buffers goes round, so queues are bounded and memory does not grow with the folder. Which crops
share a batch follows from their order alone, never from timing, so the answers do not depend on the worker count.

The feeder also watches: a decoder that does not come back in time loses its file (``error:decoder``), its thread is
left behind and replaced, and the buffer it may still write to is never used again.
"""

from __future__ import annotations

import functools
import hashlib
import os
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from glomedge.errors import GlomedgeError, ImageError
from glomedge.scan import Found
from glomedge.spec import SIZE_PX, Recipe

Pixels = npt.NDArray[np.uint8]
_TICK_S = 0.05
_STOP_WITHIN_S = 8.0
# Beyond this the storage or the decoder is broken, not a file; going on would leave a thread behind for every crop.
MAX_HUNG_DECODERS = 32


class InferOutput(Protocol):
    """What an engine answers (``engine.Output``)."""

    @property
    def probability(self) -> npt.NDArray[np.float32]: ...
    @property
    def activation(self) -> npt.NDArray[np.float32]: ...


class Infer(Protocol):
    """The part of ``engine.Engine`` that the pipeline needs; called from several threads at once."""

    def infer(self, images_nhwc: Pixels, /) -> InferOutput:
        """uint8 ``[N, 224, 224, 3]`` to probabilities ``[N]`` and maps ``[N, 7, 7]``."""
        ...


@dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes:
        recipe: of the model.
        batch_size: crops per call of the engine.
        decode_workers, run_threads: threads of either kind.
        decode_timeout_s: longest time from opening a file to its enhanced pixels.
        views: 1, or 8 for the mean over flips and quarter turns.
        thumbnail_px: longer side of the JPEG kept for the report; 0 for none.
        follow_symlinks: whether linked files may be read.
    """

    recipe: Recipe
    batch_size: int = 4
    decode_workers: int = 2
    run_threads: int = 2
    decode_timeout_s: float = 30.0
    views: int = 1
    thumbnail_px: int = 0
    follow_symlinks: bool = False


@dataclass(slots=True)
class Answer:
    """What became of one input. ``probability`` is None exactly where ``status`` begins with ``error:``."""

    found: Found
    status: str = "ok"
    probability: float | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    mtime_ns: int | None = None
    message: str = ""
    disagreement: float | None = None
    activation: npt.NDArray[np.float32] | None = None
    thumbnail: bytes | None = None

    def fail(self, code: str, message: str) -> Answer:
        """Turn into an error row."""
        # Messages of libraries may quote names that are no text; results are UTF-8.
        self.message = message.encode("utf-8", "backslashreplace").decode("utf-8")
        self.status, self.probability, self.disagreement = f"error:{code}", None, None
        return self


class Sink(Protocol):
    """Where answers go. ``rows`` is called from run threads, one batch whole each time."""

    def start(self, batch: Sequence[Found]) -> None: ...
    def rows(self, answers: Sequence[Answer]) -> None: ...
    def sync(self) -> None: ...


@dataclass
class StageTimes:
    """Processor seconds summed over threads, apart for each stage; ``infer_wall_s`` is elapsed time of engine calls."""

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


class Decoder(NamedTuple):
    """The steps from a path to pixels; tests put a hanging or failing one in."""

    read: Callable[[bytes], bytes]
    decode: Callable[[bytes], Any]
    assess: Callable[[Pixels], tuple[str, ...]]
    enhance: Callable[[Pixels, Recipe, Pixels], Any]


def default_decoder(*, follow_symlinks: bool = False) -> Decoder:
    """images, quality and preprocess; imported here because OpenCV takes a tenth of a second."""
    from glomedge import images, preprocess, quality

    read = functools.partial(images.read, follow_symlinks=follow_symlinks)
    return Decoder(read, images.decode, quality.assess, preprocess.enhance)


class _Batch:
    """One buffer's way round: filled by decode workers, answered by a run thread."""

    def __init__(self, inputs: Sequence[Found], buffer: Pixels) -> None:
        self.answers = [Answer(found) for found in inputs]
        self.images = buffer
        self.pending = len(inputs)
        self.retired = False


class _Worker(threading.Thread):
    """A decode thread. ``task`` and ``abandoned`` are guarded by the pipeline's lock."""

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(name="glomedge-decode", daemon=True)
        self._pipeline = pipeline
        self.task: tuple[_Batch, int] | None = None
        self.started_s = 0.0
        self.abandoned = False

    def run(self) -> None:
        while not self.abandoned:
            task = self._pipeline.tasks.get()
            if task is None:
                return
            self._pipeline.decode_one(self, task)


class Pipeline:
    """One run over a list of inputs.

    Args:
        root: folder that the inputs are relative to.
        engine: called once, on a thread of its own, while decoding has already begun.
        sink: receives the answers.
        stop: asked many times a second; once true, batches in the engine are finished and the rest is left.
        progress: called with the number of inputs answered.
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
    ) -> None:
        self._root = root
        self._settings = settings
        self._load = engine
        self._sink = sink
        self._stop = stop
        self._progress = progress
        self._decoder = decoder
        self.tasks: queue.SimpleQueue[tuple[_Batch, int] | None] = queue.SimpleQueue()
        self._ready: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._free: queue.SimpleQueue[Pixels] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self._hung = 0
        self._unfinished = 0
        self._answered = 0
        self._failure: BaseException | None = None
        self._stopping = False
        self._engine: Infer | None = None
        self._engine_settled = threading.Event()
        self.times = StageTimes()

    @property
    def hung(self) -> int:
        """How many decoders were given up; their threads may still be there."""
        return self._hung

    # The caller's thread.

    def run(self, batches: Iterable[Sequence[Found]]) -> bool:
        """Answer every input; ``batches`` are taken one by one as buffers fall free.

        Returns:
            True when all were answered, False when it was stopped.

        Raises:
            GlomedgeError: the engine failed or the sink cannot write.
        """
        settings = self._settings
        shape = (settings.batch_size, SIZE_PX, SIZE_PX, 3)
        # One being filled and one waiting for each run thread, and two more so that no decoder waits for a buffer.
        for _ in range(2 * settings.run_threads + 2):
            self._free.put(np.zeros(shape, np.uint8))
        loader = threading.Thread(target=self._load_engine, name="glomedge-load", daemon=True)
        loader.start()
        runners = [
            threading.Thread(target=self._run_batches, name="glomedge-run", daemon=True)
            for _ in range(settings.run_threads)
        ]
        finished = False
        try:
            if self._decoder is None:
                self._decoder = default_decoder(follow_symlinks=settings.follow_symlinks)
            for _ in range(settings.decode_workers):
                self._add_worker()
            for runner in runners:
                runner.start()
            finished = self._feed(batches) and self._drain()
        finally:
            self._stopping = True
            for _ in self._workers:
                self.tasks.put(None)
            for _ in runners:
                self._ready.put(None)
            # A thread still inside a C++ library when the interpreter ends takes the process down with it.
            deadline_s = time.monotonic() + _STOP_WITHIN_S
            for thread in (*runners, *self._workers, loader):
                if thread.ident is not None:
                    thread.join(max(0.0, deadline_s - time.monotonic()))
            self._sink.sync()
        if self._failure is not None:
            raise self._failure
        return finished

    def _feed(self, batches: Iterable[Sequence[Found]]) -> bool:
        for inputs in batches:
            buffer = self._next_buffer()
            if buffer is None:
                return False
            self._sink.start(inputs)
            batch = _Batch(inputs, buffer)
            with self._lock:
                self._unfinished += 1
            for slot in range(len(inputs)):
                self.tasks.put((batch, slot))
        return True

    def _next_buffer(self) -> Pixels | None:
        while not self._watch():
            try:
                return self._free.get(timeout=_TICK_S)
            except queue.Empty:
                continue
        return None

    def _drain(self) -> bool:
        while True:
            with self._lock:
                if self._unfinished == 0 and self._engine_settled.is_set():
                    return self._failure is None
            if self._watch():
                return False
            time.sleep(_TICK_S / 5)

    def _watch(self) -> bool:
        """Whether to stop; on the way, replaces hung decoders, reports progress and syncs the sink."""
        if self._failure is not None or self._stop():
            return True
        limit = time.perf_counter() - self._settings.decode_timeout_s
        with self._lock:
            hung = [worker for worker in self._workers if worker.task is not None and worker.started_s < limit]
            for worker in hung:
                self._abandon(worker)
        if self._hung > MAX_HUNG_DECODERS:
            raise GlomedgeError(
                f"{self._hung} files were not decoded within {self._settings.decode_timeout_s:g} s each: the disk or "
                "network share seems to hang. Check it, or raise --decode-timeout; then go on with --resume."
            )
        self._sink.sync()
        if self._progress is not None:
            self._progress(self._answered)
        return False

    def _abandon(self, worker: _Worker) -> None:
        """Give up on a decoder (the lock is held). Its thread cannot be killed, only left behind."""
        assert worker.task is not None
        batch, slot = worker.task
        worker.abandoned, worker.task = True, None
        self._workers.remove(worker)
        self._hung += 1
        batch.retired = True
        # A new Answer: the thread left behind may still write to the old one.
        batch.answers[slot] = Answer(batch.answers[slot].found).fail(
            "decoder", f"not decoded within {self._settings.decode_timeout_s:g} s"
        )
        self._slot_done(batch)
        self._add_worker()

    def _add_worker(self) -> None:
        worker = _Worker(self)
        self._workers.append(worker)
        worker.start()

    def _slot_done(self, batch: _Batch) -> None:
        batch.pending -= 1
        if batch.pending == 0:
            self._ready.put(batch)

    # Decode workers.

    def decode_one(self, worker: _Worker, task: tuple[_Batch, int]) -> None:
        """Fill one slot of one batch."""
        batch, slot = task
        if self._stopping:
            return
        answer = batch.answers[slot]
        with self._lock:
            worker.task, worker.started_s = task, time.perf_counter()
        try:
            self._prepare(answer, batch.images[slot])
        except ImageError as error:
            answer.fail(error.code, str(error))
        except MemoryError:
            answer.fail("too_large", "not enough memory to decode it")
        except Exception as error:  # noqa: BLE001 - one file's defect must never take another file's row with it
            answer.fail("decoder", f"{type(error).__name__}: {error}")
        with self._lock:
            if not worker.abandoned:
                worker.task = None
                self._slot_done(batch)

    def _prepare(self, answer: Answer, out: Pixels) -> None:
        if answer.found.error is not None:
            raise ImageError(answer.found.error, _SCAN_ERRORS.get(answer.found.error, answer.found.error))
        assert self._decoder is not None
        begin_s = time.thread_time()
        path = os.path.join(self._root, answer.found.relative)  # noqa: PTH118 (bytes)
        try:
            answer.mtime_ns = os.stat(path, follow_symlinks=self._settings.follow_symlinks).st_mtime_ns  # noqa: PTH116
        except OSError:
            # images.read says what is wrong.
            answer.mtime_ns = None
        data = self._decoder.read(path)
        answer.size_bytes = len(data)
        answer.sha256 = hashlib.sha256(data).hexdigest()
        decoded = self._decoder.decode(data)
        pixels = decoded.pixels_hwc
        decoded_s = time.thread_time()
        flags = dict.fromkeys((*decoded.flags, *self._decoder.assess(pixels)))
        if flags:
            answer.status = f"flagged:{'+'.join(flags)}"
        self._decoder.enhance(pixels, self._settings.recipe, out)
        if self._settings.thumbnail_px:
            answer.thumbnail = thumbnail(pixels, self._settings.thumbnail_px)
        self.times.add(decode_s=decoded_s - begin_s, enhance_s=time.thread_time() - decoded_s)

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
            self._free.put(np.zeros_like(batch.images) if batch.retired else batch.images)

    def _run_batch(self, batch: _Batch) -> None:
        good = [slot for slot, answer in enumerate(batch.answers) if not answer.status.startswith("error:")]
        if good:
            # Fancy indexing copies, so a decoder left behind cannot change what is being predicted on.
            whole = good == list(range(len(good))) and not batch.retired
            images = batch.images[: len(good)] if whole else batch.images[good]
            assert self._engine is not None
            begin_s, begin_wall_s = time.thread_time(), time.perf_counter()
            probability, disagreement, activation = predict_views(self._engine, images, self._settings.views)
            self.times.add(infer_s=time.thread_time() - begin_s, infer_wall_s=time.perf_counter() - begin_wall_s)
            for index, slot in enumerate(good):
                _fill(batch.answers[slot], probability[index], disagreement, activation, index)
        begin_s = time.thread_time()
        self._sink.rows(batch.answers)
        self.times.add(write_s=time.thread_time() - begin_s)


_SCAN_ERRORS = {
    "decoder": "this file ended the process that decoded it, in an earlier run",
    "permission": "permission denied",
    "not_regular": "a FIFO, socket or device, never opened",
    "vanished": "gone while the folder was read",
    "io": "the folder could not be read",
}


def shortest(value: np.float32) -> float:
    """The float whose shortest decimal is that of the float32: ``0.1``, not ``0.10000000149``."""
    return float(str(value))


def _fill(
    answer: Answer,
    probability: np.float32,
    disagreement: npt.NDArray[np.float32] | None,
    activation: npt.NDArray[np.float32],
    index: int,
) -> None:
    if not (np.isfinite(probability) and np.isfinite(activation[index]).all()):
        answer.fail("nonfinite", "The network gave a number that is not finite. Check the model: glomedge doctor")
        return
    answer.probability = shortest(probability)
    answer.activation = activation[index]
    if disagreement is not None:
        answer.disagreement = shortest(disagreement[index])


def predict_views(
    engine: Infer, images_nhwc: Pixels, views: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None, npt.NDArray[np.float32]]:
    """Probability ``[N]``, disagreement ``[N]`` and maps ``[N, 7, 7]``, all float32.

    Disagreement is the largest minus the smallest probability over the views, None for one view. With 8 views
    the probability is the mean over the four quarter turns of the crop and of its mirror image, and the map is the mean
    of the maps turned back.
    """
    if views == 1:
        output = engine.infer(images_nhwc)
        return output.probability, None, output.activation
    probabilities, maps = [], []
    for mirrored in (False, True):
        source = images_nhwc[:, :, ::-1] if mirrored else images_nhwc
        for turns in range(4):
            output = engine.infer(np.ascontiguousarray(np.rot90(source, turns, axes=(1, 2))))
            probabilities.append(output.probability)
            back = np.rot90(output.activation, -turns, axes=(1, 2))
            maps.append(back[:, :, ::-1] if mirrored else back)
    stacked = np.stack(probabilities).astype(np.float64)
    spread = (stacked.max(axis=0) - stacked.min(axis=0)).astype(np.float32)
    activation = np.stack(maps).astype(np.float64).mean(axis=0)
    return stacked.mean(axis=0).astype(np.float32), spread, activation.astype(np.float32)


def thumbnail(pixels_hwc: Pixels, longer_side_px: int) -> bytes:
    """A small JPEG of an RGB crop, never larger than the crop."""
    import cv2

    height, width = pixels_hwc.shape[:2]
    # Whole-number skipping first: area averaging over a thousand pixels a side costs more than the picture is worth.
    step = max(1, max(height, width) // (2 * longer_side_px))
    small = pixels_hwc[::step, ::step]
    scale = min(1.0, longer_side_px / max(small.shape[:2]))
    size = max(1, round(small.shape[1] * scale)), max(1, round(small.shape[0] * scale))
    bgr = cv2.cvtColor(cv2.resize(np.ascontiguousarray(small), size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, 72])
    if not done:
        raise ImageError("decoder", "no thumbnail could be made of it")
    return bytes(data)
