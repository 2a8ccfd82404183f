"""One HTTP connection: uvicorn's, with limits on the header of a request, which uvicorn has not.

Parsed by httptools (Node's llhttp): beside the network, whose weights push everything else out of the processor's
caches, every line of Python costs many times what it costs by itself, and a parser in Python has many.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

EXTENSION = "glomedge.connection"
"""In a scope's extensions: ``client``, a ``Client``."""
_MOST_HEADER_BYTES = 64 << 10


@dataclass
class Client:
    """Whether the other side of a connection is still there, and what is called when it goes."""

    gone: bool = False
    tell: set[Callable[[], object]] = field(default_factory=set)


class TimedConnection(HttpToolsProtocol):
    """Closes itself where the header of a request does not come within ``header_s`` seconds, or is too long.

    The body has its limits in ``body.read_body``; uvicorn's keep-alive limit covers the time between two requests.
    """

    header_s = 10.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._header_timer: asyncio.TimerHandle | None = None
        self._in_header, self._begins_here, self._header_bytes = True, False, 0
        self._other_side = Client()

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
        self.scope["extensions"] = {EXTENSION: {"client": self._other_side}}

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting, and tell whoever works for this client."""
        self._unwatch()
        super().connection_lost(exc)
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
