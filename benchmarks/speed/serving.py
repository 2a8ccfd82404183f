"""What the server costs over the engine alone, and how long clients wait, at 1, 4 and 16 clients.

    .venv/bin/python -m benchmarks.speed.serving --model artifacts/model.onnx [--data CROPS] [--optimise throughput]

Rounds alternate between the server (a process of its own, over HTTP on 127.0.0.1, binary extension) and the engine in
this process with the same provider and threads: enhanced pixels, and image files, which both sides decode and enhance.
Processor seconds are those of the server's process and of this one; the clients' are not counted. Ratios are server
over engine, the median of the paired rounds with its 95% bootstrap interval: a busy machine changes them less than the
milliseconds.
"""

from __future__ import annotations

import http.client
import json
import os
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.lib.common import (
    ROOT,
    find_model,
    log,
    markdown_table,
    paired_ratio,
    parser,
    set_results_directory,
    summarise,
    user_crops,
    write_result,
)
from glomedge.engine.engine import Engine
from glomedge.engine.loading import load
from glomedge.engine.options import EngineOptions
from glomedge.engine.providers import run_threads
from glomedge.imaging import images
from glomedge.imaging.enhance import enhance
from glomedge.model.file import read_model_file
from glomedge.runs.pipeline_run import one_opencv_thread

CLIENTS = (1, 4, 16)
_PATH = "/v2/models/glomedge/infer"


@dataclass
class Side:
    """What one side did in its rounds.

    Attributes:
        cpu_s_a_crop, crops_a_s: one value a round.
        waits_s: of every request.
    """

    cpu_s_a_crop: list[float] = field(default_factory=list)
    crops_a_s: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)


@contextmanager
def served(model: Path, provider: str, optimise: str) -> Iterator[tuple[psutil.Process, int, float]]:
    """A server: its process, its port, and the seconds until it was ready."""
    command = [
        sys.executable,
        "-m",
        "glomedge",
        "serve",
        str(model),
        "--provider",
        provider,
        "--port",
        "0",
        "--no-grpc",
    ]
    begin_s = time.perf_counter()
    process = subprocess.Popen(
        [*command, "--no-grpc", "--optimise", optimise, "--audit-log", os.devnull],
        stderr=subprocess.PIPE, env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert process.stderr is not None
    try:
        for line in process.stderr:
            facts = json.loads(line) if line.startswith(b"{") else {}
            if facts.get("event") == "ready":
                break
        else:
            raise SystemExit("glomedge serve did not start: run it by hand to see why")
        ready_s = time.perf_counter() - begin_s
        # Nobody may wait for a full pipe.
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield psutil.Process(process.pid), int(facts["http"].rpartition(":")[2]), ready_s
    finally:
        process.terminate()
        process.wait(30)


def requests_of(kind: str, crops: list[Any]) -> list[tuple[bytes, dict[str, str]]]:
    """One request a crop: body and headers."""
    made = []
    for crop in crops:
        raw = struct.pack("<I", len(crop)) + crop if kind == "files" else crop.tobytes()
        name, datatype = ("image", "BYTES") if kind == "files" else ("images", "UINT8")
        shape = [1, 1] if kind == "files" else [1, *crop.shape]
        entry = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        text = json.dumps({"inputs": [entry], "outputs": [{"name": "probability"}]}).encode()
        made.append((text + raw, {"Inference-Header-Content-Length": str(len(text))}))
    return made


def ask(port: int, requests: list[tuple[bytes, dict[str, str]]], clients: int) -> list[float]:
    """Send all of them from so many clients, each with one connection; the seconds of each."""

    def client(index: int) -> list[float]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        waits = []
        for body, headers in requests[index::clients]:
            begin_s = time.perf_counter()
            connection.request("POST", _PATH, body, headers)
            reply = connection.getresponse()
            reply.read()
            if reply.status != 200:
                raise SystemExit(f"the server answered {reply.status}")
            waits.append(time.perf_counter() - begin_s)
        connection.close()
        return waits

    with ThreadPoolExecutor(clients) as pool:
        return [wait for waits in pool.map(client, range(clients)) for wait in waits]


def engine_way(engine: Engine, kind: str, crops: list[Any], callers: int) -> Callable[[], None]:
    """All crops through the engine, one a call, from as many threads as the server computes batches at once."""

    def one(crop: Any) -> None:
        pixels = enhance(images.decode(crop).pixels_hwc, engine.spec.recipe) if kind == "files" else crop
        engine.infer(pixels[None])

    def run() -> None:
        if callers == 1:
            for crop in crops:
                one(crop)
            return
        with ThreadPoolExecutor(callers) as pool:
            list(pool.map(one, crops))

    return run


def server_cpu_s(process: psutil.Process) -> float:
    """Processor seconds of the server so far."""
    times = process.cpu_times()
    return float(times.user + times.system)


def compare(
    process: psutil.Process, port: int, requests: list[tuple[bytes, dict[str, str]]], alone: Callable[[], None],
    *, clients: int, rounds: int,
) -> tuple[Side, Side]:  # fmt: skip
    """Server and engine in turn; the first round of each warms up."""
    server, engine = Side(), Side()
    for index in range(-1, rounds):
        for side in (server, engine) if index % 2 else (engine, server):
            cpu_s = server_cpu_s(process) if side is server else time.process_time()
            begin_s = time.perf_counter()
            waits: list[float] = []
            if side is server:
                waits = ask(port, requests, clients)
            else:
                alone()
            wall_s = time.perf_counter() - begin_s
            cpu_s = (server_cpu_s(process) if side is server else time.process_time()) - cpu_s
            if index >= 0:
                side.cpu_s_a_crop.append(cpu_s / len(requests))
                side.crops_a_s.append(len(requests) / wall_s)
                side.waits_s += waits
    return server, engine


def crops_for(data: Path | None, engine: Engine, count: int) -> dict[str, list[Any]]:
    """The same crops as files and as enhanced pixels."""
    folder = data or user_crops(count)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in images.ALLOWED_SUFFIXES)[:count]
    files = [path.read_bytes() for path in paths]
    return {
        "pixels": [np.asarray(enhance(images.decode(data).pixels_hwc, engine.spec.recipe)) for data in files],
        "files": list(files),
    }


def main() -> None:
    """Measure and write ``serving.json`` and ``.md``."""
    options = parser(__doc__)
    options.add_argument("--model", type=Path, help="default: the one that other scripts find")
    options.add_argument("--data", type=Path, help="folder of crops; default: drawn ones")
    options.add_argument("--provider", default="cpu")
    options.add_argument("--optimise", choices=("latency", "throughput"), default="latency")
    options.add_argument("--crops", type=int, default=96)
    options.add_argument("--rounds", type=int, default=9)
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    model = arguments.model or find_model()
    count, rounds = (24, 2) if arguments.quick else (arguments.crops, arguments.rounds)
    callers = (
        1
        if arguments.optimise == "latency"
        else run_threads(EngineOptions(arguments.provider), read_model_file(model).spec)
    )
    rows, records = [], []
    with (
        one_opencv_thread(),
        load(model, arguments.provider, concurrency=callers) as engine,
        served(model, arguments.provider, arguments.optimise) as (process, port, ready_s),
    ):
        crops = crops_for(arguments.data, engine, count)
        for kind in ("pixels", "files"):
            requests, alone = requests_of(kind, crops[kind]), engine_way(engine, kind, crops[kind], callers)
            for clients in CLIENTS:
                server, bare = compare(process, port, requests, alone, clients=clients, rounds=rounds)
                cpu = paired_ratio(server.cpu_s_a_crop, bare.cpu_s_a_crop)
                speed = paired_ratio(server.crops_a_s, bare.crops_a_s)
                waits = summarise(server.waits_s)
                rows.append(
                    (kind, clients, f"{cpu.value:.3f} ({cpu.low:.3f} to {cpu.high:.3f})", f"{speed.value:.2f}",
                     round(float(np.median(server.crops_a_s)), 1), round(1000 * waits.p50, 1),
                     round(1000 * waits.p99, 1))
                )  # fmt: skip
                records.append({"kind": kind, "clients": clients, "server": vars(server), "engine": vars(bare)})
                log(f"  {rows[-1]}")
        rss_mb = process.memory_info().rss / 1e6
    header = (
        "crops as", "clients", "server CPU / engine CPU", "server crops/s / engine crops/s", "crops/s", "p50, ms",
        "p99, ms",
    )  # fmt: skip
    text = (
        f"{count} crops, {rounds} paired rounds, `--optimise {arguments.optimise}`, {arguments.provider}. Ready after "
        f"{ready_s:.2f} s; {rss_mb:.0f} MB resident at the end.\n\n{markdown_table(header, rows)}"
    )
    data = {"rows": records, "ready_s": ready_s, "rss_mb": rss_mb, "optimise": arguments.optimise}
    write_result("serving", data, text, title="The server over the engine alone")


if __name__ == "__main__":
    main()
