"""Decoding in a process of its own: for decoders that hold Python's interpreter lock, and against those that crash.

The fast PNG decoder keeps the lock while it works, so threads share one core with it; a process each has all cores. A
decode thread of the pipeline owns one child and hands it one crop at a time. Pixels come back through memory that both
share, everything else through a pipe. A child that dies or is killed costs the crop it was at, nothing more.

``python -m glomedge.decodechild`` is the child: requests and answers are pickles, each behind its length; both ends are
this very program, and no one else holds the pipe.
"""

from __future__ import annotations

import mmap
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from glomedge.preparing import Answer, Preparation, default_decoder, prepare
from glomedge.spec import SIZE_PX

SLOT_BYTES = SIZE_PX * SIZE_PX * 3
_LENGTH = struct.Struct("<Q")


class SharedBuffers:
    """Memory for ``count`` batches of ``batch_size`` crops that child processes write into."""

    def __init__(self, count: int, batch_size: int) -> None:
        self.batch_bytes = batch_size * SLOT_BYTES
        self.size_bytes = count * self.batch_bytes
        self.descriptor = os.memfd_create("glomedge-batches")
        os.ftruncate(self.descriptor, self.size_bytes)
        self._map = mmap.mmap(self.descriptor, self.size_bytes)
        self._shape = (batch_size, SIZE_PX, SIZE_PX, 3)

    def batch(self, number: int) -> tuple[int, npt.NDArray[np.uint8]]:
        """Offset in bytes and pixels, uint8 ``[batch_size, 224, 224, 3]``, of one batch."""
        offset = number * self.batch_bytes
        flat = np.frombuffer(self._map, np.uint8, self.batch_bytes, offset)
        return offset, flat.reshape(self._shape)

    def close(self) -> None:
        """Close the descriptor; the memory goes with its last user."""
        os.close(self.descriptor)


class DecodeChild:
    """The parent's end. Used by one thread; ``kill`` may be called by another."""

    def __init__(self, how: Preparation, buffers: SharedBuffers, command: Sequence[str] | None = None) -> None:
        self._how = how
        self._buffers = buffers
        self._command = command or (sys.executable, "-m", "glomedge.decodechild")
        self._process: subprocess.Popen[bytes] | None = None
        self._killed = False

    def prepare(self, answer: Answer, offset: int) -> tuple[float, float]:
        """As ``preparing.prepare``, into the shared memory at ``offset``."""
        try:
            process = self._process
            if process is None:
                process = self._process = self._start()
            assert process.stdin is not None
            assert process.stdout is not None
            _send(process.stdin, (answer, offset))
            done, decode_s, enhance_s = _receive(process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            self._reap()
            answer.fail("decoder", "this file ended the process that decoded it")
            return 0.0, 0.0
        for name in Answer.__slots__:
            setattr(answer, name, getattr(done, name))
        return decode_s, enhance_s

    def _start(self) -> subprocess.Popen[bytes]:
        if self._killed:
            raise OSError("killed")
        descriptor = self._buffers.descriptor
        process = subprocess.Popen(
            [*self._command, str(descriptor), str(self._buffers.size_bytes)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[descriptor], start_new_session=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )  # fmt: skip
        assert process.stdin is not None
        _send(process.stdin, self._how)
        return process

    def _reap(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()

    def kill(self) -> None:
        """End the child whatever it does; the owner's ``prepare`` comes back with an error row."""
        self._killed = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the child; called by the owner between crops."""
        self._reap()


def _send(pipe: IO[bytes], message: Any) -> None:
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    pipe.write(_LENGTH.pack(len(data)) + data)
    pipe.flush()


def _receive(pipe: IO[bytes]) -> Any:
    header = pipe.read(_LENGTH.size)
    if len(header) < _LENGTH.size:
        raise EOFError
    length = _LENGTH.unpack(header)[0]
    data = pipe.read(length)
    if len(data) < length:
        raise EOFError
    return pickle.loads(data)


def main() -> None:
    """The child: ends when its standard input does."""
    import cv2

    cv2.setNumThreads(1)
    descriptor, size_bytes = int(sys.argv[1]), int(sys.argv[2])
    memory = mmap.mmap(descriptor, size_bytes)
    # Whatever a library prints must not get into the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    requests = sys.stdin.buffer
    how: Preparation = _receive(requests)
    decoder = default_decoder(follow_symlinks=how.follow_symlinks)
    while True:
        try:
            answer, offset = _receive(requests)
        except EOFError:
            return
        out = np.frombuffer(memory, np.uint8, SLOT_BYTES, offset).reshape(SIZE_PX, SIZE_PX, 3)
        decode_s, enhance_s = prepare(answer, how, decoder, out)
        _send(answers, (answer, decode_s, enhance_s))


if __name__ == "__main__":
    main()
