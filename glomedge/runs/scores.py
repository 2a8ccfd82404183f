"""The answers of one model for a list of crops, kept in memory: what ``evaluate``, ``label`` and ``recalibrate`` share.

A labelled data set, or the crops that are to be labelled, is small; ``infer`` keeps its answers on disk.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from glomedge.engine.options import EngineOptions
from glomedge.model.file import ModelFile
from glomedge.model.spec import ModelSpec
from glomedge.pipeline.inputs import Found
from glomedge.pipeline.prepare import Answer
from glomedge.pipeline.settings import Settings, decode_plan
from glomedge.runs.pipeline_run import PipelineRun

if TYPE_CHECKING:
    from glomedge.engine.engine import Runtime

_LEAST_PROBABILITY = 1e-7
"""Below it, and as near to 1, a float32 probability says nothing more of the logit."""


@dataclass(frozen=True)
class Crops:
    """Attributes:
    root: a folder.
    inputs: crops in it.
    """

    root: Path
    inputs: Sequence[Found]


@dataclass(frozen=True)
class Scored:
    """Attributes:
    answers: of every crop that was asked for.
    runtime: that gave them.
    """

    answers: dict[Found, Answer]
    runtime: Runtime


class MemorySink:
    """Keeps the answers in memory."""

    def __init__(self) -> None:
        self.answers: dict[Found, Answer] = {}

    def start(self, batch: Sequence[Found]) -> None:
        """Does nothing."""

    def rows(self, answers: Sequence[Answer]) -> None:
        """Keep one batch; ``dict.update`` is atomic, so run threads need no lock."""
        self.answers.update({answer.found: answer for answer in answers})

    def sync(self) -> None:
        """Does nothing: there is no file to flush."""


def score(
    file: ModelFile,
    crops: Crops,
    engine: EngineOptions,
    *,
    workers: int | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: Callable[[int, int], None] | None = None,
) -> Scored | None:
    """Classify crops with the pipeline of ``infer``; None if stopped.

    Args:
        file: the model.
        crops: to classify.
        engine: how to open the model.
        workers: decode threads; None: one per core.
        stop: polled many times a second.
        progress: called with the number of crops answered, and of all.

    Raises:
        GlomedgeError: the model cannot be loaded or run.
    """
    from glomedge.engine.providers import batch_of, run_threads, runs_on_gpu

    plan = decode_plan(workers, gpu=runs_on_gpu(engine, file.spec))
    settings = Settings(
        file.spec.recipe,
        batch_of(engine, file.spec),
        decode_workers=plan.workers,
        decode_processes=plan.processes,
        run_threads=run_threads(engine, file.spec),
    )
    sink = MemorySink()
    run = PipelineRun(
        file,
        engine,
        settings,
        stop=stop,
        progress=None if progress is None else lambda done: progress(done, len(crops.inputs)),
    )
    try:
        if not run.run(os.fsencode(crops.root), crops.inputs, sink, new=crops.inputs):
            return None
        assert run.engine is not None
        runtime = run.engine.runtime
    finally:
        run.close()
    return Scored(sink.answers, runtime)


def logit_of(spec: ModelSpec, answer: Answer) -> float:
    """The logit behind an answer's probability, from the activation map where there is one: it never saturates.

    The answer must have a probability.
    """
    assert answer.probability is not None
    if answer.activation is not None:
        a, b = spec.logit_line
        return a * float(answer.activation.mean(dtype=np.float64)) + b
    p = min(max(float(answer.probability), _LEAST_PROBABILITY), 1.0 - _LEAST_PROBABILITY)
    return math.log(p / (1.0 - p))
