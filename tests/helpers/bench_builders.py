"""Bench records of invented but lifelike timings: noise within a round, drift between rounds."""

from __future__ import annotations

import numpy as np

from glomedge.bench.record import (
    STAGES,
    BenchRecord,
    ColdStart,
    Configuration,
    CropSource,
    EndToEnd,
    Failure,
    Figure,
    Latency,
    Memory,
    ParityCheck,
    Scenario,
    StageRound,
)


def configuration(
    *,
    scale: float = 1.0,
    seed: int = 0,
    rounds: int = 5,
    precision: str = "fp32",
    provider: str = "cpu",
    sha256: str = "a" * 64,
    flips: int = 0,
) -> Configuration:
    """One configuration whose every time is ``scale`` times a fixed one, with 3% drift and 3% noise."""
    rng = np.random.default_rng(seed)

    def times(mean: float, count: int) -> list[float]:
        level = mean * scale * rng.normal(1.0, 0.03)
        return [float(level * max(0.5, rng.normal(1.0, 0.03))) for _ in range(count)]

    rates = tuple(1.0 / times(0.03, 1)[0] for _ in range(rounds))
    walls = [times(3.0, 1)[0] for _ in range(rounds)]
    starts = tuple(times(0.4, 1)[0] for _ in range(rounds))
    stages = dict.fromkeys(STAGES, 1.0) | {"infer": 30.0 * scale, "copy": 0.0}
    total = sum(stages.values())
    return Configuration(
        model="model.onnx",
        model_sha256=sha256,
        precision=precision,
        target="any",
        provider_asked=provider,
        provider=provider,
        fell_back=False,
        runtime={"precision": precision},
        latency=tuple(Latency.of(size, [times(0.03 * size, 12) for _ in range(rounds)]) for size in (1, 8)),
        scenarios=(
            Scenario(
                name="offline",
                metric="samples per second",
                value=float(np.median(rates)),
                unit="crops/s",
                valid=True,
                rounds=rates,
                details={"low": min(rates), "high": max(rates)},
            ),
        ),
        cold_start=ColdStart(
            first_s=starts[0], again_s=starts, median_s=float(np.median(starts)), steps_s={"load": 0.2}, load_s=0.2
        ),
        end_to_end=EndToEnd(
            crops=64,
            rounds=tuple(StageRound(wall_s=wall, stages_s={}) for wall in walls),
            crops_per_s=Figure(value=64 / float(np.median(walls))),
            stages_ms=stages,
            share={name: value / total for name, value in stages.items()},
            binds="infer",
            how="batch 4",
            core_limit_crops_per_s=60.0,
            core_limit_share=0.9,
        ),
        memory=Memory(peak_rss_bytes=300 << 20, rss_after_load_bytes=200 << 20),
        parity=ParityCheck(
            reference="model.onnx fp32 cpu",
            crops=64,
            flips=flips,
            max_probability_difference=0.3 if flips else 1e-6,
            nonfinite=0,
            tolerance_flips=0,
            passed=flips == 0,
        ),
    )


def record(
    configurations: list[Configuration], *, failures: tuple[Failure, ...] = (), onnxruntime: str = "1.32.0"
) -> BenchRecord:
    """A record of these configurations."""
    return BenchRecord(
        created_utc="2026-11-23T00:00:00Z",
        command="glomedge bench",
        environment={
            "versions": {"glomedge": "0.1.0", "onnxruntime": onnxruntime},
            "python": "3.11.9",
            "system": "Linux 6.8",
            "cpu": {"model": "Invented <CPU>", "isa": ["avx2"], "cores": 2, "cores_usable": 2},
            "gpus": [],
            "load_average_1min": 0.1,
        },
        settings={},
        crops=CropSource(source="drawn & invented", crops=64, mean_pixels=333e3, mean_bytes=6e5),
        configurations=tuple(configurations),
        failures=failures,
    )
