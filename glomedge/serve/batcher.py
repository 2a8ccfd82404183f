"""Enhanced crops of several requests in one call of the network.

No time is spent waiting for a batch to fill: while one is computed, the next one collects whatever comes.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
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
        model: held until the answer is there.
        images_nhwc: uint8 ``[N, side, side, 3]``.
        answer: cancelled, it is never computed.
    """

    model: ServedModel
    images_nhwc: Pixels
    answer: Future[Output] = field(default_factory=Future)


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
        self._changed = threading.Condition()
        self._closed = False
        self._threads = [threading.Thread(target=self._work, name=f"batch-{index}") for index in range(threads)]
        for thread in self._threads:
            thread.start()

    def submit(self, model: ServedModel, images_nhwc: Pixels) -> Future[Output]:
        """Answers of those crops, in their order; RuntimeError once closed."""
        unit = Unit(model.hold(), images_nhwc)
        # Of the model alone: a callback that knew the unit would keep its pixels until the garbage is collected.
        unit.answer.add_done_callback(lambda _: model.release())
        with self._changed:
            if self._closed:
                unit.answer.cancel()
                raise RuntimeError("the batcher is closed")
            self._waiting.append(unit)
            self._changed.notify()
        return unit.answer

    def close(self) -> None:
        """Compute what was submitted, then end the threads."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while units := self._take():
            self._answer(units)

    def _take(self) -> list[Unit]:
        """The units of the next batch, all of one model; none once closed and empty."""
        with self._changed:
            while True:
                taken: list[Unit] = []
                crops = 0
                while self._waiting and (not taken or self._fits(self._waiting[0], taken[0], crops)):
                    unit = self._waiting.popleft()
                    if unit.answer.set_running_or_notify_cancel():
                        taken.append(unit)
                        crops += len(unit.images_nhwc)
                if taken or self._closed:
                    return taken
                self._changed.wait()

    def _fits(self, unit: Unit, first: Unit, crops: int) -> bool:
        return unit.model is first.model and crops + len(unit.images_nhwc) <= self._most_crops

    def _answer(self, units: list[Unit]) -> None:
        begin_s = time.perf_counter()
        try:
            parts = [unit.images_nhwc for unit in units]
            images = parts[0] if len(parts) == 1 else np.concatenate(parts)
            output = units[0].model.engine.infer(images)
        except Exception as error:  # noqa: BLE001 - whoever asked is told, and the thread goes on
            for unit in units:
                unit.answer.set_exception(error)
            return
        self._computed(len(images), time.perf_counter() - begin_s)
        begin = 0
        for unit in units:
            end = begin + len(unit.images_nhwc)
            maps = None if output.activation is None else output.activation[begin:end]
            unit.answer.set_result(Output(output.probability[begin:end], maps))
            begin = end
