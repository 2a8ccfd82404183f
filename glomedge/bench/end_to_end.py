"""End to end: from files to journalled answers through ``glomedge.pipeline``, and the cost of each stage.

Two measurements. *Rounds*: the real pipeline over a folder, wall clock, the engine already loaded. *Stages*: the
same steps one after another, one copy on every core at once (so that they share caches and memory as in a real run),
in processor seconds (of the thread; of the process for ``infer``, which a runtime may do on its own threads), so
that a stage's time contains no waiting. From the stages follows the core-second limit: cores / processor seconds of all
stages for one crop, the throughput of a CPU whose cores are always busy. On a GPU the limit is the slower of the CPU
stages over the cores and the device stages.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from glomedge.bench.crops import folder_of
from glomedge.bench.record import STAGES, EndToEnd, Figure, StageRound
from glomedge.bench.statistics import bootstrap_median
from glomedge.engine import providers
from glomedge.errors import EngineError, ImageError
from glomedge.pipeline.batching import batches
from glomedge.pipeline.inputs import Found, scan
from glomedge.pipeline.pipeline import Pipeline
from glomedge.pipeline.prepare import Answer, thumbnail
from glomedge.pipeline.settings import Settings, decode_plan
from glomedge.results.journal import Journal
from glomedge.results.sink import FolderSink
from glomedge.results.thumbnails import ThumbnailFile
from glomedge.runs.outcome import THUMBNAIL_PX
from glomedge.runs.pipeline_run import one_opencv_thread
from glomedge.system.cpu import usable_cpus
from glomedge.system.telemetry import import_onnxruntime

if TYPE_CHECKING:
    from glomedge.engine.engine import Engine

ROUNDS = 5
STAGE_CROPS = 24
REPEATS = 6
DEVICE_STAGES = ("copy", "infer")


class _CountingSink(FolderSink):
    """The sink of ``glomedge infer``, which also counts crops without an answer."""

    failed = 0

    def rows(self, answers: Sequence[Answer]) -> None:
        self.failed += sum(answer.probability is None for answer in answers)
        super().rows(answers)


def measure(
    engine: Engine,
    files: tuple[Path, ...],
    scratch: Path,
    *,
    batch_size: int,
    duration_s: float,
    expected_per_s: float,
) -> EndToEnd:
    """Time ``ROUNDS`` passes over as many of ``files`` as fit the duration, and the stages of some of them.

    Args:
        engine: loaded for as many callers as are to use it at once.
        files: image files; on a GPU a small folder is read more than once, which ``how`` reports.
        batch_size: crops per call of the engine.
        expected_per_s: throughput of the engine alone, from which the number of crops is taken.

    Raises:
        EngineError: no crop could be answered.
    """
    from glomedge.imaging.images import ALLOWED_SUFFIXES

    gpu, cores, threads = providers.named(engine.provider).gpu, usable_cpus(), engine.runtime.concurrency
    wanted = int(np.clip(expected_per_s * duration_s / ROUNDS, 4 * batch_size, 4000))
    count = wanted if gpu else min(wanted, len(files))
    found = scan(folder_of(files, count, scratch / "end-to-end"), ALLOWED_SUFFIXES)
    plan = decode_plan(cores, gpu=gpu)
    settings = Settings(
        recipe=engine.spec.recipe,
        batch_size=batch_size,
        decode_workers=plan.workers,
        decode_processes=plan.processes,
        run_threads=threads,
        thumbnail_px=THUMBNAIL_PX,
    )
    with one_opencv_thread():
        # The first pass warms the page cache and the threads, and is not counted.
        rounds = [_pass(engine, found.root, found.inputs, settings, scratch) for _ in range(ROUNDS + 1)][1:]
        paths = [Path(os.fsdecode(found.path(item))) for item in found.inputs[:STAGE_CROPS]]
        stages = stage_seconds(engine, paths, batch_size, scratch, gpu=gpu, copies=threads)
    limit, binds = limits(stages, cores=cores, gpu=gpu)
    per_crop = bootstrap_median([[r.wall_s / count] for r in rounds])
    total = sum(stages.values())
    decoders = "processes" if settings.decode_processes else "threads"
    return EndToEnd(
        crops=count,
        rounds=tuple(rounds),
        crops_per_s=Figure(value=1 / per_crop.value, low=1 / per_crop.high, high=1 / per_crop.low),
        stages_ms={name: seconds * 1e3 for name, seconds in stages.items()},
        share={name: seconds / total for name, seconds in stages.items()},
        binds=binds,
        how=f"batch {batch_size}, {cores} decode {decoders}, {threads} run threads, {ROUNDS} rounds of {count} crops"
        + (f" ({len(files)} distinct)" if count > len(files) else ""),
        core_limit_crops_per_s=limit,
        core_limit_share=1 / per_crop.value / limit,
    )


def limits(stages_s: dict[str, float], *, cores: int, gpu: bool) -> tuple[float, str]:
    """Ideal crops per second with perfect overlap, and the bottleneck in words.

    On a CPU all stages share the same cores, so the largest stage is the bottleneck. With a separate device, both run
    in parallel and the slower one is the bottleneck.
    """
    largest = max(stages_s, key=lambda name: stages_s[name])
    if not gpu:
        total = sum(stages_s.values())
        return cores / total, f"{largest} ({stages_s[largest] / total:.0%} of the processor time)"
    host = sum(seconds for name, seconds in stages_s.items() if name not in DEVICE_STAGES)
    device = sum(stages_s[name] for name in DEVICE_STAGES)
    if host / cores > device:
        slowest = max((n for n in stages_s if n not in DEVICE_STAGES), key=lambda name: stages_s[name])
        return cores / host, f"the processor, mostly {slowest} (the device waits)"
    slowest = max(DEVICE_STAGES, key=lambda name: stages_s[name])
    return 1 / device, f"the device, mostly {slowest}"


def _pass(engine: Engine, root: bytes, inputs: Sequence[Found], settings: Settings, scratch: Path) -> StageRound:
    with _sink(engine, scratch) as sink:
        pipeline = Pipeline(root, settings, lambda: engine, sink)
        taper = not providers.named(engine.provider).gpu
        begin = time.perf_counter()
        pipeline.run(batches(inputs, inputs, (), settings.batch_size, taper=taper))
        wall_s = time.perf_counter() - begin
        if sink.failed == len(inputs):
            raise EngineError("None of the crops could be classified. Run glomedge infer on the same folder to see why")
        times = pipeline.times
        stages = {
            "read+decode": times.decode_s,
            "enhance": times.enhance_s,
            "infer": times.infer_wall_s,
            "write": times.write_s,
        }
        return StageRound(wall_s=wall_s, stages_s=stages, failed=sink.failed)


@contextmanager
def _sink(engine: Engine, scratch: Path) -> Iterator[_CountingSink]:
    folder = scratch / f"pass-{time.monotonic_ns()}"
    folder.mkdir()
    journal = Journal(folder / "journal")
    thumbnails = ThumbnailFile(folder / "thumbnails", fresh=True, map_shape=engine.spec.map_shape)
    try:
        yield _CountingSink(journal, thumbnails)
    finally:
        thumbnails.close()
        journal.close()


def stage_seconds(
    engine: Engine, paths: Sequence[Path], batch_size: int, scratch: Path, *, gpu: bool, copies: int
) -> dict[str, float]:
    """Processor seconds of one crop in each stage (mean over crops), measured by ``copies`` threads at once.

    ``read`` includes the SHA-256; ``assess`` is the quality flags. ``copy`` is the transfer of a batch to a CUDA
    device and 0 on a CPU, where crops are enhanced straight into the batch that the session reads. On a GPU ``copy``
    and ``infer`` are wall-clock seconds of the device.
    """

    def walk(index: int) -> _StageClock:
        with _sink(engine, scratch) as sink:
            return _walk(engine, [*paths[index:], *paths[:index]], batch_size, sink)

    with ThreadPoolExecutor(copies, thread_name_prefix="stages") as pool:
        clocks = list(pool.map(walk, range(copies)))
    pooled = {name: [value for clock in clocks for value in clock.samples[name]] for name in STAGES}
    means = {name: float(np.mean(values)) if values else 0.0 for name, values in pooled.items()}
    batch = _grey_batch(engine, batch_size)
    engine.infer(batch)
    if gpu:
        means["copy"], means["infer"] = _device_seconds(engine, batch)
    else:
        means["infer"] = _processor_seconds(engine, batch, copies)
    return means


def _device_seconds(engine: Engine, batch: npt.NDArray[np.uint8]) -> tuple[float, float]:
    """Wall-clock seconds of one crop for the transfer to the device, and for the rest of a call of the engine."""
    clock = _StageClock()
    for _ in range(REPEATS):
        with clock.of("copy", len(batch), wall=True):
            _transfer(batch)
        with clock.of("infer", len(batch), wall=True):
            engine.infer(batch)
    copy, call = (float(np.mean(clock.samples[name])) for name in DEVICE_STAGES)
    return copy, max(0.0, call - copy)  # a call takes the batch to the device and back


def _processor_seconds(engine: Engine, batch: npt.NDArray[np.uint8], copies: int) -> float:
    """Processor seconds of one crop, of the whole process: a runtime may compute on its own threads."""

    def calls(_: int) -> None:
        for _ in range(REPEATS):
            engine.infer(batch)

    with ThreadPoolExecutor(copies, thread_name_prefix="stages") as pool:
        begin_s = time.process_time()
        list(pool.map(calls, range(copies)))
        return (time.process_time() - begin_s) / (copies * REPEATS * len(batch))


class _StageClock:
    """Seconds of each stage, one entry a crop, by a clock that the stage names."""

    def __init__(self) -> None:
        self.samples: dict[str, list[float]] = {name: [] for name in STAGES}

    @contextmanager
    def of(self, stage: str, crops: int = 1, *, wall: bool = False) -> Iterator[None]:
        clock = time.perf_counter if wall else time.thread_time
        begin = clock()
        yield
        self.samples[stage].append((clock() - begin) / crops)


def _grey_batch(engine: Engine, batch_size: int) -> npt.NDArray[np.uint8]:
    side_px = engine.spec.input.side_px
    return np.full((batch_size, side_px, side_px, 3), 128, np.uint8)


def _walk(engine: Engine, paths: Sequence[Path], batch_size: int, sink: _CountingSink) -> _StageClock:
    from glomedge.imaging import enhance, images, quality

    batch = _grey_batch(engine, batch_size)
    clock, answers = _StageClock(), list[Answer]()
    for index, path in enumerate([*paths[:2], *paths]):  # the first two twice: they warm up
        if index == 2:
            clock, answers = _StageClock(), []
        with clock.of("read"):
            data = images.read(path)
            hashlib.sha256(data).hexdigest()
        try:
            with clock.of("decode"):
                pixels = images.decode(data).pixels_hwc
        except ImageError:
            continue
        with clock.of("assess"):
            quality.assess(pixels)
        with clock.of("enhance"):
            enhance.enhance(pixels, engine.spec.recipe, batch[index % batch_size])
        with clock.of("thumbnail"):
            small = thumbnail(pixels, THUMBNAIL_PX)
        answers.append(Answer(Found(os.fsencode(path.name)), probability=0.5, sha256="0" * 64, thumbnail=small))
    output = engine.infer(batch)
    for begin in range(0, len(answers), batch_size):
        group = answers[begin : begin + batch_size]
        for position, answer in enumerate(group):
            answer.activation = None if output.activation is None else output.activation[position]
        with clock.of("write", len(group)):
            sink.rows(group)
    return clock


def _transfer(batch: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
    """Host to CUDA device 0, as onnxruntime does it; waits until it is there."""
    ort = import_onnxruntime()

    ort.OrtValue.ortvalue_from_numpy(batch, "cuda", 0)
