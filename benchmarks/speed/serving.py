"""What the server costs over the engine alone, beside a real tritonserver, and how long clients wait.

    .venv/bin/python -m benchmarks.speed.serving --model artifacts/model.int8.onnxruntime.onnx [--data CROPS]

Rounds rotate between the engine in this process, ``glomedge serve`` and the least server in Python
(``benchmarks.lib.bare_server``: no checks, limits, hashes, logs or metrics; one client, one crop a request); then,
where ``make triton-server`` has built it, between the engine and tritonserver on the repository that ``export-triton``
writes of the same model (each server a process of its own, over HTTP on 127.0.0.1, binary extension, one crop a request
or ``--crops-a-request``). Engine, glomedge and the least server have the same provider and threads; the engine gets the
crops of one request a call. Crops are sent as enhanced pixels (``Engine.infer``), and as files (``Engine.predict``),
which all decode, look at for flags and enhance; that is no part of the repository for Triton, so tritonserver gets
pixels alone.

All of it is started anew several times (``--starts``), and the rounds of all starts are taken together: ratios differ
from start to start by more than the interval of one start says.

Processor seconds are those of the server's processes and, for the engine, of this one; the clients' are not counted,
but they take their part of the machine, so throughput beside the engine's says as much about the clients where they run
on the same cores. Ratios are server over engine, the median of the paired rounds with its 95% bootstrap interval: a
busy machine changes them less than the milliseconds. tritonserver's backend ``onnxruntime`` is a stand-in in Python
here (docs/triton.md): its share of the time is not NVIDIA's own.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import struct
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.common import (
    find_model,
    log,
    markdown_table,
    parser,
    results_directory,
    set_results_directory,
    usable_cores,
    user_crops,
    write_result,
)
from benchmarks.lib.servers import Running, ask, bare_server, glomedge_server, triton_installed, triton_server
from benchmarks.lib.serving_report import BARE, ENGINE, GLOMEDGE, HEADER, TRITON, Side, plot, row_of
from glomedge.engine.engine import Engine
from glomedge.engine.loading import open_engine
from glomedge.engine.options import EngineOptions
from glomedge.engine.providers import run_threads
from glomedge.imaging import images
from glomedge.imaging.enhance import enhance
from glomedge.model.file import read_model_file
from glomedge.runs.pipeline_run import one_opencv_thread

Requests = list[tuple[bytes, dict[str, str]]]


def requests_of(kind: str, crops: list[Any], each: int = 1) -> Requests:
    """Body and headers of requests with so many crops each."""
    made = []
    for part in batched(crops, each):
        raw = b"".join(struct.pack("<I", len(crop)) + crop if kind == "files" else crop.tobytes() for crop in part)
        name, datatype = ("image", "BYTES") if kind == "files" else ("images", "UINT8")
        shape = [len(part), 1] if kind == "files" else [len(part), *part[0].shape]
        entry = {"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": len(raw)}}
        text = json.dumps({"inputs": [entry], "outputs": [{"name": "probability"}]}).encode()
        made.append((text + raw, {"Inference-Header-Content-Length": str(len(text))}))
    return made


def batched(crops: list[Any], each: int) -> list[list[Any]]:
    """Crops in parts of that many."""
    return [crops[at : at + each] for at in range(0, len(crops), each)]


def engine_way(engine: Engine, kind: str, crops: list[Any], callers: int, each: int = 1) -> Callable[[], list[float]]:
    """All crops through the engine, ``each`` a call, from as many threads as the server computes batches at once."""
    calls = batched(crops, each)

    def one(part: list[Any]) -> None:
        if kind == "files":
            engine.predict(part)
        else:
            engine.infer(part[0][None] if len(part) == 1 else np.stack(part))

    def run() -> list[float]:
        if callers == 1:
            for part in calls:
                one(part)
        else:
            with ThreadPoolExecutor(callers) as pool:
                list(pool.map(one, calls))
        return []

    return run


def compare(
    ways: dict[str, tuple[Callable[[], list[float]], Callable[[], float]]], crops: int, rounds: int
) -> dict[str, Side]:
    """Every side once a round, in rotating order; the first round of each warms up.

    Args:
        ways: name -> what answers all crops and returns the seconds of each request, and its processor seconds so far.
    """
    sides = {name: Side() for name in ways}
    names = list(ways)
    for index in range(-1, rounds):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            run, cpu = ways[name]
            cpu_s, begin_s = cpu(), time.perf_counter()
            waits = run()
            wall_s, cpu_s = time.perf_counter() - begin_s, cpu() - cpu_s
            if index >= 0:
                sides[name].cpu_s_a_crop.append(cpu_s / crops)
                sides[name].crops_a_s.append(crops / wall_s)
                sides[name].waits_s += waits
    return sides


def batches(server: Running) -> tuple[float, float]:
    """Crops that were computed so far, and batches."""
    with urllib.request.urlopen(f"http://127.0.0.1:{server.http_port}/metrics", timeout=60) as reply:
        lines = dict(line.rsplit(b" ", 1) for line in reply.read().splitlines() if line.startswith(b"glomedge_batch"))
    return float(lines[b"glomedge_batch_crops_sum"]), float(lines[b"glomedge_batch_crops_count"])


def crops_for(data: Path | None, engine: Engine, count: int) -> dict[str, list[Any]]:
    """The same crops as enhanced pixels and as files."""
    folder = data or user_crops(count)
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in images.ALLOWED_SUFFIXES)
    # From all of the folder: classes and laboratories lie side by side, and their crops differ in size.
    files = [path.read_bytes() for path in paths[:: max(1, len(paths) // count)][:count]]
    if len(files) < count:
        raise SystemExit(f"--data holds {len(files)} crops; give --crops {len(files)}, or more crops.")
    pixels = [np.asarray(enhance(images.decode(content).pixels_hwc, engine.spec.recipe)) for content in files]
    return {"pixels": pixels, "files": list(files)}


@contextmanager
def triton(model: Path) -> Iterator[Running | None]:
    """tritonserver on that model; None where it is not installed."""
    if not triton_installed():
        log("no tritonserver here (make triton-server): left out")
        yield None
        return
    from glomedge_export.triton.config import Serving
    from glomedge_export.triton.repository import write_repository

    with tempfile.TemporaryDirectory(prefix="glomedge-serving-") as folder:
        write_repository(Path(folder) / "repository", model, Serving("cpu"))
        # Its requests may wait for two seconds; on a busy machine that would refuse some, and others would look fast.
        config = Path(folder) / "repository" / "glomedge" / "config.pbtxt"
        text = config.read_text("utf-8")
        config.write_text(
            re.sub(r"default_timeout_microseconds: \d+", "default_timeout_microseconds: 0", text), "utf-8"
        )
        with triton_server(Path(folder) / "repository", Path(folder) / "log") as server:
            if server.process.poll() is not None:
                raise SystemExit("tritonserver did not start:\n" + (Path(folder) / "log").read_text()[-2000:])
            yield server


def arguments_of() -> argparse.Namespace:
    """The command line."""
    options = parser(__doc__)
    options.add_argument("--model", type=Path, help="default: the one that other scripts find")
    options.add_argument("--data", type=Path, help="folder of crops; default: drawn ones")
    options.add_argument("--source", help="of the crops in --data, for the caption")
    options.add_argument("--provider", default="cpu")
    options.add_argument("--optimise", choices=("latency", "throughput"), default="latency")
    options.add_argument("--crops", type=int, default=96)
    options.add_argument("--rounds", type=int, default=5, help="of each start")
    options.add_argument("--starts", type=int, default=3, help="of the engine and of every server")
    options.add_argument("--crops-a-request", type=int, default=1)
    options.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16])
    options.add_argument("--kinds", choices=("pixels", "files"), nargs="+", default=["pixels", "files"])
    options.add_argument("--no-triton", action="store_true", help="glomedge alone")
    return options.parse_args()


Measured = dict[tuple[str, int], dict[str, Side]]
"""Kind of crops and number of clients -> what each side did."""


def measure(
    arguments: argparse.Namespace, engine: Engine, callers: int, servers: dict[str, Running], kinds: list[str]
) -> Measured:
    """The engine and those servers, for each kind of crops and number of clients."""
    count, rounds = (24, 2) if arguments.quick else (arguments.crops, arguments.rounds)
    crops = crops_for(arguments.data, engine, count)
    each = arguments.crops_a_request
    found: Measured = {}
    for kind in kinds:
        for clients in arguments.clients:
            # Every client asks at least twice.
            asked = list(islice(cycle(crops[kind]), max(count, 2 * clients * each)))
            requests = requests_of(kind, asked, each)
            ways: dict[str, tuple[Callable[[], list[float]], Callable[[], float]]] = {
                ENGINE: (engine_way(engine, kind, asked, callers, each), time.process_time)
            }
            for name, server in servers.items():
                if name != BARE or clients == 1:
                    ways[name] = (partial(ask, server.http_port, requests, clients), server.cpu_s)
            before = batches(servers[GLOMEDGE]) if GLOMEDGE in servers else None
            sides = found[kind, clients] = compare(ways, len(asked), rounds)
            if before is not None:
                crops_so_far, so_far = batches(servers[GLOMEDGE])
                sides[GLOMEDGE].batches = crops_so_far - before[0], so_far - before[1]
            for name in sides:
                log(f"  {row_of(kind, clients, name, sides)}")
    return found


def measure_triton(
    arguments: argparse.Namespace, engine: Engine, callers: int, model: Path
) -> tuple[Measured, float | None]:
    """tritonserver, paired with rounds of the engine of their own: it runs while nothing else is measured.

    Returns:
        What it and the engine did, and its resident memory in MB; nothing where it is not installed.
    """
    if arguments.no_triton or "pixels" not in arguments.kinds:
        return {}, None
    with triton(model) as server:
        if server is None:
            return {}, None
        return measure(arguments, engine, callers, {TRITON: server}, ["pixels"]), server.rss_mb()


def one_start(
    arguments: argparse.Namespace, model: Path, callers: int
) -> tuple[Measured, Measured, dict[str, float | None]]:
    """The engine and all servers, started anew.

    Returns:
        What they did; the same of tritonserver; seconds until glomedge was ready, and resident megabytes.
    """
    with ExitStack() as stack:
        stack.enter_context(one_opencv_thread())
        options = ("--provider", arguments.provider, "--optimise", arguments.optimise)
        server = stack.enter_context(glomedge_server(model, *options))
        ready_cpu_s = server.cpu_s()
        servers = {GLOMEDGE: server}
        if arguments.provider == "cpu" and callers == arguments.crops_a_request == 1:
            servers[BARE] = stack.enter_context(bare_server(model))
        as_served = EngineOptions(arguments.provider)
        engine = stack.enter_context(open_engine(model, as_served, concurrency=callers, shares_cpus=True))
        measured = measure(arguments, engine, callers, servers, arguments.kinds)
        rss_mb = server.rss_mb()
        of_triton, triton_rss_mb = measure_triton(arguments, engine, callers, model)
    facts = {
        "ready_s": server.ready_s, "ready_cpu_s": ready_cpu_s, "rss_mb": rss_mb, "triton_rss_mb": triton_rss_mb,
    }  # fmt: skip
    return measured, of_triton, facts


def merge(starts: list[Measured]) -> Measured:
    """All rounds of all starts."""
    merged = starts[0]
    for start in starts[1:]:
        for key, sides in start.items():
            for name, side in sides.items():
                merged[key][name].add(side)
    return merged


def main() -> None:
    """Measure and write ``serving_<precision>.json``, ``.md`` and ``.png``."""
    arguments = arguments_of()
    set_results_directory(arguments.results)
    model = arguments.model or find_model()
    spec = read_model_file(model).spec
    callers = 1 if arguments.optimise == "latency" else run_threads(EngineOptions(arguments.provider), spec)
    # The first start reads the model from the disk, and is not the one that counts.
    with glomedge_server(model, "--provider", arguments.provider):
        pass
    starts = [one_start(arguments, model, callers) for _ in range(1 if arguments.quick else arguments.starts)]
    measured, of_triton = merge([start[0] for start in starts]), merge([start[1] for start in starts])
    rows, records = [], []
    for (kind, clients), sides in measured.items():
        beside = of_triton.get((kind, clients))
        for name, compared in [*((name, sides) for name in sides), *([(TRITON, beside)] if beside else [])]:
            rows.append(row_of(kind, clients, name, compared))
            records.append({"kind": kind, "clients": clients, "side": name, **vars(compared[name])})
    write(arguments, spec.precision, rows, records, starts[-1][2])


def write(
    arguments: argparse.Namespace,
    precision: str,
    rows: list[tuple[object, ...]],
    records: list[dict[str, Any]],
    facts: dict[str, float | None],
) -> None:
    """The results."""
    each = arguments.crops_a_request
    name = f"serving_{precision}" + (f"_{each}_a_request" if each > 1 else "")
    plot(records, results_directory() / f"{name}.png")
    load_1m = os.getloadavg()[0]
    triton_mb = facts["triton_rss_mb"]
    beside = "" if triton_mb is None else f" tritonserver with its stand-in: {triton_mb:.0f} MB."
    busy = f"Load average at the end: {load_1m:.1f}"
    busy += "." if load_1m <= usable_cores() else "; the machine was busy: ratios hold, times and crops/s do not."
    source = f" Crops: {arguments.source}." if arguments.source else ""
    text = (
        f"{precision}, {arguments.provider}, `--optimise {arguments.optimise}`, crops a request: {each}, "
        f"rounds: {len(records[0]['cpu_s_a_crop'])}, starts: {1 if arguments.quick else arguments.starts}. "
        f"`glomedge serve` was ready after {facts['ready_s']:.2f} s ({facts['ready_cpu_s']:.2f} s of processor time), "
        f"{facts['rss_mb']:.0f} MB resident at the end.{beside} {busy}{source}\n\n"
        f"{markdown_table(HEADER, rows)}\n![processor time and throughput]({name}.png)\n"
    )
    data = {"rows": records, **facts, "optimise": arguments.optimise, "load_average_1m": load_1m}
    write_result(name, data, text, title=f"The server over the engine alone, {precision}")


if __name__ == "__main__":
    main()
