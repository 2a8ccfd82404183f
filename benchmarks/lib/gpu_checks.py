"""What ``benchmarks/gpu.py`` tries on a card: each function is one step, runs in a process of its own and needs no
other step but the reference of its file.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.lib import gpu_stand_in
from benchmarks.lib.common import ROOT
from benchmarks.lib.engine_crops import Images, agreement, enhanced_crops, probabilities
from benchmarks.lib.steps import Disagreement
from glomedge.engine import loading, providers
from glomedge.engine.backends.gpu_memory import CUDA_LIBRARY
from glomedge.engine.cache import PASSPORT
from glomedge.engine.engine import Engine
from glomedge.imaging import images
from glomedge.model.file import read_model_file
from glomedge.system import libraries

LIMITS = {"fp32": 1e-4, "fp16": 5e-3}
"""Largest difference in probability from the CPU's answer to the same file."""
INT8_FLIPS = 0.005
"""Largest share of crops whose decision differs from the CPU's, for int8 files."""
TENSOR_CORE_GAIN = 1.3
"""fp16 below this many times fp32's throughput at a large batch has not run on tensor cores."""
_MIB = 1 << 20


@dataclass(frozen=True)
class Job:
    """What every step knows.

    Attributes:
        crops: a folder of real crops; None for drawn ones.
        count: at most so many crops.
        cache: the engine cache of this run alone.
        work: folder for the references.
        batches: sizes whose throughput is measured.
        seconds: of each measurement.
        rehearsal: whether the CPU stands in for the card.
    """

    crops: Path | None
    count: int
    cache: Path
    work: Path
    batches: tuple[int, ...]
    seconds: float
    rehearsal: bool

    def load(self, model: Path, provider: str, **options: Any) -> Engine:
        """The model on that provider, with this run's cache."""
        if self.rehearsal:
            gpu_stand_in.install()
        return loading.load(model, provider, cache_dir=self.cache, **options)


def machine(job: Job, names: tuple[str, ...]) -> dict[str, Any]:
    """What ``glomedge doctor`` finds, and why a provider cannot run. Fails where none of them can."""
    from glomedge.engine.doctor import diagnose

    if job.rehearsal:
        gpu_stand_in.install()
    diagnosis = diagnose()
    reasons = {report.name: report.reason for report in diagnosis.providers if report.name in names}
    found = {"doctor": diagnosis.to_json_object(), "not_usable": {name: why for name, why in reasons.items() if why}}
    if all(reasons.values()):
        raise Disagreement("no GPU provider can run here; `glomedge doctor` shows the whole machine", found)
    return found


def reference(job: Job, model: Path) -> dict[str, Any]:
    """The CPU's answers to this file, for all later steps."""
    file = read_model_file(model)
    crops, what = enhanced_crops(job.crops, file.spec.recipe, job.count)
    begin = perf_counter()
    with job.load(model, "cpu") as engine:
        expected = probabilities(engine, crops)
    np.savez(job.work / f"{model.name}.npz", crops=crops, expected=expected)
    return {"what": what, "sha256": file.sha256, "precision": file.spec.precision, "seconds": perf_counter() - begin}


def agrees(job: Job, model: Path, provider: str) -> dict[str, Any]:
    """Opened strictly, every node on the provider; the answers against the CPU's. First start, engine and all."""
    crops, _ = _reference(job, model)
    begin = perf_counter()
    with job.load(model, provider, strict_placement=True) as engine:
        found = {"load_s": perf_counter() - begin, "runtime": _runtime(engine)}
        found |= _compared(job, model, engine.spec.precision, probabilities(engine, crops), engine.spec.threshold)
    return _held(found)


def fixed_batch(job: Job, model: Path, provider: str) -> dict[str, Any]:
    """As ``infer --fixed-batch`` runs: one captured graph, two threads that call, a last batch that is not full."""
    crops, _ = _reference(job, model)
    size, callers = providers.GPU_BATCH, providers.GPU_RUN_THREADS
    parts = [crops[start : start + size] for start in range(0, len(crops), size)]
    with (
        job.load(model, provider, batch_size=size, fixed_batch=True, concurrency=callers) as engine,
        ThreadPoolExecutor(callers) as pool,
    ):
        answers = np.concatenate([output.probability for output in pool.map(engine.infer, parts)])
        found = {"runtime": _runtime(engine)}
        found |= _compared(job, model, engine.spec.precision, answers, engine.spec.threshold)
    return _held(found)


def tensor_cores(job: Job, fp32: Path, fp16: Path, provider: str) -> dict[str, Any]:
    """fp16 is much faster than fp32 at a large batch, or it has not run on tensor cores."""
    batch = job.batches[-1]
    slow = _throughput(job, fp32, provider, batch)
    fast = _throughput(job, fp16, provider, batch)
    found = {"fp32": slow, "fp16": fast, "ratio": fast["crops_per_s"] / slow["crops_per_s"]}
    if found["ratio"] < TENSOR_CORE_GAIN and not job.rehearsal:
        raise Disagreement(f"fp16 is {found['ratio']:.2f} times fp32 at batch {batch}: no tensor cores", found)
    return found


def throughput(job: Job, model: Path, provider: str, batch: int) -> dict[str, Any]:
    """Crops per second of one batch size, from host memory and back, as one captured shape."""
    return {"throughput": [_throughput(job, model, provider, batch)]}


def second_start(job: Job, model: Path, provider: str) -> dict[str, Any]:
    """The engine that an earlier step built is found again: no second build."""
    with job.load(model, provider):
        pass
    begin = perf_counter()
    with job.load(model, provider) as engine:
        notes = list(engine.runtime.notes)
        found = {"load_s": perf_counter() - begin, "notes": notes}
    if not any("taken from the cache" in note for note in notes):
        raise Disagreement(f"the engine was not taken from the cache: {'; '.join(notes)}", found)
    return found


def renamed_model(job: Job, model: Path, provider: str) -> dict[str, Any]:
    """The same file under another name answers the same, and spoils nothing for the first name."""
    crops, _ = _reference(job, model)
    other = job.work / f"renamed-{model.name}"
    shutil.copyfile(model, other)
    with job.load(other, provider) as engine:
        found = _compared(job, model, engine.spec.precision, probabilities(engine, crops), engine.spec.threshold)
        found["notes_renamed"] = list(engine.runtime.notes)
    _held(found)
    return found | {"first_name": second_start(job, model, provider)}


def corrupt_engine(job: Job, model: Path, provider: str) -> dict[str, Any]:
    """An engine with a flipped bit, and one that is cut short under a passport that agrees, are both replaced."""
    crops, _ = _reference(job, model)
    found: dict[str, Any] = {}
    for how, damage in (("a bit flipped", _flip), ("cut short, passport mended", _cut)):
        with job.load(model, provider):
            pass
        damaged = [damage(folder) for folder in _entries(job.cache)]
        if not damaged:
            raise Disagreement("there is no engine in the cache to damage", found)
        with job.load(model, provider) as engine:
            compared = _compared(job, model, engine.spec.precision, probabilities(engine, crops), engine.spec.threshold)
            found[how] = _held(compared) | {"damaged": damaged, "notes": list(engine.runtime.notes)}
    # And the replacement is whole.
    return found | {"afterwards": second_start(job, model, provider)}


def out_of_memory(job: Job, model: Path, provider: str) -> dict[str, Any]:
    """With the card's memory taken away, a large batch shrinks and every answer is still right."""
    crops, _ = _reference(job, model)
    batch = job.batches[-1]
    many = np.ascontiguousarray(np.concatenate([crops] * -(-batch // len(crops)))[: max(batch, len(crops))])
    found: dict[str, Any] = {"batch": batch}
    # The self-test runs a whole batch already, so the card is filled before; CUDA's own libraries still need room.
    for way, fixed in (("usual", False), ("fixed batch", True)):
        with (
            _ballast(job, 1536 * _MIB) as held_bytes,
            job.load(model, provider, batch_size=batch, max_batch=batch, fixed_batch=fixed) as engine,
        ):
            found[way] = _shrunk(job, model, engine, many) | {"held_mib": held_bytes // _MIB}
    if found["usual"]["batch_afterwards"] >= batch:
        raise Disagreement(f"a batch of {batch} still fitted: nothing was shown", found)
    if not any("out of memory" in note for note in found["fixed batch"]["notes"]):
        raise Disagreement(f"a fixed batch of {batch} still fitted: nothing was shown", found)
    return found


def _shrunk(job: Job, model: Path, engine: Engine, many: Images) -> dict[str, Any]:
    answers = engine.infer(many).probability[: len(_reference(job, model)[1])]
    compared = _held(_compared(job, model, engine.spec.precision, answers, engine.spec.threshold))
    return compared | {"batch_afterwards": engine._limit, "notes": list(engine.runtime.notes)}


def two_processes(job: Job, model: Path, provider: str) -> dict[str, Any]:
    """Two processes use the card and this run's cache at once; both answer as the CPU does."""
    told = json.dumps(asdict(job) | {"model": str(model), "provider": provider}, default=str)
    command = [sys.executable, "-m", "benchmarks.gpu", "--child", told]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(2)]
    answers = [child.communicate(timeout=500)[0] for child in children]
    found: dict[str, Any] = {"exit_codes": [child.returncode for child in children]}
    if any(found["exit_codes"]):
        raise Disagreement(f"exit codes {found['exit_codes']}", found)
    found["agreement"] = [json.loads(answer.splitlines()[-1]) for answer in answers]
    return found


def child(told: str) -> None:
    """One of the two processes: print as JSON how its answers agree."""
    fields = json.loads(told)
    model, provider = Path(fields.pop("model")), fields.pop("provider")
    paths = {name: Path(fields[name]) for name in ("cache", "work")} | {"crops": None}
    job = Job(**(fields | paths | {"batches": tuple(fields["batches"])}))
    found = agrees(job, model, provider)
    print(json.dumps(found), flush=True)


def from_files(job: Job, model: Path, provider: str) -> dict[str, Any]:
    """``glomedge infer`` on the folder of crops: seconds, crops per second, what decoded."""
    from glomedge.engine.options import EngineOptions
    from glomedge.runs.folder import Options, infer_folder

    if job.rehearsal:
        gpu_stand_in.install()
    if job.crops is None:
        raise Disagreement("needs a folder of crops: give --data", {})
    folder = _few(job, job.crops) if job.rehearsal else job.crops
    output = job.work / f"infer-{model.stem}-{provider}"
    engine = EngineOptions(provider, cache_dir=job.cache)
    begin = perf_counter()
    outcome = infer_folder(Options(folder, model, output, engine=engine, report=False))
    seconds = perf_counter() - begin
    rows = int(outcome.record["rows"])
    return {"rows": rows, "seconds": seconds, "crops_per_s": rows / seconds, "decoding": outcome.record["decoding"]}


def _few(job: Job, crops: Path) -> Path:
    """A folder with the first of the crops: a CPU would take minutes for all that a card takes seconds for."""
    folder = job.work / "few"
    folder.mkdir(exist_ok=True)
    files = sorted(path for path in crops.rglob("*") if path.suffix.lower() in images.ALLOWED_SUFFIXES)
    for path in files[: job.count]:
        shutil.copyfile(path, folder / path.name)
    return folder


def _reference(job: Job, model: Path) -> tuple[Images, npt.NDArray[np.float32]]:
    kept = job.work / f"{model.name}.npz"
    if not kept.is_file():
        raise Disagreement(f"there is no reference for {model.name}: its step failed", {})
    with np.load(kept) as arrays:
        return arrays["crops"], arrays["expected"]


def _runtime(engine: Engine) -> dict[str, Any]:
    runtime = engine.runtime
    return {
        "versions": dict(runtime.versions),
        "options": dict(runtime.options),
        "placement": dict(runtime.placement),
        "notes": list(runtime.notes),
    }


def _compared(
    job: Job, model: Path, precision: str, answers: npt.NDArray[np.float32], threshold: float
) -> dict[str, Any]:
    """The comparison with the CPU, and ``problem``: why it is not good enough, empty where it is."""
    _, expected = _reference(job, model)
    found = agreement(expected, answers, threshold)
    limit = LIMITS.get(precision)
    worst, flips = found["max_probability_difference"], found["flips"]
    problem = ""
    if not np.isfinite(answers).all():
        problem = "answers that are no numbers"
    elif limit is not None and worst > limit:
        problem = f"differs from the CPU by {worst:.1e}, {precision} may by {limit:g}"
    elif limit is None and flips > INT8_FLIPS * found["crops"]:
        problem = f"{flips} of {found['crops']} decisions differ from the CPU's, {INT8_FLIPS:.1%} may"
    return found | {"limit": limit if limit is not None else f"{INT8_FLIPS:.1%} flips", "problem": problem}


def _held(found: dict[str, Any]) -> dict[str, Any]:
    if found["problem"]:
        raise Disagreement(str(found["problem"]), found)
    return found


def _throughput(job: Job, model: Path, provider: str, batch: int) -> dict[str, Any]:
    """Raw seconds of each run of one batch size, as its own session with that one shape."""
    crops, _ = _reference(job, model)
    inputs = np.ascontiguousarray(np.concatenate([crops] * -(-batch // len(crops)))[:batch])
    begin = perf_counter()
    with job.load(model, provider, max_batch=batch, fixed_batch=True) as engine:
        load_s = perf_counter() - begin
        for _ in range(3):
            engine.infer(inputs)
        runs: list[float] = []
        end = perf_counter() + job.seconds
        while perf_counter() < end or len(runs) < 3:
            start = perf_counter()
            engine.infer(inputs)
            runs.append(perf_counter() - start)
    return {"batch": batch, "load_s": load_s, "samples_s": runs, "crops_per_s": batch / float(np.median(runs))}


def _entries(cache: Path) -> list[Path]:
    return sorted(path.parent for path in cache.glob(f"*/{PASSPORT}"))


def _largest(entry: Path) -> Path:
    files = [path for path in entry.rglob("*") if path.is_file() and path.name != PASSPORT]
    return max(files, key=lambda path: path.stat().st_size)


def _flip(entry: Path) -> str:
    path = _largest(entry)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))
    return path.name


def _cut(entry: Path) -> str:
    """What no checksum tells: the engine's file is short, and the passport was written for it as it is."""
    import hashlib

    path = _largest(entry)
    os.truncate(path, path.stat().st_size // 2)
    passport = json.loads((entry / PASSPORT).read_text("utf-8"))
    passport["files"][str(path.relative_to(entry))] = hashlib.sha256(path.read_bytes()).hexdigest()
    (entry / PASSPORT).write_text(json.dumps(passport), "utf-8")
    return path.name


@contextlib.contextmanager
def _ballast(job: Job, left_bytes: int) -> Iterator[int]:
    """Take the card's free memory but for ``left_bytes`` while the block runs; yields the bytes taken."""
    if job.rehearsal:
        with gpu_stand_in.little_memory():
            yield 0
        return
    runtime = _cuda_runtime()
    free, total, address = ctypes.c_size_t(), ctypes.c_size_t(), ctypes.c_void_p()
    runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    size = max(0, free.value - left_bytes)
    if runtime.cudaMalloc(ctypes.byref(address), ctypes.c_size_t(size)) != 0:
        raise Disagreement(f"{size // _MIB} MiB of the card could not be taken", {"free_mib": free.value // _MIB})
    try:
        yield size
    finally:
        runtime.cudaFree(address)


def _cuda_runtime() -> ctypes.CDLL:
    """The CUDA runtime that the provider links against: another one would have its own state."""
    folder = libraries.module_folder("onnxruntime")
    assert folder is not None  # or no provider would have opened
    libraries.preload_cuda()
    for name in libraries.needed_libraries(folder / "capi" / CUDA_LIBRARY):
        if name.startswith("libcudart."):
            return ctypes.CDLL(name)
    raise Disagreement("the CUDA provider links against no CUDA runtime", {})
