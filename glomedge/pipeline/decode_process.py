"""Decoding in child processes: for decoders that hold Python's interpreter lock, and to contain crashes.

The fast PNG decoder holds the lock while it works, so its threads share one core; separate processes use all cores. A
decode thread of the pipeline owns one child and gives it one crop at a time. Pixels are returned through shared memory,
everything else through a pipe. A child that dies or is killed costs only its current crop, whose size and SHA-256 it
has written to a memory file before decoding.

``python -m glomedge.pipeline.decode_process`` is the child: requests and answers are pickles, each after its length;
both ends are this program, and no other process holds the pipes. Answers have a separate pipe, because anything may
print to standard output while Python starts.
"""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import pickle
import selectors
import struct
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import IO, Any

import numpy as np
import numpy.typing as npt

from glomedge.errors import GlomedgeError
from glomedge.files.descriptors import read_at
from glomedge.files.names import escape_name
from glomedge.pipeline.prepare import Answer, Preparation, Stamp, default_decoder, prepare
from glomedge.system.children import child_environment, python_command

_LENGTH = struct.Struct("<Q")
_START_TIMEOUT_S = 60.0
# A broken file can make libtiff or libpng write a line a row.
_MAX_LINES_BYTES = 2000


def processes_possible() -> bool:
    """Whether this system hands open files to a child by their numbers; Windows does not."""
    return os.name == "posix"


def processes_pay(workers: int, *, gpu: bool) -> bool:
    """Whether that many decoders are faster in separate processes.

    Threads are cheaper, but a decoder that holds the interpreter lock serialises them: true from four workers on, and
    from two if a GPU runs the model, because decoding is then the bottleneck and the only work of the cores.

    OpenCV's decoder lets go of the lock, and two threads of it are worth 1.83 of one: 9% of its work is serial, so that
    16 threads would be worth 6.7 (Amdahl). Beside the network on a CPU that does not show; with a GPU, processes pay
    from four workers on.
    """
    from glomedge.imaging.decoders import fast_png_decoder

    if fast_png_decoder() is None:
        return gpu and workers >= 4
    return workers >= (2 if gpu else 4)


def grey_pays() -> bool:
    """Whether crops in grey can also be shared: without memory files they would take space on disk."""
    return hasattr(os, "memfd_create")


def _memory_file(name: str) -> int:
    """Descriptor of an empty file without a name, in memory where the system can."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(name)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class SharedBuffers:
    """Memory for ``count`` batches of ``batch_size`` crops of side ``side_px`` that child processes write into.

    Behind the batches, each crop has room for ``grey_px`` bytes: itself in grey, for its heatmap.

    Raises:
        GlomedgeError: there is not enough memory.
    """

    def __init__(self, count: int, batch_size: int, side_px: int, grey_px: int = 0) -> None:
        self.slot_bytes = slot_bytes(side_px)
        self.batch_bytes = batch_size * self.slot_bytes
        self.size_bytes = count * batch_size * (self.slot_bytes + grey_px)
        self._grey_px = grey_px
        self.descriptor = _memory_file("glomedge-batches")
        try:
            os.ftruncate(self.descriptor, self.size_bytes)
            self._map = mmap.mmap(self.descriptor, self.size_bytes)
        except OSError as error:
            os.close(self.descriptor)
            raise GlomedgeError(
                f"{self.size_bytes >> 20} MB of memory for the decode processes could not be allocated: "
                f"{error.strerror}. Use a smaller --batch-size, or --decode-in threads."
            ) from None
        self._shape = (batch_size, side_px, side_px, 3)

    def batch(self, number: int) -> tuple[int, npt.NDArray[np.uint8]]:
        """Offset in bytes and pixels, uint8 ``[batch_size, side_px, side_px, 3]``, of one batch."""
        offset = number * self.batch_bytes
        flat = np.frombuffer(self._map, np.uint8, self.batch_bytes, offset)
        return offset, flat.reshape(self._shape)

    def grey(self, offset: int, shape: tuple[int, int]) -> npt.NDArray[np.uint8]:
        """The crop whose pixels are at ``offset``, in grey, uint8 ``[H, W]``; valid until the batch is used again."""
        area = _grey_area(self._map, offset, self.slot_bytes, self._grey_px)
        return area[: shape[0] * shape[1]].reshape(shape)

    def close(self) -> None:
        """Close the descriptor; the memory goes with its last user."""
        os.close(self.descriptor)


def slot_bytes(side_px: int) -> int:
    """Bytes of one enhanced crop."""
    return side_px * side_px * 3


def _grey_area(memory: mmap.mmap, offset: int, slot: int, grey_px: int) -> npt.NDArray[np.uint8]:
    """The space for the grey version of the crop whose ``slot`` bytes are at ``offset``: uint8 ``[grey_px]``."""
    slots = len(memory) // (slot + grey_px)
    return np.frombuffer(memory, np.uint8, grey_px, slots * slot + offset // slot * grey_px)


class DecodeChild:
    """The parent's end. Used by one thread; ``kill`` and ``seen`` may be called by another."""

    def __init__(self, how: Preparation, buffers: SharedBuffers, command: Sequence[str] | None = None) -> None:
        self._how = how
        self._buffers = buffers
        self._command = command or python_command("glomedge.pipeline.decode_process")
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: IO[bytes] | None = None
        self._seen = _memory_file("glomedge-seen")
        self._lines = _memory_file("glomedge-stderr")
        self._killed = False

    def start(self) -> None:
        """Start the process if none is running; it is ready on return, so that no crop's time limit includes the start.

        Raises:
            GlomedgeError: it cannot be started.
        """
        if self._process is not None and self._process.poll() is None:
            return
        # One that died between two crops (out of memory) is not blamed on a crop.
        self._reap()
        try:
            if self._killed:
                raise OSError("killed")
            self._process = self._spawn()
            requests, answers = self._pipes(self._process)
            _send(requests, self._how)
            with selectors.DefaultSelector() as selector:
                selector.register(answers, selectors.EVENT_READ)
                if not selector.select(_START_TIMEOUT_S):
                    raise TimeoutError(f"not ready after {_START_TIMEOUT_S:g} s")
            _receive(answers)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            self._reap()
            raise GlomedgeError(
                f"A decode process could not be started ({str(error) or 'it ended at once'}). Free memory, or use "
                "fewer --workers or --decode-in threads; then run again with --resume."
            ) from None

    def prepare(self, answer: Answer, offset: int) -> tuple[float, float]:
        """As ``prepare.prepare``, into the shared memory at ``offset``; ``start`` comes first."""
        assert self._process is not None
        requests, answers = self._pipes(self._process)
        os.ftruncate(self._seen, 0)
        try:
            _send(requests, (answer, offset))
            done, grey_shape, decode_s, enhance_s = _receive(answers)
        except (OSError, EOFError, pickle.UnpicklingError):
            self._reap()
            # Also its last lines: an abort prints the reason.
            _pass_on(self._lines, 2, answer.found.relative)
            answer.stamped(self.seen()).fail("decoder", "this file ended the process that decoded it")
            return 0.0, 0.0
        for name in Answer.__slots__:
            setattr(answer, name, getattr(done, name))
        if grey_shape is not None:
            answer.grey = self._buffers.grey(offset, grey_shape)
        return decode_s, enhance_s

    def seen(self) -> Stamp:
        """Of the file that the child is decoding, or died at; empty if its bytes had not been read."""
        try:
            return Stamp(*json.loads(read_at(self._seen, 4096, 0)))
        except ValueError:
            return Stamp()

    def _spawn(self) -> subprocess.Popen[bytes]:
        reading, writing = os.pipe()
        self._answers = os.fdopen(reading, "rb")
        descriptors = [self._buffers.descriptor, self._seen, writing, self._lines]
        try:
            return subprocess.Popen(
                [*self._command, *map(str, descriptors), str(self._buffers.size_bytes)],
                stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=descriptors, start_new_session=True,
                env=child_environment(),
            )  # fmt: skip
        finally:
            os.close(writing)  # the child's own end is the only one: it closes when the child ends

    def _pipes(self, process: subprocess.Popen[bytes]) -> tuple[IO[bytes], IO[bytes]]:
        assert process.stdin is not None
        assert self._answers is not None
        return process.stdin, self._answers

    def _reap(self) -> None:
        process, self._process = self._process, None
        answers, self._answers = self._answers, None
        if process is not None:
            process.kill()
            process.wait()
        for pipe in (None if process is None else process.stdin, answers):
            # What could not be sent to a dead child is lost with it.
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def kill(self) -> None:
        """Kill the child whatever it does; the owner's ``prepare`` returns with an error row."""
        self._killed = True
        process = self._process
        if process is not None:
            process.kill()

    def close(self) -> None:
        """End the child; called by the owner when it is done."""
        self._reap()
        os.close(self._seen)
        os.close(self._lines)


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


def _keep_library_lines(held: int) -> int:
    """Send what C libraries write to descriptor 2 into ``held``; returns where it went before.

    Sound only in a process that decodes one file at a time: afterwards it is known which file the lines are about.
    Python's own stderr, tracebacks with it, goes where it went before.
    """
    log = os.dup(2)
    sys.stderr = os.fdopen(os.dup(log), "w", buffering=1, errors="backslashreplace")
    os.dup2(held, 2)
    return log


def _pass_on(held: int, log: int, name: bytes) -> None:
    """Write the held lines to the log, each after the name of its file, and discard them."""
    if not os.fstat(held).st_size:
        return
    text = read_at(held, _MAX_LINES_BYTES, 0)
    os.ftruncate(held, 0)
    os.lseek(held, 0, os.SEEK_SET)  # of both processes: they share the file's position
    shown = escape_name(name).encode("utf-8", "backslashreplace")
    with contextlib.suppress(OSError):  # a log that is full or closed costs no crop
        os.write(log, b"".join(shown + b": " + line.rstrip() + b"\n" for line in text.splitlines() if line.strip()))


def main() -> None:
    """The child: ends when its standard input does."""
    import cv2

    cv2.setNumThreads(1)
    descriptor, seen, writing, held, size_bytes = map(int, sys.argv[1:])
    memory = mmap.mmap(descriptor, size_bytes)
    answers = os.fdopen(writing, "wb")
    log = _keep_library_lines(held)
    requests = sys.stdin.buffer
    how: Preparation = _receive(requests)
    plain = default_decoder(follow_symlinks=how.follow_symlinks)
    side_px = how.recipe.size_px
    slot = slot_bytes(side_px)

    def decode(data: bytes) -> Any:
        # Should this be the end of the process, the parent still knows which bytes did it.
        os.pwrite(seen, json.dumps(answer.stamp).encode("ascii"), 0)
        return plain.decode(data)

    decoder = plain._replace(decode=decode)
    _send(answers, "ready")
    while True:
        try:
            answer, offset = _receive(requests)
        except EOFError:
            return
        out = np.frombuffer(memory, np.uint8, slot, offset).reshape(side_px, side_px, 3)
        decode_s, enhance_s = prepare(answer, how, decoder, out)
        _pass_on(held, log, answer.found.relative)
        grey, answer.grey = answer.grey, None
        if grey is not None:  # through the pipe it would cost what it saves
            _grey_area(memory, offset, slot, how.grey_px)[: grey.size] = grey.ravel()
        _send(answers, (answer, None if grey is None else grey.shape, decode_s, enhance_s))


if __name__ == "__main__":
    main()
