"""One configuration, measured in its own process: ``python -m glomedge.bench.worker JOB RESULT``.

A separate process gives each configuration its own threads and its own peak memory, and contains a crash. The job and
the result are JSON files; crops are passed as ``.npy``.
"""

from __future__ import annotations

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
from glomedge.engine import loading
from glomedge.engine.options import EngineOptions
from glomedge.errors import GlomedgeError
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
    from glomedge.engine import providers

    images = np.load(job.crops, allow_pickle=False)
    largest = max(job.batch_sizes)
    options = dataclasses.replace(job.engine, max_batch=job.engine.max_batch or largest)
    with loading.open_engine(job.model, options) as engine:
        provider = engine.provider
        runtime = runtime_record(engine)
        rss_after_load = rss_bytes()
        probabilities = _probabilities(engine, images, largest)
        if job.answers_only:
            memory = Memory(peak_rss_bytes=peak_rss_bytes(), rss_after_load_bytes=rss_after_load)
            return Result(provider=provider, runtime=runtime, memory=memory, probabilities=probabilities)
        latency = latency_by_batch(engine.infer, images, job.batch_sizes, duration_s=job.duration_s)
        done: list[Scenario] = []
        if "single-stream" in job.scenarios:
            done.append(single_stream(engine.infer, images, duration_s=job.duration_s))
        gpu_bytes = gpu_memory_bytes(os.getpid())
    threads = providers.run_threads(EngineOptions(provider))
    again = dataclasses.replace(options, strict_placement=False)  # recording it costs time, and it was seen to hold
    with loading.open_engine(job.model, again, concurrency=threads, self_test=False) as engine:
        throughput, energy = _offline(engine, images, job, _best_batch(latency), threads)
        if "offline" in job.scenarios:
            done.append(throughput)
        if "server" in job.scenarios:
            done.append(
                server(
                    engine.infer, images, upper_per_s=throughput.value, duration_s=2 * job.duration_s,
                    bound_ms=job.latency_bound_ms, max_batch=largest, concurrency=threads,
                )
            )  # fmt: skip
        end_to_end = None
        if job.files:
            from glomedge.bench.end_to_end import measure as measure_end_to_end

            # What infer would take with these options, on the provider that runs.
            batch_size = providers.batch_of(dataclasses.replace(job.engine, provider=provider))
            end_to_end = measure_end_to_end(
                engine, job.files, job.scratch, batch_size=batch_size, duration_s=job.duration_s,
                expected_per_s=throughput.value,
            )  # fmt: skip
        gpu_bytes = max(filter(None, (gpu_bytes, gpu_memory_bytes(os.getpid()))), default=None)
    return Result(
        provider=provider,
        runtime=runtime,
        latency=tuple(latency),
        scenarios=tuple(done),
        end_to_end=end_to_end,
        memory=Memory(peak_rss_bytes=peak_rss_bytes(), rss_after_load_bytes=rss_after_load, gpu_bytes=gpu_bytes),
        energy=energy,
        probabilities=probabilities,
    )


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


def peak_rss_bytes() -> int:
    """Highest resident set of this process so far (``VmHWM``; ``ru_maxrss`` where /proc is missing)."""
    value = _status("VmHWM")
    if value is not None:
        return value
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # macOS counts bytes, Linux kB


def rss_bytes() -> int:
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
