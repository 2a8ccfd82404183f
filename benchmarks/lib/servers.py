"""Servers of the Open Inference Protocol, each a process on 127.0.0.1: glomedge's, and a real tritonserver."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from benchmarks.lib.common import ROOT
from glomedge.system.telemetry import silence

TRITON = ROOT / "build" / "triton"
"""Where ``make triton-server`` puts tritonserver 2.51 and NVIDIA's client."""
INFER = "/v2/models/glomedge/infer"
_START_S = 300.0


@dataclass(frozen=True)
class Running:
    """A server that is ready, or, of Triton, one that has ended because it refused its models.

    Attributes:
        process: of the server.
        http_port, grpc_port: it listens on; gRPC of glomedge's is 0: it is off.
        ready_s: seconds from the start of the process until it was ready.
    """

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int
    ready_s: float

    def cpu_s(self) -> float:
        """Processor seconds so far, of the server and of the processes that it started."""
        own = psutil.Process(self.process.pid)
        # Its processor clock, as clock_getcpuclockid(3) makes it: to the nanosecond, where /proc has 10 ms.
        return sum(time.clock_gettime(~one.pid << 3 | 2) for one in (own, *own.children(recursive=True)))

    def rss_mb(self) -> float:
        """Resident memory of all of them."""
        own = psutil.Process(self.process.pid)
        return float(sum(process.memory_info().rss for process in (own, *own.children(recursive=True))) / 1e6)


def triton_installed() -> bool:
    """Whether ``make triton-server`` has been run."""
    return (TRITON / ".installed").is_file()


@contextmanager
def glomedge_server(model: Path, *options: str) -> Iterator[Running]:
    """``glomedge serve`` over HTTP, its audit lines thrown away. Raises SystemExit where it does not start."""
    command = [sys.executable, "-m", "glomedge", "serve", str(model), "--port", "0", "--no-grpc"]
    begin_s = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--audit-log", os.devnull, *options],
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stderr is not None
    said = b""
    try:
        for line in process.stderr:
            facts = json.loads(line) if line.startswith(b"{") else {}
            if facts.get("event") == "ready":
                break
            said += line
        else:
            raise SystemExit("glomedge serve did not start: " + said.decode(errors="replace")[-2000:])
        ready_s = time.perf_counter() - begin_s
        # Nobody may wait for a full pipe.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield Running(process, int(facts["http"].rpartition(":")[2]), 0, ready_s)
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def bare_server(model: Path) -> Iterator[Running]:
    """``benchmarks.lib.bare_server``, on the CPU, as ``Running``."""
    begin_s = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.lib.bare_server", str(model)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdout is not None
    try:
        said = process.stdout.readline()
        if not said.strip().isdigit():
            raise SystemExit("benchmarks.lib.bare_server did not start")
        yield Running(process, int(said), 0, time.perf_counter() - begin_s)
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def triton_server(repository: Path, log: Path) -> Iterator[Running]:
    """tritonserver on a repository of ``glomedge export-triton``, once it is ready or has ended.

    It has the Python backend alone; tests/tools/triton_standin.py takes the place of the backend ``onnxruntime``.
    """
    silence()  # inherited by the server, whose stand-in imports onnxruntime
    server = (TRITON / "pytriton" / "tritonserver").resolve()
    http_port, grpc_port, metrics_port = _free_ports(3)
    (packages,) = (TRITON / "server" / "lib").glob("python*/site-packages")
    environment = os.environ | {
        "PYTHONPATH": str(packages.resolve()),
        "PATH": f"{(TRITON / 'server' / 'bin').resolve()}:{os.environ['PATH']}",
        "LD_LIBRARY_PATH": str(sysconfig.get_config_var("LIBDIR")),
    }
    options = ["--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1"]
    options += [f"--http-port={http_port}", f"--grpc-port={grpc_port}", f"--metrics-port={metrics_port}"]
    options += [f"--model-repository={repository}", f"--backend-directory={server / 'backends'}"]
    begin_s = time.perf_counter()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(server / "bin" / "tritonserver"), *options, "--allow-gpu-metrics=false"],
            env=environment, stdout=output, stderr=output,
        )  # fmt: skip
        try:
            _wait(http_port, process)
            yield Running(process, http_port, grpc_port, time.perf_counter() - begin_s)
        finally:
            process.terminate()
            process.wait(timeout=60)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait(http_port: int, process: subprocess.Popen[bytes]) -> None:
    end_s = time.monotonic() + _START_S
    while time.monotonic() < end_s and process.poll() is None:
        connection = http.client.HTTPConnection("127.0.0.1", http_port, timeout=5)
        try:
            connection.request("GET", "/v2/health/ready")
            if connection.getresponse().status == 200:
                return
        except OSError:
            pass
        finally:
            connection.close()
        time.sleep(0.2)


def ask(port: int, requests: list[tuple[bytes, dict[str, str]]], clients: int) -> list[float]:
    """Send all of them from so many clients, each with one connection; the seconds of each.

    Clients make their bytes beforehand and send them at once. On the server's own cores a client that does more pushes
    the server's code out of their caches, and its cost would be seen as the server's.

    Raises SystemExit where one is not answered.
    """
    messages = [_message(body, headers) for body, headers in requests]

    def client(index: int) -> list[float]:
        waits = []
        with socket.create_connection(("127.0.0.1", port), timeout=120) as connection:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for message in messages[index::clients]:
                begin_s = time.perf_counter()
                connection.sendall(message)
                status = _status(connection)
                waits.append(time.perf_counter() - begin_s)
                if status != b"200":
                    raise SystemExit(f"the server answered {status.decode()}")
        return waits

    with ThreadPoolExecutor(clients) as pool:
        return [wait for waits in pool.map(client, range(clients)) for wait in waits]


def _message(body: bytes, headers: dict[str, str]) -> bytes:
    lines = [f"POST {INFER} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("ascii") + body


def _status(connection: socket.socket) -> bytes:
    """Of the next answer, once its body has come: both servers say how long it is."""
    data = b""
    while (end := data.find(b"\r\n\r\n")) < 0 or len(data) < end + 4 + _length(data[:end]):
        piece = connection.recv(1 << 16)
        if not piece:
            raise SystemExit("the server closed the connection")
        data += piece
    return data[9:12]


def _length(head: bytes) -> int:
    (length,) = (line[15:] for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
    return int(length)
