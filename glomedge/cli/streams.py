"""Standard output that may be closed or full: the printed text is then lost, but the run is not.

The results are on disk before their summary is printed; failing to print it must not turn the run into an error.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any, TextIO


class LossyStream:
    """A text stream that discards what cannot be written and keeps the first error. All else is delegated."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.lost: OSError | None = None

    def write(self, text: str) -> int:
        """As the stream's own; text that cannot be written counts as written."""
        with self._forgiving():
            self._stream.write(text)
        return len(text)

    def writelines(self, lines: Any) -> None:
        """As the stream's own."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """As the stream's own."""
        with self._forgiving():
            self._stream.flush()

    @contextlib.contextmanager
    def _forgiving(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            self.lost = self.lost or error
            # What is still buffered would fail again when Python ends, and change the exit code.
            with contextlib.suppress(OSError):
                _send_nowhere(self._stream.fileno())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _send_nowhere(descriptor: int) -> None:
    nowhere = os.open(os.devnull, os.O_RDWR)
    if nowhere != descriptor:
        os.dup2(nowhere, descriptor)
        os.close(nowhere)


def open_closed_streams() -> bool:
    """Put the null device in the place of standard streams that are closed; whether output or errors were.

    A file opened later would otherwise take their number, and get what a library prints.
    """
    closed = []
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            closed.append(descriptor)
            _send_nowhere(descriptor)
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(descriptor, "w", encoding="utf-8", errors="replace", closefd=False))
    return 1 in closed


@contextlib.contextmanager
def lossy_output() -> Iterator[LossyStream]:
    """Standard output and standard error forgive what cannot be written while entered; gives standard output."""
    closed = open_closed_streams()
    before = sys.stdout, sys.stderr
    out = LossyStream(sys.stdout)
    if closed:
        out.lost = OSError("it is closed")
    sys.stdout, sys.stderr = out, LossyStream(sys.stderr)
    try:
        yield out
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        sys.stdout, sys.stderr = before
