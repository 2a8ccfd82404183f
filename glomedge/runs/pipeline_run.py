"""One model over a list of crops: what ``infer`` and ``evaluate`` share, from the files found to the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import TYPE_CHECKING

from glomedge.engine import loading
from glomedge.engine.options import EngineOptions
from glomedge.errors import OutputError
from glomedge.model.file import ModelFile
from glomedge.pipeline.batching import PlacedBatch, batches, placed_batches
from glomedge.pipeline.inputs import Found
from glomedge.pipeline.pipeline import Pipeline, Sink, StageTimes
from glomedge.pipeline.prepare import Decoder
from glomedge.pipeline.settings import Settings

if TYPE_CHECKING:
    from glomedge.engine.engine import Engine


@dataclass
class PipelineRun:
    """A model, the options of its run, and the callbacks; ``close`` frees the engine.

    Attributes:
        model: the file as it was read before the run; one that has been replaced since is refused.
        options: of the engine; the batch is the one of ``settings``.
        settings: of the pipeline.
        stop: polled many times a second; once true, the run ends early.
        progress: called with the number of inputs answered.
        decoder: for tests.
        opened: called with the engine before its first answer; what it raises ends the run.
        engine: once loaded, also after the run, until ``close``.
        times: of the stages.
        hung: decoders that never came back.
    """

    model: ModelFile
    options: EngineOptions
    settings: Settings
    stop: Callable[[], bool] = lambda: False
    progress: Callable[[int], None] | None = None
    decoder: Decoder | None = None
    opened: Callable[[Engine], None] = lambda engine: None
    engine: Engine | None = field(default=None, init=False)
    times: StageTimes = field(default_factory=StageTimes, init=False)
    hung: int = field(default=0, init=False)

    def run(
        self,
        root: bytes,
        inputs: Sequence[Found],
        sink: Sink,
        *,
        new: Sequence[Found],
        again: Sequence[Found] = (),
        share: bool = False,
    ) -> bool:
        """Answer ``new`` and ``again``, which are parts of ``inputs``, below ``root``; False when it was stopped.

        The batches follow from ``inputs`` (see ``batching.batches``; ``placed_batches`` for a ``share`` of a run, whose
        other inputs other processes answer).

        Raises:
            GlomedgeError: the model cannot be loaded or run, or the sink refuses.
        """
        from glomedge.engine.providers import runs_on_gpu

        pipeline = Pipeline(
            root, self.settings, self._load, sink, stop=self.stop, progress=self.progress, decoder=self.decoder
        )
        self.times = pipeline.times
        size, taper = self.settings.batch_size, not runs_on_gpu(self.options, self.model.spec)
        work: Iterator[Sequence[Found] | PlacedBatch] = batches(inputs, new, again, size, taper=taper)
        if share:
            work = chain.from_iterable(placed_batches(inputs, some, size, taper=taper) for some in (new, again))
        with one_opencv_thread():
            try:
                return pipeline.run(work)
            finally:
                self.hung = pipeline.hung

    def close(self) -> None:
        """Free the engine, if one was loaded."""
        if self.engine is not None:
            self.engine.close()

    def _load(self) -> Engine:
        options = replace(self.options, batch_size=self.settings.batch_size)
        self.engine = engine = loading.open_engine(self.model, options, concurrency=self.settings.run_threads)
        try:
            loading.require_bf16(engine, options)
            if engine.file.sha256 != self.model.sha256:
                raise OutputError(f"{self.model.path} was replaced while the run was starting. Run the command again.")
            self.opened(engine)
        except BaseException:
            engine.close()
            raise
        return engine


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """OpenCV with one thread inside: many decoders at once are faster than one decoder with many threads."""
    import cv2

    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)
