"""On a GPU, which pads everything to one size, each batch size that is reported is run; the CPU stands in for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.lib import gpu_stand_in
from glomedge.bench import end_to_end, worker
from glomedge.bench.record import ScenarioName
from glomedge.engine import doctor, providers
from glomedge.engine.backends import onnxrt
from glomedge.engine.options import EngineOptions
from helpers.run_kit import write_crops


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The batch sizes that the device ran, in their order."""
    monkeypatch.setattr(onnxrt, "WORTH_COPYING_BYTES", onnxrt.WORTH_COPYING_BYTES)
    monkeypatch.setattr(providers, "PROVIDERS", dict(providers.PROVIDERS))
    gpu_stand_in.install()
    sizes: list[int] = []
    run = gpu_stand_in.StandIn.run

    def watched(self: gpu_stand_in.StandIn, images_nhwc: Any) -> Any:
        sizes.append(len(images_nhwc))
        return run(self, images_nhwc)

    monkeypatch.setattr(gpu_stand_in.StandIn, "run", watched)
    return sizes


def job(model: Path, folder: Path, sizes: tuple[int, ...], *scenarios: ScenarioName, **more: Any) -> worker.Job:
    np.save(folder / "crops.npy", np.random.default_rng(0).integers(0, 256, (4, 224, 224, 3), np.uint8))
    engine = EngineOptions("cuda", cache_dir=folder / "cache")
    fields: dict[str, Any] = {"engine": engine, "files": (), **more}
    return worker.Job(
        model=model, batch_sizes=sizes, scenarios=scenarios, duration_s=0.02, latency_bound_ms=1e3,
        crops=folder / "crops.npy", scratch=folder, **fields,
    )  # fmt: skip


def test_the_device_runs_the_sizes_that_are_reported(tiny_model: Path, tmp_path: Path, ran: list[int]) -> None:
    found = worker.measure(job(tiny_model, tmp_path, (1, 8, 48), "single-stream", "offline", "server"))
    assert set(ran) == {1, 8, 48}
    assert [item.batch_size for item in found.latency] == [1, 8, 48]
    single, offline, server = found.scenarios
    assert "padded_to" not in single.details
    best = max(found.latency, key=lambda item: item.crops_per_s.value).batch_size
    assert offline.details["batch_size"] == server.details["max_batch"] == best


def test_a_single_query_that_is_padded_says_so(tiny_model: Path, tmp_path: Path, ran: list[int]) -> None:
    found = worker.measure(job(tiny_model, tmp_path, (8,), "single-stream"))
    assert set(ran) == {8}
    assert found.scenarios[0].details["padded_to"] == 8


def test_files_to_answers_runs_the_batch_of_infer(
    tiny_model: Path, tmp_path: Path, ran: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def measured(engine: Any, *_: object, batch_size: int, **__: object) -> None:
        ran.clear()
        engine.infer(np.zeros((batch_size, 224, 224, 3), np.uint8))

    monkeypatch.setattr(end_to_end, "measure", measured)
    write_crops(tmp_path / "crops", 2)
    worker.measure(job(tiny_model, tmp_path, (1, 8), files=tuple((tmp_path / "crops").iterdir())))
    assert ran == [32]


@pytest.mark.parametrize(("asked", "runs"), [({}, 32), ({"batch_size": 8}, 8), ({"max_batch": 16}, 16)], ids=str)
def test_doctor_times_the_one_size_that_a_gpu_runs(
    tiny_model: Path, tmp_path: Path, ran: list[int], asked: dict[str, Any], runs: int
) -> None:
    (cuda,) = doctor.diagnose(tiny_model, EngineOptions("cuda", cache_dir=tmp_path / "cache", **asked)).providers
    assert set(ran) == {runs}
    assert [speed.batch for speed in cuda.speeds] == [runs]
