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
        times = [process.cpu_times() for process in (own, *own.children(recursive=True))]
        return float(sum(spent.user + spent.system for spent in times))

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

    Raises SystemExit where one is not answered.
    """

    def client(index: int) -> list[float]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        waits = []
        for body, headers in requests[index::clients]:
            begin_s = time.perf_counter()
            connection.request("POST", INFER, body, headers)
            reply = connection.getresponse()
            reply.read()
            if reply.status != 200:
                raise SystemExit(f"the server answered {reply.status}")
            waits.append(time.perf_counter() - begin_s)
        connection.close()
        return waits

    with ThreadPoolExecutor(clients) as pool:
        return [wait for waits in pool.map(client, range(clients)) for wait in waits]
