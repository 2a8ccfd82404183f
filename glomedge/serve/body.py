"""The body of a request: never more than the limits allow, never for longer, and not for a client that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from starlette.requests import ClientDisconnect, Request

from glomedge.serve.options import Limits
from glomedge.serve.refusal import RefusedError, busy, malformed, too_large

_LINGER_S = 2.0
_PLAIN = ("", "identity")

T = TypeVar("T")


class Bodies:
    """The bytes of all bodies that are in memory."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self.bytes = 0

    @contextmanager
    def room(self) -> Iterator[Room]:
        """Room for one body, given back at the end."""
        room = Room(self)
        try:
            yield room
        finally:
            self.bytes -= room.taken

    def take(self, count: int) -> None:
        """Raise RefusedError (503) where there is no room for so many more bytes."""
        if self.bytes + count > self._limits.bodies_bytes:
            raise busy("Too many bodies are being sent at once. Ask again later.")
        self.bytes += count


class Room:
    """What one body takes."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self.taken = 0

    def take(self, count: int) -> None:
        """Count bytes that have come. Raises RefusedError (503)."""
        self._bodies.take(count)
        self.taken += count


async def read_body(request: Request, room: Room, limits: Limits) -> bytes:
    """The whole body.

    Raises:
        RefusedError: compressed (415), too large (413, before it is read where its length is declared), too slow (408),
            no room for it (503).
        ClientDisconnect: the client is gone.
    """
    if request.headers.get("content-encoding", "").strip().lower() not in _PLAIN:
        raise RefusedError(415, "The body is compressed. Send it as it is: image files are compressed already.")
    try:
        async with asyncio.timeout(limits.body_s):
            return await _read(request, room, limits.body_bytes)
    except TimeoutError:
        raise RefusedError(408, f"The body did not come within {limits.body_s:g} s.") from None
    except RefusedError:
        # A client that still sends would otherwise see a broken connection in place of the answer.
        await _linger(request)
        raise


async def _read(request: Request, room: Room, limit_bytes: int) -> bytes:
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()):
        raise malformed("The header Content-Length is not a number.")
    if len(declared) > 18 or int(declared) > limit_bytes:
        raise too_large(limit_bytes)
    body = bytearray()
    async for chunk in request.stream():
        room.take(len(chunk))
        if len(body) + len(chunk) > limit_bytes:
            raise too_large(limit_bytes)
        body += chunk
    return bytes(body)


async def _linger(request: Request) -> None:
    """Drop what still comes, for a short while."""
    try:
        async with asyncio.timeout(_LINGER_S):
            while (await request.receive()).get("more_body"):
                pass
    except TimeoutError:
        pass


async def unless_gone(request: Request, work: Awaitable[T]) -> T:
    """The result of ``work``, which is cancelled as soon as the client is gone. The body must have been read.

    Raises:
        ClientDisconnect: the client is gone.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnect
        return task.result()
    finally:
        for each in (task, gone):
            each.cancel()


async def _gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
