"""The server's signals, through whatever the system has."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable


def on_signals(loop: asyncio.AbstractEventLoop, *, stop: Callable[[], None], swap: Callable[[], None]) -> None:
    """Call ``stop`` on SIGTERM, SIGINT and, on Windows, Ctrl-Break; ``swap`` on SIGHUP, which Windows lacks.

    Main thread only. The loop of Windows handles no signals: there Python's own handlers wake it.
    """
    wanted = {"SIGTERM": stop, "SIGINT": stop, "SIGBREAK": stop, "SIGHUP": swap}
    for name, act in wanted.items():
        number = getattr(signal, name, None)
        if number is None:
            continue
        try:
            loop.add_signal_handler(number, act)
        except NotImplementedError:
            signal.signal(number, _handler(loop, act))


def _handler(loop: asyncio.AbstractEventLoop, act: Callable[[], None]) -> Callable[[int, object], None]:
    def handle(_number: int, _frame: object) -> None:
        loop.call_soon_threadsafe(act)

    return handle
