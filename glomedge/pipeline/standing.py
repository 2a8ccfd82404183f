"""A pipeline that stays up between lists of crops: the engine stays warm, and so do the decode processes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence

from glomedge.engine.views import Infer
from glomedge.errors import GlomedgeError
from glomedge.pipeline.inputs import Found
from glomedge.pipeline.pipeline import Pipeline, StageTimes
from glomedge.pipeline.prepare import Answer
from glomedge.pipeline.settings import Settings

_TICK_S = 0.02
_CLOSE_WITHIN_S = 20.0


class StandingPipeline:
    """Answers lists of batches, in the order in which they come; thread-safe.

    While one caller's last batches are answered, the decoders are at the next one's first.

    Args:
        root: folder that the inputs are relative to.
        settings: of the pipeline.
        engine: called once, on a thread of its own.
    """

    def __init__(
        self,
        root: bytes,
        settings: Settings,
        engine: Callable[[], Infer],
    ) -> None:
        self._waiting: queue.SimpleQueue[Sequence[Found]] = queue.SimpleQueue()
        self._callers: dict[bytes, queue.SimpleQueue[list[Answer]]] = {}  # by input
        self._stopped = False
        self._failure: BaseException | None = None
        self._pipeline = Pipeline(root, settings, engine, self, stop=lambda: self._stopped)
        self._thread = threading.Thread(target=self._run, name="glomedge-standing", daemon=True)
        self._thread.start()

    @property
    def times(self) -> StageTimes:
        """Of all lists so far."""
        return self._pipeline.times

    def answers(self, batches: Sequence[Sequence[Found]]) -> list[Answer]:
        """Answer every crop of the batches, in their order.

        Args:
            batches: of inputs that are in no other list at the same time.

        Raises:
            GlomedgeError: the model cannot be loaded or run, or too many decoders hang; the pipeline is then over.
        """
        order = {found.relative: place for place, found in enumerate(found for batch in batches for found in batch)}
        answered = queue.SimpleQueue[list[Answer]]()
        self._callers.update(dict.fromkeys(order, answered))
        for batch in batches:
            self._waiting.put(batch)
        answers = list[Answer]()
        while len(answers) < len(order):
            try:
                answers += answered.get(timeout=_TICK_S)
            except queue.Empty:
                if not self._thread.is_alive():
                    raise self._failure or GlomedgeError("The pipeline has ended. Run again with --resume.") from None
        for name in order:
            del self._callers[name]
        return sorted(answers, key=lambda answer: order[answer.found.relative])

    def close(self) -> None:
        """End the threads and the decode processes."""
        self._stopped = True
        self._thread.join(_CLOSE_WITHIN_S)

    def _run(self) -> None:
        try:
            self._pipeline.run(self._batches())
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread, which raises it
            self._failure = error

    def _batches(self) -> Iterator[Sequence[Found] | None]:
        while True:
            try:
                yield self._waiting.get(timeout=_TICK_S)
            except queue.Empty:
                yield None

    # What the pipeline calls with its answers.

    def start(self, batch: Sequence[Found]) -> None:
        """A crash of this process costs the whole list, which is then answered elsewhere."""

    def rows(self, answers: Sequence[Answer]) -> None:
        """Hand one batch, which is of one list, to whoever waits for it."""
        self._callers[answers[0].found.relative].put(list(answers))

    def sync(self) -> None:
        """Nothing is on disk."""
