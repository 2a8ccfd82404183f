"""One configuration, measured in its own process: ``python -m glomedge.bench.worker JOB RESULT``.

A separate process gives each configuration its own threads and its own peak memory, and contains a crash. The job and
the result are JSON files; crops are passed as ``.npy``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from glomedge.about import without_source
from glomedge.bench.energy import EnergyMeter, gpu_memory_bytes
from glomedge.bench.record import EndToEnd, Energy, Latency, Memory, Scenario, ScenarioName
from glomedge.bench.scenarios import Images, latency_by_batch, offline, server, single_stream
from glomedge.engine import loading, providers
from glomedge.engine.options import EngineOptions
from glomedge.errors import GlomedgeError
from glomedge.model.file import ModelFile, read_model_file
from glomedge.model.frozen import Frozen

if TYPE_CHECKING:
    from glomedge.engine.engine import Engine


class Job(Frozen):
    """What to measure. ``crops`` is an ``.npy`` of enhanced crops, uint8 ``[N, side, side, 3]``."""

    model: Path
    engine: EngineOptions
    batch_sizes: tuple[int, ...]
    scenarios: tuple[ScenarioName, ...]
    duration_s: float
    latency_bound_ms: float
    crops: Path
    files: tuple[Path, ...]
    scratch: Path
    answers_only: bool = False


class Result(Frozen):
    """The result; ``error`` (class name) and ``message`` are set if it could not be measured."""

    error: str | None = None
    message: str = ""
    exit_code: int = 0
    provider: str = ""
    runtime: dict[str, Any] = {}  # noqa: RUF012 - pydantic copies defaults
    latency: tuple[Latency, ...] = ()
    scenarios: tuple[Scenario, ...] = ()
    end_to_end: EndToEnd | None = None
    memory: Memory | None = None
    energy: Energy | None = None
    probabilities: tuple[float | None, ...] = ()


def main(arguments: list[str]) -> int:
    """Run the job; every GlomedgeError is written into the result, anything else is a defect and is raised."""
    job_path, result_path = (Path(argument) for argument in arguments)
    job = Job.model_validate_json(job_path.read_bytes())
    try:
        result = measure(job)
    except GlomedgeError as error:
        message = without_source(str(error))
        result = Result(error=type(error).__name__, message=message, exit_code=error.exit_code)
    result_path.write_text(result.model_dump_json(), encoding="utf-8")
    return 0


def measure(job: Job) -> Result:
    """Load, answer the parity crops, then time what the job asks for.

    Raises:
        ProviderUnavailableError, ModelError, EngineError: from the engine.
    """
    images = np.load(job.crops, allow_pickle=False)
    file = read_model_file(job.model)
    first, latency, single = _answers_and_latency(job, file, images)
    if job.answers_only:
        return first
    throughput = _throughput(job, file, images, first.provider, _best_batch(latency))
    assert first.memory is not None
    gpu_bytes = max(filter(None, (first.memory.gpu_bytes, gpu_memory_bytes(os.getpid()))), default=None)
    return first.model_copy(
        update={
            "latency": tuple(latency),
            "scenarios": (*single, *throughput.scenarios),
            "end_to_end": throughput.end_to_end,
            "memory": first.memory.model_copy(update={"peak_rss_bytes": peak_rss_bytes(), "gpu_bytes": gpu_bytes}),
            "energy": throughput.energy,
        }
    )


def _engines(job: Job, file: ModelFile) -> list[tuple[EngineOptions, tuple[int, ...]]]:
    """The engines to open one after the other, each with the batch sizes to time on it.

    A GPU runs one size alone and pads or splits everything to it, so there each size has the engine that
    ``infer --batch-size`` opens.
    """
    if providers.runs_on_gpu(job.engine, file.spec):
        return [(dataclasses.replace(job.engine, batch_size=size), (size,)) for size in job.batch_sizes]
    largest = job.engine.max_batch or max(job.batch_sizes)
    return [(dataclasses.replace(job.engine, max_batch=largest), job.batch_sizes)]


def _answers_and_latency(job: Job, file: ModelFile, images: Images) -> tuple[Result, list[Latency], list[Scenario]]:
    """The result so far, with the answers; the latency of each size; the single-stream scenario if asked for."""
    latency: list[Latency] = []
    single: list[Scenario] = []
    gpu_bytes: list[int] = []
    result: Result | None = None
    for options, sizes in _engines(job, file):
        # All sizes are of one provider, even where `auto` would choose by the size.
        chosen = options if result is None else dataclasses.replace(options, provider=result.provider)
        with loading.open_engine(file, chosen) as engine:
            if result is None:
                result = _answers(job, engine, images)
            if job.answers_only:
                break
            share_s = job.duration_s * len(sizes) / len(job.batch_sizes)
            latency += latency_by_batch(engine.infer, images, sizes, duration_s=share_s)
            if "single-stream" in job.scenarios and min(job.batch_sizes) in sizes:
                single.append(_single_stream(job, engine, images, chosen.batch_size or 1))
            gpu_bytes += filter(None, [gpu_memory_bytes(os.getpid())])
    assert result is not None  # ``Settings.check``: there is a batch size
    assert result.memory is not None
    memory = result.memory.model_copy(update={"gpu_bytes": max(gpu_bytes, default=None)})
    return result.model_copy(update={"memory": memory}), latency, single


def _answers(job: Job, engine: Engine, images: Images) -> Result:
    after_load = rss_bytes()
    probabilities = _probabilities(engine, images, max(job.batch_sizes))
    memory = Memory(peak_rss_bytes=peak_rss_bytes(), rss_after_load_bytes=after_load)
    return Result(provider=engine.provider, runtime=runtime_record(engine), probabilities=probabilities, memory=memory)


def _single_stream(job: Job, engine: Engine, images: Images, padded_to: int) -> Scenario:
    found = single_stream(engine.infer, images, duration_s=job.duration_s)
    # Without a size of 1 each query is padded, which is not what an engine for one crop would take.
    return found.model_copy(update={"details": found.details | {"padded_to": padded_to}}) if padded_to > 1 else found


def _throughput(job: Job, file: ModelFile, images: Images, provider: str, best: int) -> Result:
    """Offline, server and end to end, with as many callers as the provider is given; ``best`` is the fastest size."""
    threads = providers.run_threads(EngineOptions(provider), file.spec)
    gpu = providers.named(provider).gpu
    # Recording the placement costs time, and it was seen to hold.
    plain = dataclasses.replace(job.engine, provider=provider, strict_placement=False)
    largest = max(job.batch_sizes)
    if gpu:
        options = dataclasses.replace(plain, batch_size=best)
    else:
        options = dataclasses.replace(plain, max_batch=job.engine.max_batch or largest)
    done: list[Scenario] = []
    with contextlib.ExitStack() as opened:
        engine = opened.enter_context(loading.open_engine(file, options, concurrency=threads, self_test=False))
        throughput, energy = _offline(engine, images, job, best, threads)
        if "offline" in job.scenarios:
            done.append(throughput)
        if "server" in job.scenarios:
            done.append(
                server(
                    engine.infer, images, upper_per_s=throughput.value, duration_s=2 * job.duration_s,
                    bound_ms=job.latency_bound_ms, max_batch=best if gpu else largest, concurrency=threads,
                )
            )  # fmt: skip
        if not job.files:
            return Result(scenarios=tuple(done), energy=energy)
        from glomedge.bench.end_to_end import measure as measure_end_to_end

        # What infer would take with these options, on the provider that runs.
        usual = providers.batch_of(plain, file.spec)
        if gpu and usual != best:
            opened.close()
            again = dataclasses.replace(plain, batch_size=usual)
            engine = opened.enter_context(loading.open_engine(file, again, concurrency=threads, self_test=False))
        end_to_end = measure_end_to_end(
            engine, job.files, job.scratch, batch_size=usual, duration_s=job.duration_s,
            expected_per_s=throughput.value,
        )  # fmt: skip
        return Result(scenarios=tuple(done), energy=energy, end_to_end=end_to_end)


def _offline(engine: Engine, images: Images, job: Job, batch_size: int, threads: int) -> tuple[Scenario, Energy | None]:
    import time

    with EnergyMeter() as meter:
        begin = time.perf_counter()
        scenario = offline(engine.infer, images, duration_s=job.duration_s, batch_size=batch_size, concurrency=threads)
        seconds = time.perf_counter() - begin
    if not meter.joules:
        return scenario, None
    total = sum(meter.joules.values())
    # The warm-up is inside the counters and inside the seconds: the rate makes the crops of both.
    return scenario, Energy(
        seconds=seconds, joules=meter.joules, joules_per_crop=total / (scenario.value * seconds), source=meter.source
    )


def _best_batch(latency: list[Latency]) -> int:
    return max(latency, key=lambda item: item.crops_per_s.value).batch_size


def _probabilities(engine: Engine, images: Images, batch: int) -> tuple[float | None, ...]:
    parts = [engine.infer(images[i : i + batch]).probability for i in range(0, len(images), batch)]
    return tuple(float(p) if np.isfinite(p) else None for p in np.concatenate(parts))


def runtime_record(engine: Engine) -> dict[str, Any]:
    """The engine's versions, options and notes, as JSON values without paths of this machine."""
    runtime: Any = engine.runtime
    record: dict[str, Any] = dataclasses.asdict(runtime)
    return {key: _plain(value) for key, value in record.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, Path):
        return value.name
    if isinstance(value, str) and value.startswith("/"):
        return Path(value).name
    return value if isinstance(value, int | float | bool | None) else without_source(str(value))


def peak_rss_bytes() -> int | None:
    """Highest resident set of this process so far: ``VmHWM``; ``ru_maxrss`` without /proc; None on Windows."""
    value = _status("VmHWM")
    if value is not None:
        return value
    try:
        import resource
    except ImportError:
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kB


def rss_bytes() -> int | None:
    """Resident set of this process now; its peak if the system does not report it."""
    value = _status("VmRSS")
    return value if value is not None else peak_rss_bytes()


def _status(field: str) -> int | None:
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:")), None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
