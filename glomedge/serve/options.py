"""The options of ``glomedge serve``, and their validation before anything is opened."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import re
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from glomedge.cases.names import compile_case_pattern
from glomedge.engine.options import DEFAULT_MODEL, EngineOptions
from glomedge.errors import UsageError

MODEL_NAME = "glomedge"
MODEL_VERSION = "1"
MEGABYTE = 1_000_000
_LEAST_TOKEN_CHARACTERS = 16
_HEAD_BYTES = 1024
_LABEL_TITLE = re.compile(rb"<title>Label [0-9]+ glomeruli</title>")

Optimise = Literal["latency", "throughput"]


@dataclass(frozen=True)
class Limits:
    """What one client, and all clients together, may ask for.

    Attributes:
        queue_crops: crops that are being answered or wait for it; above that, 503.
        request_crops: crops of one inference request.
        slides_bytes: of all slides that the page keeps on disk at once; 0: it takes none.
        body_bytes: of one request, after which 413.
        bodies_bytes: of all requests that are being read, after which 503.
        connections: open at once over HTTP, after which 503.
        header_s, body_s: seconds within which the header and the body of a request must have come.
        request_s: seconds within which a request is answered, or given up with 504.
        drain_s: seconds that requests in flight have after SIGTERM.
    """

    queue_crops: int = 128
    request_crops: int = 32
    slides_bytes: int = 8000 * MEGABYTE
    body_bytes: int = 64 * MEGABYTE
    bodies_bytes: int = 256 * MEGABYTE
    connections: int = 512
    header_s: float = 10.0
    body_s: float = 30.0
    request_s: float = 60.0
    drain_s: float = 8.0


@dataclass(frozen=True)
class ServeOptions:
    """The options of ``glomedge serve``; each field is the command-line option of the same name.

    Attributes:
        grpc_port: None where gRPC is not served.
        token_file: one token a line; each request must carry one of them.
        insecure: listen on an address of the network without a token.
        optimise: ``latency`` gives every core to one batch at a time, ``throughput`` one core to each of several.
        audit_log: file that gets the audit lines; None: standard error, with the log.
        site: where the crops come from, for corrected percentages (as in ``glomedge infer``).
        label_page: what ``glomedge label`` wrote, to be offered beside the page; None: nothing.
    """

    model: Path = DEFAULT_MODEL
    host: str = "127.0.0.1"
    port: int = 8080
    grpc_port: int | None = 8081
    engine: EngineOptions = field(default_factory=EngineOptions)
    optimise: Optimise = "latency"
    token_file: Path | None = None
    insecure: bool = False
    tls_cert: Path | None = None
    tls_key: Path | None = None
    audit_log: Path | None = None
    site: str | None = None
    case_pattern: str | None = None
    label_page: Path | None = None
    limits: Limits = field(default_factory=Limits)

    def check(self) -> None:
        """Raise UsageError for what cannot be, or should not be, served."""
        self.engine.check()
        if self.case_pattern is not None:
            compile_case_pattern(self.case_pattern)
        if (self.tls_cert is None) != (self.tls_key is None):
            raise UsageError("--tls-cert and --tls-key must be given together.")
        for option, path in (("--tls-cert", self.tls_cert), ("--tls-key", self.tls_key)):
            if path is not None and not path.is_file():
                raise UsageError(f"{option}: there is no file {path}. Correct the path.")
        if self.label_page is not None:
            _check_label_page(self.label_page)
        if self.port == self.grpc_port and self.port != 0:
            raise UsageError(f"--port and --grpc-port are both {self.port}. Give two ports.")
        if not self.is_local and self.token_file is None and not self.insecure:
            raise UsageError(
                f"--host {self.host} can be reached from other machines. Give --token-file FILE, so that only those "
                "who hold a token are answered, or --insecure if something else keeps strangers out."
            )
        largest = self.limits.request_crops
        if not 1 <= largest <= self.limits.queue_crops:
            raise UsageError(
                f"--max-crops {largest} must be at least 1 and not more than --queue {self.limits.queue_crops}."
            )
        if self.limits.body_bytes > self.limits.bodies_bytes or self.limits.body_bytes < 1:
            raise UsageError(f"--max-body must be 1 to {self.limits.bodies_bytes // MEGABYTE} MB.")

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the address."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False


def _check_label_page(path: Path) -> None:
    """Raise UsageError where that is not what ``glomedge label`` wrote: any other page could run what it likes."""
    try:
        with path.open("rb") as handle:
            head = handle.read(_HEAD_BYTES)
    except OSError as error:
        raise UsageError(f"--label-page: {path} cannot be read ({error.strerror}). Correct the path.") from None
    if not head.startswith(b"<!DOCTYPE html>") or _LABEL_TITLE.search(head) is None:
        raise UsageError(f"--label-page: {path} is no page of glomedge label. Make one with: glomedge label CROPS")


class Tokens:
    """The tokens of a file, kept as digests and compared in constant time.

    Raises:
        UsageError: the file is missing, readable by everyone, empty, or holds a short token.
    """

    def __init__(self, path: Path) -> None:
        try:
            mode = path.stat().st_mode
            lines = [line.strip() for line in path.read_text("utf-8").splitlines()]
        except (OSError, UnicodeDecodeError):
            raise UsageError(f"--token-file: {path} cannot be read as text. Correct the path or its mode.") from None
        if mode & (stat.S_IROTH | stat.S_IWOTH):
            raise UsageError(f"--token-file: everyone on this machine can read {path}. Run: chmod 600 {path}")
        tokens = [line for line in lines if line]
        if not tokens or min(map(len, tokens)) < _LEAST_TOKEN_CHARACTERS:
            raise UsageError(
                f"--token-file: {path} must hold one token a line, each of {_LEAST_TOKEN_CHARACTERS} characters or "
                "more. Make one with: openssl rand -hex 32"
            )
        self._digests = [_digest(token) for token in tokens]

    def allow(self, authorization: str) -> bool:
        """Whether a header ``Authorization: Bearer TOKEN`` carries one of them."""
        scheme, _, token = authorization.partition(" ")
        given = _digest(token.strip())
        # Every comparison is made: the time says nothing about which token was nearly right.
        equal = [hmac.compare_digest(given, known) for known in self._digests]
        return scheme.lower() == "bearer" and any(equal)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()
