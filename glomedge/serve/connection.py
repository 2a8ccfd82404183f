"""One HTTP connection: uvicorn's, with limits on the header of a request, and bodies that are wanted whole.

Parsed by httptools (Node's llhttp): beside the network, whose weights push everything else out of the processor's
caches, every line of Python costs many times what it costs by itself, and a parser in Python has many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from starlette.requests import ClientDisconnect
from starlette.types import Scope
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

EXTENSION = "glomedge.connection"
"""In a scope's extensions: ``client``, a ``Client``, and ``body``, which takes the arguments of ``whole_body``."""
_MOST_HEADER_BYTES = 64 << 10
_MOST_UNREAD_BYTES = 256 << 10
"""Of a body that nobody waits for yet. uvicorn's 64 kB would stop and start the socket for every crop."""

_SMALL_BYTES = 16 << 10


def header(scope: Scope, name: bytes) -> str | None:
    """The value of the first header of that name, which is in lower case; None where there is none."""
    for given, value in scope["headers"]:
        if given == name:
            return str(value, "latin-1")
    return None


@dataclass
class Client:
    """Whether the other side of a connection is still there, and what is called when it goes."""

    gone: bool = False
    tell: set[Callable[[], object]] = field(default_factory=set)


@dataclass(eq=False)
class _Rest:
    """What is still to come of a body that is wanted whole.

    Attributes:
        pieces: so far. Small ones, which may be of one byte each, are put together: as objects of their own they would
            take many times their length.
        take: as ``whole_body`` has it.
        came: done with the last piece; or fails.
    """

    pieces: list[bytes | bytearray]
    take: Callable[[int], None]
    came: asyncio.Future[None]

    def add(self, piece: bytes) -> None:
        if self.came.done():  # failed: the rest is dropped
            return
        try:
            self.take(len(piece))
        except Exception as error:  # noqa: BLE001 - whoever waits for the body is told
            self.came.set_exception(error)
            return
        if len(piece) >= _SMALL_BYTES:
            self.pieces.append(piece)
        elif self.pieces and isinstance(last := self.pieces[-1], bytearray):
            last += piece
        else:
            self.pieces.append(bytearray(piece))

    def fail(self, error: Exception) -> None:
        if not self.came.done():
            self.came.set_exception(error)


class TimedConnection(HttpToolsProtocol):
    """Closes itself where the header of a request does not come within ``header_s`` seconds, or is too long.

    The body has its limits in ``body``; uvicorn's keep-alive limit covers the time between two requests.
    """

    header_s = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._in_header, self._begins_here, self._header_bytes = True, False, 0
        self._other_side = Client()
        self._rest: _Rest | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as in HttpToolsProtocol
        """Start to wait for the first request."""
        super().connection_made(transport)
        self._header_timer = self.loop.call_later(self.header_s, self._late)

    def data_received(self, data: bytes) -> None:
        """Hand it on, and see whether a header is still incomplete."""
        self._begins_here = False
        super().data_received(data)
        if not self._in_header:
            return
        if self._header_timer is None:
            self._header_timer = self.loop.call_later(self.header_s, self._late)
        if not self._begins_here:  # or most of it may be the body before
            self._header_bytes += len(data)
            if self._header_bytes > _MOST_HEADER_BYTES and not self.transport.is_closing():
                self.send_400_response("The header is too long.")

    def on_message_begin(self) -> None:
        """A header begins."""
        super().on_message_begin()
        self._in_header, self._begins_here, self._header_bytes = True, True, 0

    def on_headers_complete(self) -> None:
        """A header has come."""
        self._in_header = False
        self._unwatch()
        super().on_headers_complete()
        body = partial(self.whole_body, self.cycle)
        self.scope["extensions"] = {EXTENSION: {"client": self._other_side, "body": body}}

    def on_body(self, body: bytes) -> None:
        """A piece of the body has come: as in HttpToolsProtocol, unless somebody wants it whole; with another limit."""
        if self._rest is not None:
            self._rest.add(body)
        elif not self.cycle.response_complete:
            if not self.cycle.body and len(body) >= _SMALL_BYTES:
                self.cycle.body = body  # type: ignore[assignment] # perhaps all of it: one copy less
            elif isinstance(self.cycle.body, bytearray):
                self.cycle.body += body
            else:
                self.cycle.body = bytearray(self.cycle.body) + body
            if len(self.cycle.body) > _MOST_UNREAD_BYTES:
                self.flow.pause_reading()
            self.cycle.message_event.set()

    def on_message_complete(self) -> None:
        """A request has come to its end."""
        super().on_message_complete()
        rest, self._rest = self._rest, None  # what comes now is of the next request
        if rest is not None and not rest.came.done():
            rest.came.set_result(None)

    async def whole_body(self, cycle: RequestResponseCycle, take: Callable[[int], None], seconds: float) -> bytes:
        """The whole body, of which nothing was received before.

        ASGI's ``receive`` would stop the socket and wake its caller for every 64 kB, and copy each byte once more.

        Args:
            cycle: of the request.
            take: called with the length of each piece as it comes; may raise to refuse it.
            seconds: within which it must come.

        Raises:
            TimeoutError: it did not.
            ClientDisconnect: the client is gone.
            Exception: what ``take`` raised; what is still to come may be dropped by ``receive``.
        """
        if cycle.disconnected:
            raise ClientDisconnect
        first = bytes(cycle.body)
        cycle.body = bytearray()
        take(len(first))
        if not cycle.more_body:
            return first
        if cycle.waiting_for_100_continue and not self.transport.is_closing():
            self.transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            cycle.waiting_for_100_continue = False
        self._rest = rest = _Rest([first] if first else [], take, self.loop.create_future())
        late = self.loop.call_later(seconds, rest.fail, TimeoutError())
        self.flow.resume_reading()
        try:
            await rest.came
        finally:
            if self._rest is rest:
                self._rest = None
            late.cancel()
        return b"".join(rest.pieces)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and tell whoever works for this client."""
        self._unwatch()
        super().connection_lost(exc)
        if self._rest is not None:
            self._rest.fail(ClientDisconnect())
        self._other_side.gone = True
        for tell in [*self._other_side.tell]:
            tell()

    def _unwatch(self) -> None:
        if self._header_timer is not None:
            self._header_timer.cancel()
            self._header_timer = None

    def _late(self) -> None:
        if self.cycle is not None and not self.cycle.response_complete:
            # The header of the next request, while this one is answered: perhaps it is not even read.
            self._header_timer = self.loop.call_later(self.header_s, self._late)
        elif not self.transport.is_closing():
            self.transport.close()
