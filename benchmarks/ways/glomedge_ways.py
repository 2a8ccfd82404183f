"""glomedge in each precision and on each provider: the engine as the pipeline calls it, and the pipeline itself."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from benchmarks.ways import Context, Run
from glomedge.engine import engine as engines
from glomedge.engine import loading
from glomedge.engine.options import EngineOptions
from glomedge.engine.providers import named, usual_batch
from glomedge.errors import ModelError
from glomedge.imaging.images import ALLOWED_SUFFIXES
from glomedge.pipeline.batching import batches
from glomedge.pipeline.decode_process import processes_pay
from glomedge.pipeline.inputs import scan
from glomedge.pipeline.pipeline import Pipeline
from glomedge.pipeline.prepare import Answer
from glomedge.pipeline.settings import Settings
from glomedge.results.journal import Journal
from glomedge.results.sink import FolderSink
from glomedge.results.thumbnails import ThumbnailFile
from glomedge.runs.outcome import THUMBNAIL_PX
from glomedge.system.cpu import usable_cpus

GPU = ("cuda", "tensorrt", "tensorrt-rtx")


def fp32_cpu(context: Context) -> Run:
    """The fp32 file on onnxruntime's CPU provider."""
    return _way(context, "model.onnx", "cpu")


def fp32_cpu_own(context: Context) -> Run:
    """The fp32 file laid out for onnxruntime, on its CPU provider."""
    return _way(context, "model.fp32.onnxruntime.onnx", "cpu")


def int8_cpu(context: Context) -> Run:
    """The int8 file laid out for onnxruntime, on its CPU provider."""
    return _way(context, "model.int8.onnxruntime.onnx", "cpu")


def fp32_openvino(context: Context) -> Run:
    """The fp32 file on OpenVINO."""
    return _way(context, "model.onnx", "openvino")


def bf16_openvino(context: Context) -> Run:
    """The fp32 file on OpenVINO, computed in bfloat16 where the processor has it."""
    return _way(context, "model.onnx", "openvino", bf16=True)


def int8_openvino(context: Context) -> Run:
    """The int8 file laid out for OpenVINO, on OpenVINO."""
    return _way(context, "model.int8.openvino.onnx", "openvino")


def fp32_cuda(context: Context) -> Run:
    """The fp32 file on CUDA."""
    return _way(context, "model.onnx", "cuda")


def fp16_cuda(context: Context) -> Run:
    """The fp16 file on CUDA."""
    return _way(context, "model.fp16.onnx", "cuda")


def fp16_tensorrt(context: Context) -> Run:
    """The fp16 file on TensorRT."""
    return _way(context, "model.fp16.onnx", "tensorrt")


def int8_tensorrt(context: Context) -> Run:
    """The int8 file laid out for TensorRT, on TensorRT."""
    return _way(context, "model.int8.tensorrt.onnx", "tensorrt")


def _way(context: Context, model: str, provider: str, *, bf16: bool = False) -> Run:
    path = find(context.artifacts, model)
    threads = 2 if provider in GPU else min(usable_cpus(), 8)
    engine = loading.load(path, provider, concurrency=threads, bf16=bf16)
    if context.mode == "engine":
        return _engine_run(engine, context, threads)
    return _files_run(engine, context, threads)


def find(artifacts: Path, model: str) -> Path:
    """The file, or the one of the same precision without or with a target in its name."""
    exact = artifacts / model
    if exact.is_file():
        return exact
    precision = model.split(".")[1]
    others = sorted(artifacts.glob(f"model.{precision}*.onnx"))
    if len(others) == 1:
        return others[0]
    raise ModelError(f"There is no {model} in {artifacts.name}. Make it with: glomedge export --precision {precision}")


def _engine_run(engine: engines.Engine, context: Context, threads: int) -> Run:
    images = context.images()
    size = usual_batch(EngineOptions(engine.provider), engine.spec)
    batches = [np.ascontiguousarray(images[i : i + size]) for i in range(0, len(images), size)]
    pool = ThreadPoolExecutor(threads)

    def run() -> list[float]:
        outputs = pool.map(engine.infer, batches)
        return [float(p) for p in np.concatenate([output.probability for output in outputs])]

    return run


class _CollectingSink(FolderSink):
    """The sink of ``glomedge infer``, which also keeps the probabilities for the comparison of answers."""

    def __init__(self, journal: Journal, thumbnails: ThumbnailFile) -> None:
        super().__init__(journal, thumbnails)
        self.probabilities: dict[bytes, float] = {}

    def rows(self, answers: Sequence[Answer]) -> None:
        """Keep one batch."""
        for answer in answers:
            answered = float("nan") if answer.probability is None else answer.probability
            self.probabilities[answer.found.relative] = answered
        super().rows(answers)


def _files_run(engine: engines.Engine, context: Context, threads: int) -> Run:
    import cv2

    cv2.setNumThreads(1)
    size = usual_batch(EngineOptions(engine.provider), engine.spec)
    settings = Settings(
        recipe=engine.spec.recipe,
        batch_size=size,
        decode_workers=usable_cpus(),
        decode_processes=processes_pay(usable_cpus(), gpu=named(engine.provider).gpu),
        run_threads=threads,
        thumbnail_px=THUMBNAIL_PX,
    )
    passes = 0

    def run() -> list[float]:
        nonlocal passes
        passes += 1
        found = scan(context.folder, ALLOWED_SUFFIXES)
        journal = Journal(context.scratch / f"journal-{passes}")
        thumbnails = ThumbnailFile(
            context.scratch / f"thumbnails-{passes}", fresh=True, map_shape=engine.spec.map_shape
        )
        try:
            sink = _CollectingSink(journal, thumbnails)
            pipeline = Pipeline(found.root, settings, lambda: engine, sink)
            pipeline.run(batches(found.inputs, found.inputs, (), size, taper=not named(engine.provider).gpu))
            journal.sync()
        finally:
            journal.close()
            thumbnails.close()
        return [sink.probabilities[os.fsencode(path.relative_to(context.folder))] for path in context.files()]

    return run
