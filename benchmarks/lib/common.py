"""What every benchmark script shares: crops, models, the alternating runner, the environment, the results writer.

Scripts are run as modules from the root of the checkout: ``.venv/bin/python -m benchmarks.speed.decoders``.

    samples = alternate({"a": run_a, "b": run_b}, rounds=9)     # seconds, paired by round, order rotating
    ratio = paired_ratio(samples["a"], samples["b"])            # how many times faster b is; median, 95% interval
    write_result("decoders", {"samples_s": samples}, markdown)  # benchmarks/results/<host-kind>/decoders.{json,md}
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
# The scripts also work in a checkout that is not installed.
for _root in (ROOT, ROOT / "export"):
    if str(_root) not in sys.path:
        sys.path.insert(0, str(_root))

from glomedge.about import RESEARCH_USE_NOTICE  # noqa: E402
from glomedge.bench.statistics import Estimate, paired_ratio, summarise  # noqa: E402
from glomedge.system.environment import describe, environment, host_kind, usable_cores  # noqa: E402

__all__ = [
    "RESULTS", "ROOT", "WORK", "Estimate", "Worker", "alternate", "describe", "environment", "file_sha256",
    "find_model", "host_kind", "log", "markdown_table", "paired_ratio", "parser", "results_directory",
    "set_results_directory", "summarise", "timed", "usable_cores", "user_crops", "write_result",
]  # fmt: skip

RESULTS = ROOT / "benchmarks" / "results"
WORK = ROOT / "build" / "benchmarks"
"""Scratch that outlives one script: drawn crops, models (``/build/`` is ignored by git)."""

SCHEMA_VERSION = 1
_results: list[Path] = []


def log(message: str) -> None:
    """Progress, on stderr."""
    print(message, file=sys.stderr, flush=True)


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options every script takes: ``--quick`` (fewer rounds, for a look) and ``--results DIR``."""
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--quick", action="store_true", help="fewer rounds and crops: for a look, not for a table")
    options.add_argument("--results", type=Path, help="write here instead of benchmarks/results/<host-kind>/")
    return options


def set_results_directory(directory: Path | None) -> None:
    """Write results there from now on (``--results``); None keeps ``benchmarks/results/<host-kind>``."""
    _results[:] = [directory] if directory else []


def results_directory() -> Path:
    """Where this machine's results go, made when missing."""
    directory = _results[0] if _results else RESULTS / host_kind()
    directory.mkdir(parents=True, exist_ok=True)
    return directory


def timed(run: Callable[[], object]) -> float:
    """Seconds of one call by ``perf_counter``; garbage is collected before, not during."""
    gc.collect()
    gc.disable()
    try:
        begin = time.perf_counter()
        run()
        return time.perf_counter() - begin
    finally:
        gc.enable()


def alternate(
    ways: Mapping[str, Callable[[], object]], *, rounds: int, warmup: int = 1, budget_s: float | None = None
) -> dict[str, list[float]]:
    """Run every way once per round, in rotating order, and keep the seconds of each round.

    Rounds pair the ways: what slows the machine for a while slows all of them, so ratios within a round
    hold. A way that returns a float has timed itself (a ``Worker``); otherwise the call is timed here.

    Args:
        ways: name -> callable.
        rounds: rounds that count.
        warmup: calls of each way before, not counted.
        budget_s: stop after the round in which this is exceeded (at least two rounds are made).

    Returns:
        name -> seconds, all of the same length.
    """
    for run in ways.values():
        for _ in range(warmup):
            run()
    samples: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    begin = time.perf_counter()
    for index in range(rounds):
        shift = index % len(names)
        for name in names[shift:] + names[:shift]:
            box: list[object] = []
            elapsed = timed(lambda run=ways[name], box=box: box.append(run()))  # type: ignore[misc]
            samples[name].append(box[0] if isinstance(box[0], float) else elapsed)
        if budget_s is not None and index >= 1 and time.perf_counter() - begin > budget_s:
            log(f"  stopped after {index + 1} of {rounds} rounds: the time allotted is used")
            break
    return samples


class Worker:
    """A way that runs in its own process and times itself there: with its own threads and memory.

    The process runs ``command``; it prints one JSON line when it is ready, then answers every line it is sent
    with one JSON line ``{"seconds": ..., ...}``. Calling the worker sends ``go`` and returns the seconds.
    """

    def __init__(self, command: Sequence[str], *, environment_extra: Mapping[str, str] | None = None) -> None:
        self.last: dict[str, Any] = {}
        self._process = subprocess.Popen(
            list(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT,
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **(environment_extra or {})},
        )  # fmt: skip
        self.ready = self._read()
        if "error" in self.ready:
            self.close()
            raise RuntimeError(str(self.ready["error"]))

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):
                answer: dict[str, Any] = json.loads(line)
                return answer
        raise RuntimeError(f"it ended with exit code {self._process.wait()}; its message is in the log of the run")

    def __call__(self) -> float:
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        self.last = self._read()
        return float(self.last["seconds"])

    def close(self) -> None:
        """End the process; its exit is waited for."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def user_crops(count: int, *, seed: int = 7) -> Path:
    """A folder with ``count`` drawn full-size crops (RGBA PNG, 200 to 1,200 px a side).

    Drawn once by ``glomedge synth``'s generator and kept under ``build/benchmarks``; above 200 crops the drawn
    ones are repeated under new names by hard links (the page cache then holds fewer distinct bytes than a real
    folder of that size would need, which is noted with the figures).
    """
    drawn_count = min(count, 200)
    # Crops drawn by an earlier version of the generator are not these crops.
    sources = sorted((ROOT / "export" / "glomedge_export").joinpath("synthetic").glob("*.py"))
    version = hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()[:8]
    drawn = WORK / f"crops-{drawn_count}-{seed}-{version}"
    if not (drawn / "public.csv").is_file():
        from glomedge_export.synthetic.dataset import write_dataset

        shutil.rmtree(drawn, ignore_errors=True)
        log(f"drawing {drawn_count} crops ...")
        write_dataset(drawn, crops=drawn_count, cases=max(2, drawn_count // 12), seed=seed)
    files = sorted(drawn.rglob("*.png"))
    if count <= len(files):
        return drawn if count == len(files) else _linked(files, count, f"{seed}-{version}")
    return _linked(files, count, f"{seed}-{version}")


def _linked(files: list[Path], count: int, version: str) -> Path:
    folder = WORK / f"crops-linked-{count}-{version}"
    if not folder.is_dir() or len(list(folder.iterdir())) != count:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for index in range(count):
            source = files[index % len(files)]
            biopsy, _, rest = source.name.partition("_")
            os.link(source, folder / f"{biopsy}-{index // len(files):04d}_{rest}")
    return folder


def find_model(name: str = "model.onnx", directory: Path | None = None) -> Path:
    """A trained or exported model: ``--artifacts``, ``artifacts/``, the demo's, or the newest of build/benchmarks.

    Raises SystemExit that says how to make one.
    """
    places = (
        [directory] if directory else [ROOT / "artifacts", ROOT / "glomedge-demo" / "artifacts", WORK / "artifacts"]
    )
    for place in places:
        if (place / name).is_file():
            return place / name
    raise SystemExit(
        f"no {name} in {', '.join(p.name for p in places)}: run `make demo` (or glomedge train and export) first"
    )


def file_sha256(path: Path) -> str:
    """SHA-256 of a file, to name a model in a record."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A GitHub table; numbers are right-aligned."""

    def cell(value: object) -> str:
        return f"{value:.3g}" if isinstance(value, float) else str(value).replace("|", "\\|")

    numeric = [all(isinstance(row[i], int | float) for row in rows) and bool(rows) for i in range(len(header))]
    lines = ["| " + " | ".join(header) + " |", "|" + "|".join("---:" if n else "---" for n in numeric) + "|"]
    lines += ["| " + " | ".join(cell(value) for value in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def write_result(name: str, data: Mapping[str, Any], markdown: str, *, title: str | None = None) -> Path:
    """Write ``<name>.json`` (data, environment, command) and ``<name>.md`` (table with its caption); returns the json.

    The caption names the machine, the versions and the command, so that a table can be quoted on its own.
    """
    record = environment()
    directory = results_directory()
    command = " ".join(["python", *[_public(argument) for argument in sys.argv]])
    document = {
        "schema_version": SCHEMA_VERSION, "name": name, "notice": RESEARCH_USE_NOTICE, "command": command,
        "created_utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()), "environment": record, **data,
    }  # fmt: skip
    target = directory / f"{name}.json"
    target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    caption = f"{describe(record)}. Made by `{command}`, {document['created_utc']}. {RESEARCH_USE_NOTICE}"
    text = f"### {title or name}\n\n{markdown.rstrip()}\n\n{caption}\n"
    (directory / f"{name}.md").write_text(text, encoding="utf-8")
    log(f"wrote {target.name} and {name}.md")
    return target


def _public(argument: str) -> str:
    """An argument without the path to this checkout or any other folder of this machine."""
    path = Path(argument)
    if path.is_absolute():
        return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else path.name
    return argument
