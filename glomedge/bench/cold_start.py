"""Cold start: seconds from starting a process to its first answer, by step.

The child (``cold_start_child.py``) imports glomedge, loads the model with its self-test, reads one image file and
answers it, then writes a line to a pipe; the parent's clock runs from before the child is started until that line is
there.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from glomedge.bench.record import ColdStart
from glomedge.engine.options import EngineOptions
from glomedge.errors import EngineError
from glomedge.system.children import child_environment, python_command


def measure(
    model: Path,
    engine: EngineOptions,
    image: Path,
    *,
    scratch: Path,
    repeats: int = 4,
) -> ColdStart:
    """Start ``repeats`` + 1 processes, the first with an empty engine cache (below ``scratch``).

    Raises EngineError when one fails.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    cache = scratch / "engines"
    cache.mkdir(mode=0o700)
    asked = json.dumps({**asdict(engine), "cache_dir": str(cache)})
    command = python_command("glomedge.bench.cold_start_child", str(model), str(image), asked)
    first_s, first = _start(command)
    built = any(path.is_file() for path in cache.rglob("*"))
    later = [_start(command) for _ in range(repeats)]
    steps: dict[str, float] = {}
    if later:
        for key in later[0][1]:
            steps[key] = statistics.median(split[key] for _, split in later)
        inside = [total - sum(split.values()) for total, split in later]
        steps = {"interpreter": statistics.median(inside), **steps}
    load_s = steps.get("load", first["load"])
    return ColdStart(
        first_s=first_s,
        again_s=tuple(total for total, _ in later),
        median_s=statistics.median(total for total, _ in later) if later else first_s,
        steps_s=steps or first,
        build_s=max(0.0, first["load"] - load_s) if built else None,
        load_s=load_s,
    )


def _start(command: Sequence[str]) -> tuple[float, dict[str, float]]:
    # A pipe of their own, for anything may print to standard output while Python starts.
    reading, writing = os.pipe()
    with os.fdopen(reading, encoding="utf-8", errors="replace") as answer:
        begin = time.perf_counter()
        try:
            process = subprocess.Popen(
                [*command, str(writing)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                errors="replace", pass_fds=[writing], env=child_environment(),
            )  # fmt: skip
        finally:
            os.close(writing)
        with process:
            assert process.stderr is not None
            line = answer.readline()
            elapsed = time.perf_counter() - begin
            message = process.stderr.read() if not line else ""
    if not line:
        last = message.strip().splitlines()[-1:] or ["no message"]
        raise EngineError(f"A new process gave no answer: {last[0]}. Run: glomedge doctor")
    steps: dict[str, float] = json.loads(line)
    return elapsed, steps
