"""What stands before every HTTP handler: who may ask, what every response carries, and the line in the log."""

from __future__ import annotations

import functools
import ipaddress
import json
import operator
import time
import traceback
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.serve.audit import Log
from glomedge.serve.connection import header
from glomedge.serve.options import Tokens
from glomedge.serve.refusal import RefusedError

OPEN_PATHS = ("/", "/page.js", "/v2/health/live", "/v2/health/ready")
"""Need no token: probes have none, and the page asks its user for it. None of them says anything of a crop."""
_QUIET_PATHS = ("/v2/health/live", "/v2/health/ready", "/metrics")
_MOST_PATH_CHARACTERS = 100
_POLICY = (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'")
_MARKS = (
    (b"x-research-use", RESEARCH_USE_NOTICE.encode("ascii")),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
)
_NAME = operator.itemgetter(0)


def error_response(refusal: RefusedError) -> Response:
    """A refusal as the protocol has it."""
    body = json.dumps({"error": refusal.message, "notice": RESEARCH_USE_NOTICE}).encode("ascii")
    headers = {} if refusal.retry_after_s is None else {"retry-after": str(refusal.retry_after_s)}
    if refusal.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Response(body, refusal.status, headers, "application/json")


class Guard:
    """ASGI middleware.

    Args:
        app: what is guarded.
        tokens: None where no token is needed.
        local_only: whether the address is one of this machine; a browser is then kept from lending the address to
            another site (DNS rebinding).
        log: of the server.
    """

    def __init__(self, app: ASGIApp, *, tokens: Tokens | None, local_only: bool, log: Log) -> None:
        self._app, self._tokens, self._local_only, self._log = app, tokens, local_only, log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        begin_s = time.perf_counter()
        status = 0

        async def send_marked(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # Handlers set none of these, but for the policy of a page.
                policy = () if _POLICY[0] in map(_NAME, message["headers"]) else (_POLICY,)
                message["headers"] = [*message["headers"], *_MARKS, *policy]
            await send(message)

        try:
            self._check(scope)
            await self._app(scope, receive, send_marked)
        except RefusedError as refusal:
            await error_response(refusal)(scope, receive, send_marked)
        except ClientDisconnect:
            status = 499
        except Exception as error:  # noqa: BLE001 - a defect of one request must not end the server
            self._defect(error)
            if not status:
                wrong = RefusedError(500, "Something went wrong; the server's log says what.")
                await error_response(wrong)(scope, receive, send_marked)
        finally:
            self._line(scope, status, time.perf_counter() - begin_s)

    def _check(self, scope: Scope) -> None:
        host = header(scope, b"host") or ""
        if self._local_only and not _is_local(host):
            raise RefusedError(421, "This server answers for this machine only. Use its address 127.0.0.1.")
        origin = header(scope, b"origin")
        if origin is not None and _address_of(origin) != host.lower():
            raise RefusedError(403, "This server answers no requests of other web sites.")
        if self._tokens is None or scope["path"] in OPEN_PATHS:
            return
        if not self._tokens.allow(header(scope, b"authorization") or ""):
            raise RefusedError(401, "A token is needed: send the header 'Authorization: Bearer TOKEN'.")

    def _defect(self, error: Exception) -> None:
        # Where it happened, but not what it was about: the text of an exception may quote the request.
        frames = traceback.extract_tb(error.__traceback__)[-6:]
        where = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames]
        self._log.event("defect", error=type(error).__name__, where=where)

    def _line(self, scope: Scope, status: int, seconds: float) -> None:
        if scope["path"] in _QUIET_PATHS:
            return
        client = scope.get("client")
        self._log.event(
            "request",
            client=client[0] if client else "",
            method=scope["method"][:16],
            path=scope["path"][:_MOST_PATH_CHARACTERS],
            status=status,
            seconds=round(seconds, 6),
        )


@functools.lru_cache(maxsize=16)
def _is_local(host: str) -> bool:
    """Whether the name in a header ``Host`` is one of this machine: ``localhost`` or a loopback address."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _address_of(origin: str) -> str | None:
    """Name and port in a header ``Origin``, in lower case; None where it is malformed."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return None
