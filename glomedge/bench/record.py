"""``bench.json``: what one run of ``glomedge bench`` measured, as frozen models (schema in docs/bench.md).

Times are seconds in raw samples (``*_s``) and milliseconds in derived figures (``*_ms``).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.bench.statistics import Estimate, Rounds, Summary, bootstrap_median, summarise
from glomedge.errors import UsageError
from glomedge.model.frozen import Frozen

ScenarioName = Literal["single-stream", "offline", "server"]
STAGES = ("read", "decode", "assess", "enhance", "thumbnail", "copy", "infer", "write")


class Figure(Frozen):
    """A value with its 95% interval, which is absent if there was only one run."""

    value: float
    low: float | None = None
    high: float | None = None

    @staticmethod
    def of(estimate: Estimate) -> Figure:
        """From a bootstrap estimate."""
        return Figure(value=estimate.value, low=estimate.low, high=estimate.high)


class Percentiles(Frozen):
    """Order statistics of a latency, milliseconds."""

    n: int
    mean_ms: float
    std_ms: float
    min_ms: float
    p50_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float

    @staticmethod
    def of(summary: Summary) -> Percentiles:
        """From a summary of seconds."""
        ms = {f"{k}_ms": getattr(summary, k) * 1e3 for k in ("mean", "std", "min", "p50", "p90", "p95", "p99", "max")}
        return Percentiles(n=summary.n, **ms)


class Latency(Frozen):
    """One batch size on one engine, called from one thread: raw seconds by round, and their summary."""

    batch_size: int
    rounds_s: tuple[tuple[float, ...], ...]
    percentiles: Percentiles
    crops_per_s: Figure

    @staticmethod
    def of(batch_size: int, rounds_s: Rounds) -> Latency:
        """Summarise the raw seconds; throughput is batch size over the median (its interval inverted)."""
        median = bootstrap_median(rounds_s)
        return Latency(
            batch_size=batch_size,
            rounds_s=tuple(tuple(r) for r in rounds_s),
            percentiles=Percentiles.of(summarise([s for r in rounds_s for s in r])),
            crops_per_s=Figure(
                value=batch_size / median.value, low=batch_size / median.high, high=batch_size / median.low
            ),
        )


class Scenario(Frozen):
    """A measurement after MLPerf Inference's definition of that name (docs/bench.md says where it departs)."""

    name: ScenarioName
    metric: str
    value: float
    unit: str
    valid: bool
    latency: Percentiles | None = None
    rounds: tuple[float, ...] = ()
    details: dict[str, float | int | str] = Field(default_factory=dict)


class ColdStart(Frozen):
    """From starting a process to its first answer.

    ``first_s`` starts with an empty engine cache, ``again_s`` with the cache that the first one left; the file
    system's cache is warm in both. ``steps_s`` splits the median of the later starts.
    """

    first_s: float
    again_s: tuple[float, ...]
    median_s: float
    steps_s: dict[str, float]
    build_s: float | None = None
    load_s: float


class Memory(Frozen):
    """Resident memory of the measuring process if the system reports it, and GPU memory if NVML does."""

    peak_rss_bytes: int | None
    rss_after_load_bytes: int | None
    gpu_bytes: int | None = None


class StageRound(Frozen):
    """One pass over the folder: wall-clock seconds, what the pipeline counted by stage, and crops without an answer."""

    wall_s: float
    stages_s: dict[str, float]
    failed: int = 0


class EndToEnd(Frozen):
    """From files to journalled answers, by the pipeline of ``glomedge infer``, with the engine already loaded.

    ``stages_ms`` are milliseconds of one core for one crop in each stage (of the device for ``copy`` and ``infer``
    on a GPU), ``share`` their shares; ``core_limit_crops_per_s`` is the throughput with perfect overlap of the stages.
    """

    crops: int
    rounds: tuple[StageRound, ...]
    crops_per_s: Figure
    stages_ms: dict[str, float]
    share: dict[str, float]
    binds: str
    how: str
    core_limit_crops_per_s: float
    core_limit_share: float


class Energy(Frozen):
    """Total energy (idle power included) over the measured time, by counter."""

    seconds: float
    joules: dict[str, float]
    joules_per_crop: float
    source: str


class CeilingShare(Frozen):
    """The network's multiply-adds against a matrix product of the same precision on the same machine."""

    precision: str
    rate_gmac_per_s: float
    network_gmac: float
    limit_crops_per_s: float
    reached_crops_per_s: float
    share: float
    method: str


class ParityCheck(Frozen):
    """Decisions and probabilities of this configuration against the fp32 model on the CPU, same crops."""

    reference: str
    crops: int
    flips: int
    max_probability_difference: float
    nonfinite: int
    tolerance_flips: int
    passed: bool


class Configuration(Frozen):
    """One model on one provider."""

    model: str
    model_sha256: str
    precision: str
    target: str
    provider_asked: str
    provider: str
    fell_back: bool
    runtime: dict[str, Any]
    cold_start: ColdStart | None = None
    latency: tuple[Latency, ...] = ()
    scenarios: tuple[Scenario, ...] = ()
    end_to_end: EndToEnd | None = None
    memory: Memory
    energy: Energy | None = None
    ceiling: CeilingShare | None = None
    parity: ParityCheck | None = None

    @property
    def name(self) -> str:
        """Short and unique within a record: ``model.onnx fp32 cpu``."""
        return f"{self.model} {self.precision} {self.provider}"


class Failure(Frozen):
    """A requested configuration that could not be measured."""

    model: str
    provider_asked: str
    error: str
    message: str


class CropSource(Frozen):
    """The crops that were used: what they are, how many, how large."""

    source: str
    crops: int
    mean_pixels: float
    mean_bytes: float


class BenchRecord(Frozen):
    """The content of ``bench.json``."""

    schema_version: Literal[1] = 1
    notice: str = RESEARCH_USE_NOTICE
    created_utc: str
    command: str
    environment: dict[str, Any]
    settings: dict[str, Any]
    crops: CropSource
    configurations: tuple[Configuration, ...]
    failures: tuple[Failure, ...] = ()
    notes: tuple[str, ...] = ()


def read_record(path: Path) -> BenchRecord:
    """Read a ``bench.json``. Raises UsageError when it is missing or not one."""
    try:
        return BenchRecord.model_validate_json(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read ({error.strerror}). Give two bench.json files: glomedge bench --compare OLD NEW"
        ) from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "document"
        raise UsageError(
            f"{path} is not a bench.json of this version of glomedge: {where}: {first['msg']}. "
            "Measure again with: glomedge bench --output DIR"
        ) from error
