"""The socket that the server listens on."""

from __future__ import annotations

import asyncio
import socket

import pytest

from glomedge.errors import UsageError
from glomedge.serve.server import _listening


def test_an_answer_does_not_wait_for_the_acknowledgement_of_its_headers() -> None:
    """Every connection has TCP_NODELAY: with Nagle's algorithm a lone client waits 40 ms more for each answer."""
    delayed: list[int] = []

    async def accept(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted = writer.get_extra_info("socket")
        delayed.append(accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))
        writer.close()

    async def connect() -> None:
        with _listening("127.0.0.1", 0, "--port") as bound:
            async with await asyncio.start_server(accept, sock=bound):
                reader, writer = await asyncio.open_connection(*bound.getsockname())
                assert await reader.read() == b""
                writer.close()

    asyncio.run(connect())
    assert delayed
    assert all(delayed)


def test_a_port_that_is_taken_is_named() -> None:
    with _listening("127.0.0.1", 0, "--port") as bound:
        bound.listen()
        port = bound.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port}: .*another --port"), _listening("127.0.0.1", port, "--port"):
            pass
