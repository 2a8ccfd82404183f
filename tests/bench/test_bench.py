"""The library side of bench: planning, parity, the ceiling, energy, crops, limits."""

from __future__ import annotations

import importlib.util
import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from glomedge.bench import ceiling, crops, end_to_end, run, worker
from glomedge.bench.energy import EnergyMeter
from glomedge.engine.options import EngineOptions
from glomedge.errors import EngineError, OutputError, ProviderUnavailableError, UsageError
from glomedge.system.cpu import has_native_bf16
from glomedge.system.telemetry import import_onnxruntime
from helpers.builders import build_tiny_model


def test_plan_is_models_times_providers_in_order(tmp_path: Path) -> None:
    build_tiny_model(tmp_path / "a.onnx")
    build_tiny_model(tmp_path / "b.onnx")
    settings = run.Settings(models=(tmp_path / "a.onnx", tmp_path / "b.onnx"), providers=("cpu", "openvino"))
    labels = [target.label for target in run.plan(settings)]
    assert labels == ["a.onnx on cpu", "a.onnx on openvino", "b.onnx on cpu", "b.onnx on openvino"]


def test_precision_finds_the_files_beside_and_bf16_takes_the_fp32_one(tmp_path: Path) -> None:
    build_tiny_model(tmp_path / "model.onnx")
    build_tiny_model(tmp_path / "model.int8.onnxruntime.onnx", precision="int8")
    (tmp_path / "foreign.onnx").write_bytes(b"no model of ours")
    settings = run.Settings(models=(tmp_path / "model.onnx",), precisions=("int8", "bf16"), providers=("openvino",))
    assert [(t.file.path.name, t.engine.bf16) for t in run.plan(settings)] == [
        ("model.int8.onnxruntime.onnx", False),
        ("model.onnx", True),
    ]


def test_the_engine_of_each_configuration_is_the_one_asked_for(tmp_path: Path) -> None:
    build_tiny_model(tmp_path / "model.onnx")
    engine = EngineOptions(allow_fallback=True, max_batch=64, cache_dir=tmp_path, bf16=True)
    settings = run.Settings(models=(tmp_path / "model.onnx",), providers=("cpu", "openvino"), engine=engine)
    settings.check()
    assert [target.engine for target in run.plan(settings)] == [
        EngineOptions(name, allow_fallback=True, max_batch=64, cache_dir=tmp_path, bf16=True)
        for name in ("cpu", "openvino")
    ]


def test_a_fixed_batch_is_the_one_that_is_measured(tmp_path: Path) -> None:
    build_tiny_model(tmp_path / "model.onnx")
    fixed = EngineOptions(fixed_batch=True)
    settings = run.Settings(models=(tmp_path / "model.onnx",), batch_sizes=(16,), engine=fixed)
    settings.check()
    (target,) = run.plan(settings)
    assert target.engine == EngineOptions(fixed_batch=True, batch_size=16)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_sizes": (1, 8), "engine": EngineOptions(fixed_batch=True)}, "--fixed-batch runs one batch size"),
        ({"batch_sizes": (8,), "engine": EngineOptions(fixed_batch=True, max_batch=16)}, "--fixed-batch runs one"),
        ({"batch_sizes": (1, 32), "engine": EngineOptions(max_batch=8)}, "--batch-size 32 is more than --max-batch 8"),
        ({"precisions": ("fp32",), "engine": EngineOptions(bf16=True)}, "--bf16 and --precision cannot be combined"),
        ({"engine": EngineOptions(max_batch=0)}, "--max-batch must be 1 to 1024, not 0"),
    ],
)
def test_engine_options_that_contradict_the_measurement(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        run.Settings(**settings).check()


def test_bf16_is_for_fp32_files(tmp_path: Path) -> None:
    build_tiny_model(tmp_path / "model.onnx", precision="int8")
    with pytest.raises(UsageError, match=r"model\.onnx is int8"):
        run.plan(run.Settings(models=(tmp_path / "model.onnx",), engine=EngineOptions(bf16=True)))


@pytest.mark.parametrize(
    ("answers", "precision", "passed", "flips"),
    [
        ([0.1, 0.9, 0.6], "fp32", True, 0),
        ([0.1, 0.9, 0.4], "fp32", False, 1),
        ([0.1, 0.9, 0.6002], "fp32", False, 0),
        ([0.2, 0.8, 0.6], "int8", True, 0),
        ([0.4, 0.9, 0.6], "int8", False, 0),
        ([0.1, None, 0.6], "int8", False, 0),
    ],
)
def test_parity_counts_flips_and_refuses_nan(
    answers: list[float | None], precision: str, passed: bool, flips: int
) -> None:
    check = run.compare_answers("fp32 cpu", [0.1, 0.9, 0.6], answers, 0.5, precision)
    assert (check.passed, check.flips, check.nonfinite) == (passed, flips, answers.count(None))


def test_no_common_answer_never_passes() -> None:
    assert not run.compare_answers("fp32 cpu", [0.1], [None], 0.5, "int8").passed


def test_a_measuring_process_that_dies_is_an_engine_error(tiny_model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "crops.npy", np.zeros((0, 224, 224, 3), np.uint8))
    job = worker.Job(
        model=tiny_model, engine=EngineOptions("cpu"), batch_sizes=(1,), scenarios=(), duration_s=0.1,
        latency_bound_ms=1, crops=tmp_path / "nowhere.npy", files=(), scratch=tmp_path,
    )  # fmt: skip
    with pytest.raises(EngineError, match=r"ended with exit code 1: FileNotFoundError.*glomedge doctor"):
        run.run_job(job, tmp_path)


def test_the_error_of_a_measuring_process_keeps_its_type(tiny_model: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "crops.npy", np.zeros((1, 224, 224, 3), np.uint8))
    job = worker.Job(
        model=tiny_model, engine=EngineOptions("tensorrt-rtx"), batch_sizes=(1,), scenarios=(),
        duration_s=0.1, latency_bound_ms=1, crops=tmp_path / "crops.npy", files=(), scratch=tmp_path,
    )  # fmt: skip
    with pytest.raises(ProviderUnavailableError):
        run.run_job(job, tmp_path)


def test_output_that_cannot_be_written_is_found_before_measuring(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    with pytest.raises(OutputError, match="--output"):
        run.check_output(blocked)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_ceiling_models_are_valid_onnx_and_multiply(precision: str) -> None:
    ort = import_onnxruntime()

    onnx = pytest.importorskip("onnx", reason="the checker is onnx's")
    model = onnx.load_from_string(ceiling.matmul_model(precision, 32))
    onnx.checker.check_model(model, full_check=True)
    weights = onnx.numpy_helper.to_array(model.graph.initializer[0])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(0)
    a = rng.integers(0, 256, (32, 32)).astype(np.uint8 if precision == "int8" else np.float32)
    expected = a.astype(np.int64) @ weights.astype(np.int64) if precision == "int8" else a @ weights
    np.testing.assert_allclose(session.run(None, {"a": a})[0], expected, rtol=1e-4, atol=1e-2)


def test_ceiling_measures_a_rate_and_leaves_the_affinity_alone() -> None:
    before = os.sched_getaffinity(0)
    measured = ceiling.measure_cpu("fp32", seconds=0.05)
    assert measured is not None
    assert measured.rate_gmac_per_s > 0.1
    assert os.sched_getaffinity(0) == before
    assert ceiling.measure_cpu("fp16") is None


def test_bf16_is_multiplied_faster_than_fp32_where_the_processor_can() -> None:
    measured = ceiling.measure_cpu("bf16", seconds=0.3)
    if not has_native_bf16() or importlib.util.find_spec("openvino") is None:
        assert measured is None
        return
    fp32 = ceiling.measure_cpu("fp32", seconds=0.3)
    assert measured is not None
    assert fp32 is not None
    # Twice the products an instruction; less where the two share a core with a neighbour. A fallback would be 1.
    assert measured.rate_gmac_per_s > 1.3 * fp32.rate_gmac_per_s


def _zone(root: Path, name: str, energy_uj: int) -> Path:
    zone = root / name
    zone.mkdir(parents=True)
    (zone / "energy_uj").write_text(str(energy_uj))
    (zone / "max_energy_range_uj").write_text("1000000")
    return zone


def test_rapl_counts_packages_once_and_survives_a_wrap(tmp_path: Path) -> None:
    package = _zone(tmp_path, "intel-rapl:0", 900_000)
    _zone(tmp_path, "intel-rapl:0:0", 500)  # the cores of that package, already in it
    other = _zone(tmp_path, "intel-rapl:1", 100)
    with EnergyMeter(tmp_path) as meter:
        (package / "energy_uj").write_text("150000")
        (other / "energy_uj").write_text("2000100")
    assert meter.joules["intel-rapl-0"] == pytest.approx(0.25)
    assert meter.joules["intel-rapl-1"] == pytest.approx(2.0)
    assert "intel-rapl-0-0" not in meter.joules
    assert "RAPL" in meter.source


def test_no_counter_means_no_energy(tmp_path: Path) -> None:
    with EnergyMeter(tmp_path / "absent") as meter:
        pass
    assert {name for name in meter.joules if "rapl" in name} == set()


def test_limits_on_a_cpu_add_the_stages_up() -> None:
    limit, binds = end_to_end.limits({"decode": 0.010, "enhance": 0.002, "infer": 0.028}, cores=2, gpu=False)
    assert limit == pytest.approx(2 / 0.040)
    assert binds.startswith("infer (70%")


def test_limits_on_a_gpu_take_the_slower_side() -> None:
    stages = {"read": 0.001, "decode": 0.004, "enhance": 0.001, "copy": 0.0001, "infer": 0.0002}
    limit, binds = end_to_end.limits(stages, cores=4, gpu=True)
    assert limit == pytest.approx(4 / 0.006)
    assert "mostly decode" in binds
    limit, binds = end_to_end.limits(stages, cores=64, gpu=True)
    assert limit == pytest.approx(1 / 0.0003)
    assert binds == "the device, mostly infer"


def test_inference_on_threads_of_the_runtimes_own_is_counted() -> None:
    """OpenVINO with several callers computes on its own threads: the caller's clock would say that it costs nothing."""

    class Elsewhere:
        """An engine that spends 20 ms of processor time a call on another thread."""

        def __init__(self) -> None:
            self.pool = ThreadPoolExecutor(2)

        def infer(self, images_nhwc: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> None:
            self.pool.submit(self.work).result()

        def work(self) -> None:
            until = time.thread_time() + 0.02
            while time.thread_time() < until:
                pass

    batch = np.zeros((4, 224, 224, 3), np.uint8)
    found = end_to_end._processor_seconds(cast("Any", Elsewhere()), batch, 2)
    assert found == pytest.approx(0.02 / 4, rel=0.25)


def test_crops_come_from_the_training_record_where_it_still_stands(tiny_model: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    model.write_bytes(tiny_model.read_bytes())
    data = tmp_path / "data"
    data.mkdir()
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    drawn = crops.find(None, model, scratch)
    assert drawn.drawn
    (data / "a.png").write_bytes(drawn.files[0].read_bytes())
    (tmp_path / "model.keras.json").write_text(json.dumps({"data_directory": str(data)}))
    found = crops.find(None, model, scratch)
    assert (found.files, found.drawn) == ((data / "a.png",), False)
    assert found.source.startswith("data (the folder")


def test_drawn_crops_are_the_same_every_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    first = crops.find(None, tmp_path / "none.onnx", tmp_path / "a")
    second = crops.find(None, tmp_path / "none.onnx", tmp_path / "b")
    assert [p.read_bytes() for p in first.files[:3]] == [p.read_bytes() for p in second.files[:3]]
    assert len({p.read_bytes() for p in first.files}) == crops.DRAWN_CROPS


def test_spread_takes_even_distances() -> None:
    files = tuple(Path(str(i)) for i in range(10))
    assert [int(p.name) for p in crops.spread(files, 5)] == [0, 2, 4, 6, 8]
    assert crops.spread(files, 99) == list(files)


def test_a_folder_of_more_crops_than_there_are_repeats_them(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"1")
    (tmp_path / "y.png").write_bytes(b"2")
    folder = crops.folder_of((tmp_path / "x.png", tmp_path / "y.png"), 5, tmp_path / "many")
    assert [p.read_bytes() for p in sorted(folder.iterdir())] == [b"1", b"2", b"1", b"2", b"1"]
