"""``glomedge serve`` as a process of its own on 127.0.0.1 and a free port, and a client that speaks plain HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from glomedge.errors import GlomedgeError
from helpers.paths import ROOT

_START_S = 120.0


class Reply(NamedTuple):
    """One HTTP response."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, read as strict JSON."""

        def refuse(name: str) -> None:
            raise AssertionError(f"{name} is not JSON")

        return json.loads(self.body, parse_constant=refuse)


class Server:
    """A running server.

    Attributes:
        port, grpc_port: it listens on.
        lines: its log so far, one object a line.
        keep_lines: whether the log is kept; a long test has no use for it.
    """

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.lines: list[dict[str, Any]] = []
        self.raw = bytearray()
        self.keep_lines = True
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        ready = self.wait_for("ready", _START_S)
        self.port = int(ready["http"].rpartition(":")[2])
        self.grpc_port = int(ready["grpc"].rpartition(":")[2]) if ready.get("grpc") else 0

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            if not self.keep_lines:
                continue
            self.raw += line
            if line.startswith(b"{"):
                self.lines.append(json.loads(line))

    def wait_for(self, event: str, timeout_s: float = 30.0, count: int = 1) -> dict[str, Any]:
        """The ``count``-th line of that kind."""
        end_s = time.monotonic() + timeout_s
        while time.monotonic() < end_s:
            found = [line for line in list(self.lines) if line["event"] == event]
            if len(found) >= count:
                return found[count - 1]
            if self.process.poll() is not None and not self._reader.is_alive():
                break
            time.sleep(0.02)
        raise AssertionError(f"no line {event!r}: {bytes(self.raw).decode(errors='replace')[-3000:]}")

    def audit(self) -> list[dict[str, Any]]:
        """The audit lines so far, once none has come for a fifth of a second: an answer may be here before its line."""
        for _ in range(50):
            seen = len(self.lines)
            time.sleep(0.2)
            if len(self.lines) == seen:
                break
        return [line for line in list(self.lines) if line["event"] == "answered"]

    def request(
        self,
        method: str,
        path: str,
        body: bytes | Iterator[bytes] | None = None,
        headers: dict[str, str] | None = None,
        timeout_s: float = 60.0,
    ) -> Reply:
        """One request on a connection of its own; a body in parts goes in chunks unless its length is given."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            return Reply(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def get(self, path: str, **headers: str) -> Reply:
        """GET."""
        return self.request("GET", path, headers=headers)

    def infer(self, document: Any, binary: bytes = b"", path: str = "/v2/models/glomedge/infer") -> Reply:
        """POST a request of the Open Inference Protocol."""
        text = json.dumps(document).encode()
        headers = {"Inference-Header-Content-Length": str(len(text))} if binary else {}
        return self.request("POST", path, text + binary, headers)

    def metric(self, name: str) -> float:
        """The value of one line of ``/metrics``."""
        for line in self.get("/metrics").body.decode().splitlines():
            if line.rpartition(" ")[0] == name:
                return float(line.rpartition(" ")[2])
        raise AssertionError(f"no metric {name}")

    def rss_mb(self) -> float:
        """Its resident memory."""
        return float(psutil.Process(self.process.pid).memory_info().rss / 1e6)

    def connect(self) -> socket.socket:
        """A plain connection."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)

    def signal(self, number: int) -> None:
        """Send a signal to this very process."""
        os.kill(self.process.pid, number)

    def stop(self, timeout_s: float = 30.0) -> int:
        """SIGTERM, and its exit code."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        code = self.process.wait(timeout_s)
        self._reader.join(5)
        return code


@contextlib.contextmanager
def serving(model: Path, *options: str, cwd: Path | None = None) -> Iterator[Server]:
    """A server with those options; ended by its own process id, whatever happens."""
    arguments = [sys.executable, "-m", "glomedge", "serve", str(model), "--provider", "cpu", "--port", "0"]
    if not any(option.startswith(("--grpc-port", "--no-grpc")) for option in options):
        arguments.append("--no-grpc")
    process = subprocess.Popen(
        [*arguments, *options],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    try:
        yield Server(process)
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(20)
        assert process.stderr is not None
        with contextlib.suppress(OSError):
            process.stderr.close()


def refused(model: Path, *options: str) -> str:
    """What the command says that is refused at once, before it listens."""
    from typer.testing import CliRunner

    from glomedge.cli import app

    arguments = ["serve", str(model), "--provider", "cpu", "--port", "0", *options]
    if "--grpc-port" not in options:
        arguments.append("--no-grpc")
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, GlomedgeError), result
    assert len(str(result.exception)) < 500
    return str(result.exception)


def until(holds: Callable[[], bool], timeout_s: float = 30.0) -> None:
    """Wait; fails where it never happens."""
    end_s = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end_s, "it never happened"
        time.sleep(0.02)
