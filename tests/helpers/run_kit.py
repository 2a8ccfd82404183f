"""Folders of small crops, and runs in child processes that can be killed at a chosen moment."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from glomedge.errors import GlomedgeError
from glomedge.runs.folder import Options, infer_folder
from glomedge.runs.outcome import Outcome

_PRELOAD = [
    *(f"glomedge.runs.{name}" for name in ("folder", "publish", "record")),
    *(f"glomedge.engine.{name}" for name in ("engine", "providers")),
    *(f"glomedge.imaging.{name}" for name in ("images", "quality", "enhance")),
    *("glomedge.reports.run_page", "glomedge.cases.summary", "glomedge.system.environment", "onnxruntime", "jinja2"),
]


def write_crops(folder: Path, count: int, *, seed: int = 0, side_px: int = 40, broken: int = 1) -> list[str]:
    """PNG crops of many colours in two folders, three cases, some broken; returns the relative paths, sorted."""
    import cv2

    rng = np.random.default_rng(seed)
    names = []
    for index in range(count):
        relative = f"{'ab'[index % 2]}/case{index % 3}-{index}.png"
        path = folder / relative
        path.parent.mkdir(parents=True, exist_ok=True)
        base = rng.integers(40, 216, 3)
        pixels = np.clip(base + rng.integers(-40, 40, (side_px, side_px, 3)), 0, 255).astype(np.uint8)
        data = cv2.imencode(".png", pixels)[1].tobytes()
        path.write_bytes(data[: len(data) // 2] if index < broken else data)
        names.append(relative)
    return sorted(names, key=os.fsencode)


def outputs(folder: Path) -> dict[str, bytes]:
    """The files whose bytes must not depend on how a run came about."""
    found = {path.name: path.read_bytes() for path in folder.glob("predictions.*")}
    return {**found, "cases.csv": (folder / "cases.csv").read_bytes()}


def table(folder: Path) -> list[dict[str, str]]:
    """The rows of ``predictions.csv``."""
    with (folder / "predictions.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


# What a child process calls; ``prepare`` may put something round it.
RUN: Callable[[Options], Outcome] = infer_folder


DEFECT = 99
"""Exit code of a child whose run raised what is no GlomedgeError: Python's own would be 1, like an error told."""


def _child(options: Options, prepare: Callable[[], None] | None) -> None:
    if prepare is not None:
        prepare()
    try:
        sys.exit(RUN(options).exit_code)
    except GlomedgeError as error:
        # As the command line does.
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except Exception:  # noqa: BLE001 - a test tells it by the code
        traceback.print_exc()
        sys.exit(DEFECT)


class KillAt:
    """Kills its own process at the n-th write to disk, before it, after it, or in the middle of its bytes."""

    def __init__(self, event: int, share: float) -> None:
        self.event = event
        self.share = share

    def __call__(self) -> None:
        seen = 0
        write, pwrite, fsync, replace = os.write, os.pwrite, os.fsync, os.replace

        def due() -> bool:
            nonlocal seen
            seen += 1
            return seen == self.event

        def die() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def killing_write(descriptor: int, data: Any) -> int:
            if due():
                write(descriptor, bytes(data)[: int(len(data) * self.share)])
                die()
            return write(descriptor, data)

        def killing_pwrite(descriptor: int, data: Any, offset: int) -> int:
            if due():
                pwrite(descriptor, bytes(data)[: int(len(data) * self.share)], offset)
                die()
            return pwrite(descriptor, data, offset)

        def killing_fsync(descriptor: int) -> None:
            if due():
                die()
            fsync(descriptor)

        def killing_replace(source: Any, target: Any, **others: Any) -> None:
            if due() and self.share < 0.5:
                die()
            replace(source, target, **others)
            if seen == self.event:
                die()

        for name, killing in (
            ("write", killing_write), ("pwrite", killing_pwrite),
            ("fsync", killing_fsync), ("replace", killing_replace),
        ):  # fmt: skip
            setattr(os, name, killing)


def run_in_child(options: Options, prepare: Callable[[], None] | None = None, timeout_s: float = 60.0) -> int:
    """Exit code of a run in a process of its own (negative: the signal that ended it)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    process = context.Process(target=_child, args=(options, prepare))
    process.start()
    process.join(timeout_s)
    if process.is_alive():
        process.kill()
        process.join()
        raise AssertionError(f"the run did not end within {timeout_s} s")
    assert process.exitcode is not None
    return process.exitcode


def start_child(options: Options, prepare: Callable[[], None] | None = None) -> Any:
    """A run in a process of its own, still going."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOAD)
    process = context.Process(target=_child, args=(options, prepare))
    process.start()
    return process
