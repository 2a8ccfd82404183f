"""What reading from object storage costs a worker, beside the network: processor time by object and by row.

The server is the one of the tests, in a process of its own on 127.0.0.1, so that seconds say nothing of real storage:
processor time is that of the reading process alone. From these constants and a store's own times follows what a cluster
waits for (docs/cluster.md).

    .venv/bin/python -m benchmarks.speed.storage [--quick] [--objects 50000]
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from benchmarks.lib.common import ROOT, log, markdown_table, parser, set_results_directory, write_result

BODY_BYTES = 100_000
_READ = 2000


def main() -> None:
    """Measure, write ``storage.json`` and ``.md``."""
    options = parser(__doc__)
    options.add_argument("--objects", type=int, default=50_000)
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    count = 2000 if arguments.quick else arguments.objects
    command = [sys.executable, "-m", "benchmarks.speed.storage", "--serve", str(count)]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert server.stdin is not None
    assert server.stdout is not None
    try:
        for part in server.stdout.readline().split():
            name, _, value = part.partition("=")
            os.environ[name] = value
        costs = measure(count)
    finally:
        server.stdin.close()
        server.wait()
    rows = [(name, f"{microseconds:.1f}") for name, microseconds in costs.items()]
    table = markdown_table(("step", "processor time, microseconds each"), rows)
    write_result("storage", {"objects": count, "body_bytes": BODY_BYTES, "cpu_us": costs}, table,
                 title="Reading from object storage")  # fmt: skip


def measure(count: int) -> dict[str, float]:
    """Microseconds of processor time of this process: by object, or by row."""
    from glomedge.files.addresses import Address
    from glomedge.files.storage import storage_at
    from glomedge.pipeline.stored_inputs import scan_storage
    from glomedge.runs.manifest import read_manifest, write_manifest

    address = Address.parse("s3://crops/c")
    storage = storage_at(bytes(address))
    assert storage is not None
    names = [found.relative for found in scan_storage(address, (".png",)).inputs]
    some = names[:_READ]
    costs = {"list": _cpu_us(lambda: scan_storage(address, (".png",)), count)}
    costs[f"read of {BODY_BYTES // 1000} kB"] = _cpu_us(
        lambda: [storage.read(name, 1 << 20) for name in some], len(some)
    )
    with ThreadPoolExecutor(32) as pool:
        costs["size, time and ETag, 32 at a time"] = _cpu_us(lambda: list(pool.map(storage.stat, some)), len(some))
    with tempfile.TemporaryDirectory() as scratch:
        for suffix in ("csv", "parquet"):
            path = Path(scratch) / f"manifest.{suffix}"
            costs[f"manifest.{suffix} written (with the list)"] = _cpu_us(partial(write_manifest, address, path), count)
            costs[f"manifest.{suffix} read"] = _cpu_us(partial(read_manifest, path, address), count)
    return costs


def _cpu_us(run: Callable[[], object], count: int) -> float:
    begin_s = time.process_time()
    run()
    microseconds = (time.process_time() - begin_s) / count * 1e6
    log(f"  {microseconds:.1f} us")
    return microseconds


def serve(count: int) -> None:
    """The server, until standard input ends; its environment goes to standard output."""
    sys.path.insert(0, str(ROOT / "tests"))
    from helpers.s3_server import Objects, serving

    body = os.urandom(BODY_BYTES)
    objects = Objects({f"c/B{number // 40:06}/{number:08}.png": body for number in range(count)})
    with serving(objects):
        print(" ".join(f"{name}={value}" for name, value in objects.environment().items()), flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        serve(int(sys.argv[2]))
    else:
        main()
