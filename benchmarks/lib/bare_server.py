"""The least that a server in Python costs, as a yardstick beside ``glomedge serve``: bytes in, network, bytes out.

    python -m benchmarks.lib.bare_server MODEL

One event loop (uvloop) that reads whole requests, and one thread that computes, as ``glomedge serve --optimise
latency`` has them; no check, no limit, no hash, no log, no metric, one crop a request. Prints its port.
"""

from __future__ import annotations

import asyncio
import queue
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import uvloop

from glomedge.engine.engine import Engine
from glomedge.engine.loading import open_engine
from glomedge.engine.options import EngineOptions
from glomedge.runs.pipeline_run import one_opencv_thread

_LENGTHS = (b"content-length:", b"inference-header-content-length:")

Work = tuple[bytes, Callable[[float], None]]


class _Connection(asyncio.Protocol):
    """Requests of one client, one after the other."""

    def __init__(self, work: queue.SimpleQueue[Work]) -> None:
        self._work = work
        self._data = bytearray()
        self._body_at, self._whole, self._json = 0, 0, 0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # of a stream
        self._transport = transport
        self._loop = asyncio.get_running_loop()

    def data_received(self, data: bytes) -> None:
        self._data += data
        if not self._whole:
            end = self._data.find(b"\r\n\r\n")
            if end < 0:
                return
            body, self._json = _lengths(bytes(self._data[:end]))
            self._body_at, self._whole = end + 4, end + 4 + body
        if len(self._data) >= self._whole:
            with memoryview(self._data) as view:
                raw = bytes(view[self._body_at + self._json : self._whole])
            self._data, self._whole = bytearray(), 0
            self._work.put((raw, self._answer_from_thread))

    def _answer_from_thread(self, probability: float) -> None:
        self._loop.call_soon_threadsafe(self._answer, probability)

    def _answer(self, probability: float) -> None:
        body = b'{"outputs":[{"name":"probability","datatype":"FP32","shape":[1,1],"data":[%r]}]}' % probability
        self._transport.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body)


def _lengths(head: bytes) -> tuple[int, int]:
    """Bytes of the body, and of the JSON before its binary data."""
    found = dict.fromkeys(_LENGTHS, 0)
    for line in head.lower().split(b"\r\n"):
        for name in _LENGTHS:
            if line.startswith(name):
                found[name] = int(line[len(name) :])
    return found[_LENGTHS[0]], found[_LENGTHS[1]]


def _compute(engine: Engine, work: queue.SimpleQueue[Work]) -> None:
    side_px = engine.spec.input.side_px
    while True:
        raw, answer = work.get()
        if len(raw) == side_px * side_px * 3:
            probability = engine.infer(np.frombuffer(raw, np.uint8).reshape(1, side_px, side_px, 3)).probability[0]
        else:
            probability = engine.predict([raw[4:]])[0].probability
        with suppress(RuntimeError):  # the loop has ended
            answer(float(probability))


async def _serve(engine: Engine) -> None:
    work: queue.SimpleQueue[Work] = queue.SimpleQueue()
    threading.Thread(target=_compute, args=(engine, work), daemon=True).start()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(work), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    on_cpu = EngineOptions("cpu")
    with one_opencv_thread(), open_engine(Path(sys.argv[1]), on_cpu, concurrency=1, shares_cpus=True) as opened:
        uvloop.run(_serve(opened))
