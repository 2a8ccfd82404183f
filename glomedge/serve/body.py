"""The body of a request: never more than the limits allow, never for longer, and not for a client that is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from pathlib import Path
from typing import Protocol, Self, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope

from glomedge.serve.connection import EXTENSION, Client, header
from glomedge.serve.options import Limits
from glomedge.serve.refusal import RefusedError, busy, malformed, too_large

_LINGER_S = 2.0
_PLAIN = ("", "identity")

T = TypeVar("T")


class Bodies:
    """The bytes of all bodies that are in memory."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.bytes = 0

    def room(self) -> Room:
        """Room for one body; a context, at whose end it is given back."""
        return Room(self)


class Room:
    """What one body takes of ``Bodies``."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies, self.limits = bodies, bodies.limits
        self._taken = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bodies.bytes -= self._taken

    def take(self, count: int) -> None:
        """Count bytes that have come.

        Raises:
            RefusedError: the body is too large (413), or there is no room for so many bytes of all bodies (503).
        """
        bodies, limits = self._bodies, self.limits
        if bodies.bytes + count > limits.bodies_bytes:
            raise busy("Too many bodies are being sent at once. Ask again later.")
        bodies.bytes += count
        self._taken += count
        if self._taken > limits.body_bytes:
            raise too_large(limits.body_bytes)


async def read_body(scope: Scope, receive: Receive, room: Room) -> bytes:
    """The whole body, of which nothing was received before.

    Raises:
        RefusedError: compressed (415), too large (413, before it is read where its length is declared), too slow (408),
            no room for it (503).
        ClientDisconnect: the client is gone.
    """
    limits = room.limits
    if _declared_bytes(scope) > limits.body_bytes:
        await _linger(receive)
        raise too_large(limits.body_bytes)
    # Taken out, or the request would hold itself in memory until it is collected.
    whole = scope["extensions"][EXTENSION].pop("body")
    try:
        body: bytes = await whole(room.take, limits.body_s)
    except TimeoutError:
        raise RefusedError(408, f"The body did not come within {limits.body_s:g} s.") from None
    except RefusedError:
        # A client that still sends would otherwise see a broken connection in place of the answer.
        await _linger(receive)
        raise
    return body


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
    try:
        room.check(_declared_bytes(request.scope))
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
        await _linger(request.receive)
        raise


def _declared_bytes(scope: Scope) -> int:
    """0 where nothing is declared. Raises RefusedError: it is compressed, or that is no number."""
    if (header(scope, b"content-encoding") or "").strip().lower() not in _PLAIN:
        raise RefusedError(415, "The body is compressed. Send it as it is: image files are compressed already.")
    declared = header(scope, b"content-length") or "0"
    if not (declared.isascii() and declared.isdigit()):
        raise malformed("The header Content-Length is not a number.")
    return int(declared[:19])  # longer ones are larger than anything, and slow to read


async def _linger(receive: Receive) -> None:
    """Drop what still comes, for a short while."""
    try:
        async with asyncio.timeout(_LINGER_S):
            while (await receive()).get("more_body"):
                pass
    except TimeoutError:
        pass


async def unless_gone(scope: Scope, work: Awaitable[T]) -> T:
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

    client: Client = scope["extensions"][EXTENSION]["client"]
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
