"""The body of a request: never more than the limits allow, never for longer, and not for a client that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TypeVar

from starlette.requests import ClientDisconnect, Request

from glomedge.serve.connection import EXTENSION, Client
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
    _check_plain(request)
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
    if _declared_bytes(request) > limit_bytes:
        raise too_large(limit_bytes)
    body = bytearray()
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        piece = message["body"]
        room.take(len(piece))
        if len(body) + len(piece) > limit_bytes:
            raise too_large(limit_bytes)
        body += piece
        if not message["more_body"]:
            return bytes(body)


class FileRoom(Protocol):
    """Where a body that goes to the disk is counted; both raise RefusedError."""

    def check(self, size_bytes: int) -> None:
        """Before anything is written: so many bytes were declared, 0 where nothing was."""

    def take(self, count: int) -> None:
        """So many more bytes have come."""


async def save_body(request: Request, path: Path, limits: Limits, room: FileRoom) -> None:
    """Write the whole body to a new file, however long it takes, unless nothing comes for ``body_s``.

    Args:
        request: whose body it is.
        path: of the file; its folder is made where there is none. What is there of a body that does not come whole is
            left to the caller.
        limits: of the server.
        room: which counts it.

    Raises:
        RefusedError: compressed (415), too large, too slow (408), it cannot be written (507).
        ClientDisconnect: the client is gone.
    """
    _check_plain(request)
    try:
        room.check(_declared_bytes(request))
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as handle:
            stream = aiter(request.stream())
            while True:
                async with asyncio.timeout(limits.body_s):
                    chunk = await anext(stream, None)
                if chunk is None:
                    return
                room.take(len(chunk))
                handle.write(chunk)
    except TimeoutError:
        raise RefusedError(408, f"Nothing of the body came for {limits.body_s:g} s.") from None
    except OSError:
        raise RefusedError(507, "The server has no room for this file.") from None
    except RefusedError:
        await _linger(request)
        raise


def _check_plain(request: Request) -> None:
    if request.headers.get("content-encoding", "").strip().lower() not in _PLAIN:
        raise RefusedError(415, "The body is compressed. Send it as it is: image files are compressed already.")


def _declared_bytes(request: Request) -> int:
    declared = request.headers.get("content-length", "0")
    if not (declared.isascii() and declared.isdigit()):
        raise malformed("The header Content-Length is not a number.")
    return int(declared[:19])  # longer ones are larger than anything, and slow to read


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
    this = asyncio.current_task()
    assert this is not None
    gone = False

    def cancel() -> None:
        nonlocal gone
        gone = True
        this.cancel()

    client: Client = request.scope["extensions"][EXTENSION]["client"]
    client.tell.add(cancel)
    if client.gone:
        cancel()
    try:
        return await work
    except asyncio.CancelledError:
        if gone:
            this.uncancel()
            raise ClientDisconnect from None
        raise
    finally:
        client.tell.discard(cancel)
