"""One process of ``publishing.py``: writes a journal, or publishes one; with this code or that of an older commit.

    python publishing_worker.py model '{"model": ...}'
    python publishing_worker.py prepare '{"rows": ..., "shuffled": ..., "source": ..., "model": ...}'
    python publishing_worker.py publish '{... "report": ..., "output": ...}'     prints {"seconds": ..., ...}

No benchmark module is imported, so that PYTHONPATH alone decides whose code runs. The crops do not exist and their
rows have no time, so that ``--resume`` of a finished run asks for no file: it publishes and does nothing else.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import json
import random
import re
import shutil
import struct
import sys
import time
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROWS_A_LINE = 32
CROPS_A_CASE = 40
_FILES = ("journal", "thumbnails")


def names(rows: int) -> list[bytes]:
    """Names such as scanners' exports have, sorted."""
    return sorted(
        f"B{number // CROPS_A_CASE // 1000}-{number // CROPS_A_CASE:06d}_PAS_{number % 3 + 1}of3_"
        f"{hashlib.md5(str(number).encode(), usedforsecurity=False).hexdigest()[:24]}.png".encode()
        for number in range(rows)
    )


def _first(*modules: str) -> Any:
    """The first of these modules that this code has: the older commit names them differently."""
    for name in modules:
        with contextlib.suppress(ModuleNotFoundError):
            return importlib.import_module(name)
    raise ModuleNotFoundError(" or ".join(modules))


def model(job: dict[str, Any]) -> None:
    """A small model file of the format that this code writes; nothing is classified with it."""
    _first("helpers.builders", "builders").build_tiny_model(Path(job["model"]))


def options_of(job: dict[str, Any], output: Path) -> Any:
    """Options of a run that resumes."""
    return _first("glomedge.runs.folder", "glomedge.folderrun").Options(
        folder=Path(job["source"]),
        model=Path(job["model"]),
        output=output,
        formats=tuple(job.get("formats", ("csv",))),
        resume=True,
        report=job.get("report", False),
    )


def found_by(job: dict[str, Any]) -> Any:
    """What the scan of the folder gives."""
    inputs = _first("glomedge.pipeline.inputs", "glomedge.scan")
    return inputs.Scan(bytes(Path(job["source"]) / "crops"), [inputs.Found(name) for name in names(job["rows"])])


def run_of(options: Any, found: Any) -> Any:
    """A folder run, ready to begin, by whichever code is on the path; reads the biopsies' names."""
    runs = _first("glomedge.runs.folder", "glomedge.folderrun")
    output = _first("glomedge.results.folder", "glomedge.outputs").OutputFolder(options.output, len(found.inputs))
    begin_s = time.perf_counter()
    if hasattr(runs, "Callbacks"):
        return runs._FolderRun(options, found, output, runs.Callbacks(), begin_s)
    return runs._FolderRun(options, found, output, lambda: False, None, None, begin_s)


def prepare(job: dict[str, Any]) -> None:
    """A finished run's journal and thumbnails, under ``source``."""
    source = Path(job["source"])
    source.mkdir(parents=True)
    identity = asdict(run_of(options_of(job, source / "unused"), found_by(job))._identity())
    rng = random.Random(14)
    pictures = [struct.pack("<49f", *(rng.gauss(0, 3) for _ in range(49))) + rng.randbytes(2500) for _ in range(64)]
    (source / "thumbnails").write_bytes(b"".join(pictures))
    rows = [_row(name.decode(), rng, pictures) for name in names(job["rows"])]
    if job["shuffled"]:
        rng.shuffle(rows)
    with (source / "journal").open("wb") as journal:
        seed = _append(journal, {"kind": "head", "format": 2, "identity": identity}, 0)
        _append(journal, {"kind": "engine", "provider": "cpu"}, seed)
        for begin in range(0, len(rows), ROWS_A_LINE):
            batch = rows[begin : begin + ROWS_A_LINE]
            _append(journal, {"kind": "start", "keys": [row[0] for row in batch]}, seed)
            _append(journal, {"kind": "rows", "rows": batch}, seed)


def _row(name: str, rng: random.Random, pictures: list[bytes]) -> list[Any]:
    """One row as the journal holds it: some errors, flags and copies, mostly plain answers."""
    kind = rng.random()
    content = name if kind > 0.02 else "a copy of one file"
    sha256 = hashlib.sha256(content.encode()).hexdigest()
    if kind > 0.99:
        return [name, "error:truncated", None, sha256, 12345, None, "the file ends early", None, None]
    # The shortest decimal of a float32, as the engine's answers are written.
    probability = float(f"{struct.unpack('<f', struct.pack('<f', rng.random()))[0]:.8g}")
    status = "flagged:blurred" if kind < 0.05 else "ok"
    number = rng.randrange(len(pictures))
    place = [number * len(pictures[0]), len(pictures[0]), zlib.crc32(pictures[number])]
    return [name, status, probability, sha256, 123456, None, "", None, place]


def _append(journal: Any, payload: dict[str, Any], seed: int) -> int:
    body = json.dumps(payload, separators=(",", ":")).encode("ascii")
    journal.write(b"%08x %s\n" % (zlib.crc32(body, seed), body))
    return zlib.crc32(body)


def publish(job: dict[str, Any]) -> dict[str, Any]:
    """Publish a copy of the prepared journal; seconds, and memory beyond what the list of inputs takes."""
    output = Path(job["output"])
    (output / ".glomedge").mkdir(parents=True)
    for name in _FILES:
        shutil.copyfile(Path(job["source"]) / name, output / ".glomedge" / name)
    options, found = options_of(job, output), found_by(job)
    # What all of it imports is not what a row costs.
    import cv2  # noqa: F401

    for module in (
        "glomedge.cases.names",
        "glomedge.cases.summary",
        "glomedge.runs.publish",
        "glomedge.reports.run_page",
    ):
        with contextlib.suppress(ModuleNotFoundError):
            importlib.import_module(module)

    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # the peak counts from here
    before = _status("VmRSS")
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    outcome = run_of(options, found).run()
    seconds, cpu_seconds = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
    peak = _status("VmHWM")
    digests = {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(output.iterdir())
        if path.suffix in (".csv", ".jsonl")
    }
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "peak_bytes_above_inputs": peak - before,
        "rows": outcome.answered,
        "complete": outcome.complete,
        "sha256": digests,
    }


def _status(field: str) -> int:
    found = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(encoding="ascii"))
    assert found is not None
    return int(found.group(1)) * 1024


if __name__ == "__main__":
    task: dict[str, Any] = json.loads(sys.argv[2])
    if sys.argv[1] == "model":
        model(task)
    elif sys.argv[1] == "prepare":
        prepare(task)
    else:
        print(json.dumps(publish(task)))
