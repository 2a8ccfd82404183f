"""A Ray cluster of a test's own, and drivers in processes of their own that can be killed."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from types import MappingProxyType

import psutil

from glomedge.cluster.options import CohortOptions

STARTED_WITHIN_S = 300.0


def command(options: CohortOptions, *more: str) -> list[str]:
    """``glomedge infer-ray`` with these options."""
    run = options.run
    workers = [] if options.workers is None else ["--workers", str(options.workers)]
    return [
        sys.executable, "-m", "glomedge", "infer-ray", str(run.inputs), "--folder", str(run.folder),
        "--model", str(run.model), "--output", options.output, "--cpus-per-worker", str(options.cpus_per_worker),
        "--part-rows", str(options.part_rows), *workers,
        *more,
    ]  # fmt: skip


@contextmanager
def driver(
    options: CohortOptions, *more: str, cluster: Mapping[str, str] = MappingProxyType({})
) -> Iterator[subprocess.Popen[str]]:
    """A driver with a cluster of its own, or on the one of ``two_nodes``; whatever is left is killed at the end."""
    process = subprocess.Popen(
        command(options, *more),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env={**_without_ray(), **cluster},
        start_new_session=True,
    )  # fmt: skip
    seen: dict[int, psutil.Process] = {}
    try:
        yield process
    finally:
        _remember(process.pid, seen)
        end(process, seen)


@contextmanager
def two_nodes() -> Iterator[tuple[Mapping[str, str], subprocess.Popen[str]]]:
    """What a driver needs to join ``ray_two_nodes``, and the process that a line makes to lose its second node."""
    given = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # 127.0.0.1 alone
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_worker_niceness": "0",
        # A node that is gone is believed to be within seconds.
        "RAY_health_check_period_ms": "1000",
        "RAY_health_check_failure_threshold": "3",
    }
    places = str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH")
    process = subprocess.Popen(
        [sys.executable, "-m", "helpers.ray_two_nodes"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True,
        env=_without_ray() | given | {"PYTHONPATH": os.pathsep.join(filter(None, places))},
    )  # fmt: skip
    seen: dict[int, psutil.Process] = {}
    try:
        assert process.stdout is not None
        address = process.stdout.readline().strip()
        assert address.startswith("127.0.0.1:"), address
        yield given | {"RAY_ADDRESS": address}, process
    finally:
        _remember(process.pid, seen)
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=30.0)
        end(process, seen)


def _without_ray() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}


def _remember(pid: int, seen: dict[int, psutil.Process]) -> None:
    try:
        for child in psutil.Process(pid).children(recursive=True):
            seen.setdefault(child.pid, child)
    except psutil.NoSuchProcess:
        pass


def end(process: subprocess.Popen[str], family: dict[int, psutil.Process]) -> None:
    """Kill a driver, and then the processes that it had started."""
    if process.poll() is None:
        process.kill()
    process.wait()
    for child in family.values():
        try:
            child.kill()  # psutil looks whether it is still the same process
        except psutil.NoSuchProcess:
            continue


def kill_driver(process: subprocess.Popen[str]) -> None:
    """SIGKILL to a driver alone: its cluster ends by itself, or outlives it for a while."""
    process.send_signal(signal.SIGKILL)
    process.wait()


def workers_of(process: subprocess.Popen[str]) -> list[psutil.Process]:
    """The Ray workers that hold an engine."""
    try:
        family = psutil.Process(process.pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
    found = []
    for child in family:
        try:
            if "ray::RayWorker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:
            continue
    return found


def parts_of(options: CohortOptions) -> int:
    """How many parts are done."""
    return len(list((Path(options.output) / "predictions").glob("part-*.parquet")))


def wait_for_parts(process: subprocess.Popen[str], options: CohortOptions, count: int) -> bool:
    """Wait until so many parts are done; False where the driver ended before."""
    deadline_s = time.monotonic() + STARTED_WITHIN_S
    while parts_of(options) < count:
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline_s, f"only {parts_of(options)} parts after {STARTED_WITHIN_S:g} s"
        time.sleep(0.05)
    return True
