"""Stopping on SIGINT and SIGTERM without losing what was done."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterable, Iterator
from types import FrameType, TracebackType
from typing import Any, TypeVar

T = TypeVar("T")


class StoppedError(Exception):
    """The run was asked to stop during a step that leaves no partial results."""


def unless_stopped(items: Iterable[T], stop: Callable[[], bool]) -> Iterator[T]:
    """The items one by one; raises StoppedError once ``stop`` returns True."""
    for item in items:
        if stop():
            raise StoppedError
        yield item


class StopOnSignals:
    """While entered, the first SIGINT or SIGTERM only sets ``number``; a second one ends the process at once.

    Signals can be caught in the main thread only; elsewhere this does nothing.
    """

    CAUGHT = (signal.SIGINT, signal.SIGTERM)

    def __init__(self) -> None:
        self.number: int | None = None
        self._before: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        """Whether to stop."""
        return self.number is not None

    @property
    def exit_code(self) -> int:
        """128 + the signal's number, the convention of shells."""
        return 128 + (self.number or 0)

    def _caught(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        self._restore()

    def _restore(self) -> None:
        for caught, handler in self._before.items():
            signal.signal(caught, handler)
        self._before.clear()

    def __enter__(self) -> StopOnSignals:
        try:
            for caught in self.CAUGHT:
                self._before[caught] = signal.signal(caught, self._caught)
        except ValueError:
            # Not the main thread.
            self._before.clear()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._restore()
