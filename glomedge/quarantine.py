"""Which file kills the decoder? Asked in a child process, after a run that ended in a crash.

``python -m glomedge.quarantine`` reads file names, each ended by a zero byte, decodes one after the other and says so
on its standard output. Where it dies or falls silent, the file it was at is the one.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from glomedge.errors import GlomedgeError

_READY = b"ready\n"
_NEXT = b"next\n"
_START_TIMEOUT_S = 60.0


def find_killers(paths: Sequence[bytes], timeout_s: float, command: Sequence[str] | None = None) -> list[int]:
    """Positions of the files that a child process did not survive decoding, or did not finish in time.

    Args:
        command: the child; tests put their own in.

    Raises:
        GlomedgeError: the child does not even start.
    """
    killers: list[int] = []
    begin = 0
    while begin < len(paths):
        survived = _survived(paths[begin:], timeout_s, command or (sys.executable, "-m", "glomedge.quarantine"))
        begin += survived
        if begin < len(paths):
            killers.append(begin)
            begin += 1
    return killers


def _survived(paths: Sequence[bytes], timeout_s: float, command: Sequence[str]) -> int:
    """How many files one child gets through."""
    with tempfile.TemporaryFile() as names:
        names.write(b"".join(path + b"\0" for path in paths))
        names.seek(0)
        with subprocess.Popen(
            command, stdin=names, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, bufsize=0, start_new_session=True
        ) as child:
            try:
                assert child.stdout is not None
                stdout = child.stdout.fileno()
                if not _expect(stdout, _READY, _START_TIMEOUT_S):
                    raise GlomedgeError(
                        "The files that were open when the last run ended cannot be checked: a child process does not "
                        f"start ({' '.join(command)}). Start over with --overwrite."
                    )
                return next(
                    (position for position in range(len(paths)) if not _expect(stdout, _NEXT, timeout_s)), len(paths)
                )
            finally:
                child.kill()


def _expect(descriptor: int, text: bytes, timeout_s: float) -> bool:
    """Whether exactly that text comes within the time."""
    deadline_s = time.perf_counter() + timeout_s
    received = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while len(received) < len(text):
            if not selector.select(max(0.0, deadline_s - time.perf_counter())):
                return False
            part = os.read(descriptor, len(text) - len(received))
            if not part:
                return False
            received += part
    return received == text


def main() -> None:
    """The child."""
    import numpy as np

    from glomedge.preparing import Answer, Preparation, default_decoder, prepare
    from glomedge.scan import Found
    from glomedge.spec import SIZE_PX, Recipe

    paths = sys.stdin.buffer.read().split(b"\0")[:-1]
    how, decoder = Preparation(b"", Recipe(), thumbnail_px=64), default_decoder()
    out = np.empty((SIZE_PX, SIZE_PX, 3), np.uint8)
    os.write(1, _READY)
    for path in paths:
        # What becomes an error row in the run is none here; all that matters is that this process outlives it.
        prepare(Answer(Found(path)), how, decoder, out)
        os.write(1, _NEXT)


if __name__ == "__main__":
    main()
