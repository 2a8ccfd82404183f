"""Objects in one bucket on 127.0.0.1 by S3's protocol, as far as reading needs it, with faults where a test wants them.

A stand-in and no full server: signatures are not checked. ``tests/files/test_storage_moto.py`` reads from moto's.
"""

from __future__ import annotations

import functools
import hashlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

import pytest

BUCKET = "crops"


@dataclass
class Objects:
    """What the server gives.

    Attributes:
        bodies: by key.
        changed_s: when they were last changed, in seconds since 1970; all of them, but those in ``changed_of``.
        fault: of a request, by method, key (empty for a list) and how often both came before: ``503``, ``403``,
            ``reset``, ``truncate`` (half of the body), ``stall`` (half of it, then nothing), ``slow``; None for none.
        requests: every request, in order.
        page: keys in one page of a list.
        port: of the server.
    """

    bodies: dict[str, bytes] = field(default_factory=dict)
    changed_s: int = 1_790_000_000
    changed_of: dict[str, int] = field(default_factory=dict)
    fault: Callable[[str, str, int], str | None] = lambda method, key, before: None
    requests: list[tuple[str, str]] = field(default_factory=list)
    page: int = 1000
    port: int = 0

    def environment(self) -> dict[str, str]:
        """What makes a process read from here, and from nowhere else."""
        return {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}",
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            # Whatever asked for it nevertheless would reach this machine, and nothing there.
            "AWS_METADATA_ENDPOINT": "http://127.0.0.1:9",
        }


def _page(objects: Objects, query: dict[str, list[str]]) -> bytes:
    prefix, after = query.get("prefix", [""])[0], query.get("continuation-token", [""])[0]
    keys = sorted((key for key in objects.bodies if key.startswith(prefix) and key > after), key=str.encode)
    now, more = keys[: objects.page], len(keys) > objects.page
    listed = "".join(_listed(objects, key) for key in now)
    token = f"<NextContinuationToken>{escape(now[-1])}</NextContinuationToken>" if more else ""
    return (
        f'<?xml version="1.0"?><ListBucketResult><Name>{BUCKET}</Name><KeyCount>{len(now)}</KeyCount>'
        f"<IsTruncated>{str(more).lower()}</IsTruncated>{token}{listed}</ListBucketResult>"
    ).encode()


def _listed(objects: Objects, key: str) -> str:
    changed = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime(_changed(objects, key)))
    return (
        f"<Contents><Key>{escape(key)}</Key><Size>{len(objects.bodies[key])}</Size>"
        f"<ETag>&quot;{_tag(objects, key)}&quot;</ETag><LastModified>{changed}</LastModified></Contents>"
    )


@functools.lru_cache(1024)
def _md5(body: bytes) -> str:
    return hashlib.md5(body, usedforsecurity=False).hexdigest()


def _tag(objects: Objects, key: str) -> str:
    return _md5(objects.bodies[key])


def _changed(objects: Objects, key: str) -> int:
    return objects.changed_of.get(key, objects.changed_s)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    objects: Objects
    counts: Counter[tuple[str, str]]
    lock: threading.Lock

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        parts = urlsplit(self.path)
        bucket, _, key = unquote(parts.path).lstrip("/").partition("/")
        with self.lock:
            before = self.counts[self.command, key]
            self.counts[self.command, key] += 1
            self.objects.requests.append((self.command, key))
        fault = self.objects.fault(self.command, key, before)
        if fault == "reset":
            self.close_connection = True
            self.connection.close()
        elif fault in ("503", "403"):
            self._refuse(int(fault), {"503": "SlowDown", "403": "AccessDenied"}[fault])
        elif bucket != BUCKET:
            self._refuse(404, "NoSuchBucket")
        elif not key:
            self._send(200, _page(self.objects, parse_qs(parts.query)), {"Content-Type": "application/xml"}, fault)
        elif key not in self.objects.bodies:
            self._refuse(404, "NoSuchKey")
        else:
            self._object(key, fault)

    def _object(self, key: str, fault: str | None) -> None:
        body, tag = self.objects.bodies[key], f'"{_tag(self.objects, key)}"'
        if self.headers.get("If-Match", tag) != tag:
            self._refuse(412, "PreconditionFailed")
            return
        said = {"ETag": tag, "Last-Modified": formatdate(_changed(self.objects, key), usegmt=True)}
        wanted, code = self.headers.get("Range"), 200
        if wanted is not None:
            first, _, last = wanted.removeprefix("bytes=").partition("-")
            begin, end = int(first), min(int(last) if last else len(body) - 1, len(body) - 1)
            said["Content-Range"] = f"bytes {begin}-{end}/{len(body)}"
            body, code = body[begin : end + 1], 206
        self._send(code, body, said, fault)

    def _refuse(self, code: int, name: str) -> None:
        body = f'<?xml version="1.0"?><Error><Code>{name}</Code><Message>none</Message></Error>'.encode()
        self._send(code, body, {"Content-Type": "application/xml"}, None)

    def _send(self, code: int, body: bytes, said: dict[str, str], fault: str | None) -> None:
        self.send_response(code)
        for name, value in {**said, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            if fault in ("truncate", "stall"):
                self.wfile.write(body[: len(body) // 2])
                self.close_connection = True
                if fault == "stall":
                    time.sleep(60)
            elif fault == "slow":
                for at in range(0, len(body), max(1, len(body) // 5)):
                    self.wfile.write(body[at : at + max(1, len(body) // 5)])
                    time.sleep(0.05)
            else:
                self.wfile.write(body)
        except OSError:  # the other side has gone
            self.close_connection = True


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False


@contextmanager
def serving(objects: Objects) -> Iterator[Objects]:
    """Run the server; its port is in ``objects``."""
    bound: dict[str, object] = {"objects": objects, "counts": Counter(), "lock": threading.Lock()}
    server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), bound))
    objects.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield objects
    finally:
        server.shutdown()
        server.server_close()


@contextmanager
def reachable(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> Iterator[Objects]:
    """The same, and the storage of this process and its children is this server."""
    from glomedge.files import storage

    with serving(objects), monkeypatch.context() as patched:
        for name, value in objects.environment().items():
            patched.setenv(name, value)
        storage.forget()
        try:
            yield objects
        finally:
            storage.forget()
