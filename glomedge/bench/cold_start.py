"""Cold start: seconds from starting a process to its first answer, and what they go into.

The child (``python -m glomedge.bench.cold_start MODEL IMAGE ENGINE_OPTIONS_JSON``) imports glomedge,
loads the model with its self-test, reads one image file and answers it, then prints a line; the parent's clock runs
from before the child is started until that line is there.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

from glomedge.bench.record import ColdStart
from glomedge.engine.options import EngineOptions
from glomedge.errors import EngineError


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
    command = [sys.executable, "-m", "glomedge.bench.cold_start", str(model), str(image), asked]
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


def child_environment() -> dict[str, str]:
    """This environment, with the folder that holds glomedge importable: a checkout need not be installed."""
    import glomedge

    home = str(Path(glomedge.__file__).resolve().parent.parent)
    rest = [part for part in os.environ.get("PYTHONPATH", "").split(os.pathsep) if part]
    return {**os.environ, "PYTHONPATH": os.pathsep.join([home, *rest])}


def _start(command: Sequence[str]) -> tuple[float, dict[str, float]]:
    begin = time.perf_counter()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", env=child_environment()
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        line = process.stdout.readline()
        elapsed = time.perf_counter() - begin
        message = process.stderr.read() if not line else ""
    if not line:
        last = message.strip().splitlines()[-1:] or ["no message"]
        raise EngineError(f"A fresh process could not answer: {last[0]}. Run: glomedge doctor")
    steps: dict[str, float] = json.loads(line)
    return elapsed, steps


def child(arguments: list[str]) -> None:
    """The measured process."""
    model, image, asked = arguments
    begin = time.perf_counter()
    # Here, for the time it takes is one of the steps.
    from glomedge.engine.loading import open_engine

    imported = time.perf_counter()
    options = EngineOptions(**json.loads(asked))
    with open_engine(model, replace(options, cache_dir=Path(str(options.cache_dir)))) as engine:
        loaded = time.perf_counter()
        prediction = engine.predict([Path(image)])[0]
        answered = time.perf_counter()
        if prediction.probability is None:
            raise EngineError(f"{image}: {prediction.status}. Name other crops with --images DIR.")
        steps = {"import": imported - begin, "load": loaded - imported, "first answer": answered - loaded}
        sys.stdout.write(json.dumps(steps) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    child(sys.argv[1:])
