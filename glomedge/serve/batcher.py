"""Enhanced crops of several requests in one call of the network.

No time is spent waiting for a batch to fill: while one is computed, the next one collects whatever comes.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from glomedge.engine.engine import Output

if TYPE_CHECKING:
    from glomedge.serve.served import ServedModel

Pixels = npt.NDArray[np.uint8]


@dataclass(eq=False)
class Unit:
    """The crops of one request, which are never divided.

    Attributes:
        model: held until it is computed, or never will be.
        images_nhwc: uint8 ``[N, side, side, 3]``.
        prepare: fills ``images_nhwc``, False where there is nothing to compute; None where they are there.
        answer: of the event loop that asks. Done before its turn (cancelled, or too late), it is never computed.
    """

    model: ServedModel
    images_nhwc: Pixels
    prepare: Callable[[], bool] | None
    answer: asyncio.Future[Output | None]


class Batcher:
    """Threads that run the network on what was submitted, first come, first served.

    Args:
        threads: batches computed at once.
        most_crops: a batch grows to this many crops, or is one unit that is larger.
        computed: called after each batch with its crops and its seconds, on the thread that computed it.
    """

    def __init__(self, threads: int, most_crops: int, computed: Callable[[int, float], None]) -> None:
        self._most_crops = most_crops
        self._computed = computed
        self._waiting: deque[Unit] = deque()
        self._lock = threading.Lock()
        self._closed = False
        # One for each unit, and at the end one for each thread. (A Condition does the same, in Python.)
        self._wakes: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._threads = [threading.Thread(target=self._work, name=f"batch-{index}") for index in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(
        self, model: ServedModel, images_nhwc: Pixels, prepare: Callable[[], bool] | None = None
    ) -> asyncio.Future[Output | None]:
        """Answers of those crops, in their order; to be called from an event loop.

        Args:
            model: is held.
            images_nhwc: uint8 ``[N, side, side, 3]``.
            prepare: called first, on the thread that computes; it fills the pixels, or says that there are none: the
                answer is None then.

        Raises:
            RuntimeError: it is closed.
        """
        answer = asyncio.get_running_loop().create_future()
        self._put(Unit(model.hold(), images_nhwc, prepare, answer))
        return answer

    def submit_when_prepared(
        self, threads: Executor, model: ServedModel, images_nhwc: Pixels, prepare: Callable[[], bool]
    ) -> asyncio.Future[Output | None]:
        """As ``submit``, but ``prepare`` is called on one of those threads, while others are computed.

        Raises:
            RuntimeError: the threads have ended. That the batcher is closed is told to the answer.
        """
        answer = asyncio.get_running_loop().create_future()
        unit = Unit(model.hold(), images_nhwc, prepare, answer)

        def prepare_and_put() -> None:
            if unit.answer.done() or not self._prepared(unit):
                unit.model.release()
                return
            unit.prepare = None
            try:
                self._put(unit)
            except RuntimeError as error:
                _settle(unit.answer, error)

        try:
            threads.submit(prepare_and_put)
        except RuntimeError:  # they have ended
            model.release()
            raise
        return answer

    def _put(self, unit: Unit) -> None:
        with self._lock:
            closed = self._closed
            if not closed:
                self._waiting.append(unit)
        if closed:
            unit.model.release()
            raise RuntimeError("the batcher is closed")
        self._wakes.put(None)

    def close(self) -> None:
        """Compute what was submitted, then end the threads."""
        with self._lock:
            self._closed = True
        for _ in self._threads:
            self._wakes.put(None)
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while units := self._take():
            self._answer(units)

    def _take(self) -> list[Unit]:
        """The units of the next batch, all of one model; none once closed and empty."""
        while True:
            self._wakes.get()
            taken: list[Unit] = []
            crops = 0
            with self._lock:
                while self._waiting and (not taken or self._fits(self._waiting[0], taken[0], crops)):
                    unit = self._waiting.popleft()
                    if unit.answer.done():
                        unit.model.release()
                        continue
                    taken.append(unit)
                    crops += len(unit.images_nhwc)
                if taken or self._closed:
                    return taken

    def _fits(self, unit: Unit, first: Unit, crops: int) -> bool:
        return unit.model is first.model and crops + len(unit.images_nhwc) <= self._most_crops

    def _answer(self, units: list[Unit]) -> None:
        try:
            self._compute([unit for unit in units if self._prepared(unit)])
        finally:
            for unit in units:
                unit.model.release()

    def _prepared(self, unit: Unit) -> bool:
        try:
            if unit.prepare is None or unit.prepare():
                return True
        except Exception as error:  # noqa: BLE001 - whoever asked is told, and the thread goes on
            _settle(unit.answer, error)
            return False
        _settle(unit.answer, None)
        return False

    def _compute(self, units: list[Unit]) -> None:
        if not units:
            return
        begin_s = time.perf_counter()
        try:
            parts = [unit.images_nhwc for unit in units]
            images = parts[0] if len(parts) == 1 else np.concatenate(parts)
            output = units[0].model.engine.infer(images)
        except Exception as error:  # noqa: BLE001 - whoever asked is told, and the thread goes on
            for unit in units:
                _settle(unit.answer, error)
            return
        self._computed(len(images), time.perf_counter() - begin_s)
        begin = 0
        for unit in units:
            end = begin + len(unit.images_nhwc)
            maps = None if output.activation is None else output.activation[begin:end]
            _settle(unit.answer, Output(output.probability[begin:end], maps))
            begin = end


def _settle(answer: asyncio.Future[Output | None], result: Output | Exception | None) -> None:
    """Give an answer to the loop that waits for it, from another thread."""

    def settle() -> None:
        if answer.done():  # cancelled, or too late
            return
        if isinstance(result, Exception):
            answer.set_exception(result)
        else:
            answer.set_result(result)

    with contextlib.suppress(RuntimeError):  # the loop is closed, so nobody waits any more
        answer.get_loop().call_soon_threadsafe(settle)
