"""doctor: what it finds on this machine, and what it makes of others."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.engine import doctor, providers
from glomedge.engine.doctor import ModelReport, ProviderReport, Speed
from glomedge.engine.options import EngineOptions
from glomedge.errors import UsageError
from glomedge.system import cpu as hardware
from glomedge.system import gpu as gpus
from glomedge.system import libraries


def test_every_provider_is_reported_with_a_reason_or_a_passed_self_test(tiny_model: Path, tmp_path: Path) -> None:
    found = doctor.diagnose(tiny_model, EngineOptions(cache_dir=tmp_path / "cache"))
    assert found.healthy
    assert found.notice == RESEARCH_USE_NOTICE
    assert [report.name for report in found.providers] == list(providers.PROVIDERS)
    for report in found.providers:
        if report.usable:
            assert report.self_test == "passed"
            assert report.load_s is not None
            assert report.load_s > 0
            assert all(speed.crops_per_s > 0 for speed in report.speeds)
        else:
            assert report.reason
            assert report.self_test == "not run"
    assert found.recommendation is not None
    chosen = next(report for report in found.providers if report.name == found.recommendation.provider)
    rates = [report.best.crops_per_s for report in found.providers if report.best]
    assert chosen.best is not None
    assert chosen.best.crops_per_s == max(rates)
    json.dumps(found.to_json_object())


def test_one_provider_with_options_of_its_own(tiny_model: Path) -> None:
    found = doctor.diagnose(tiny_model, EngineOptions("cpu", batch_size=3, max_batch=8))
    (cpu,) = found.providers
    assert [speed.batch for speed in cpu.speeds] == [1, 3, 4]
    assert found.healthy


def test_a_provider_that_cannot_do_what_is_asked_is_not_usable(tiny_model: Path) -> None:
    found = doctor.diagnose(tiny_model, EngineOptions("cpu", bf16=True))
    (cpu,) = found.providers
    assert not cpu.usable
    assert "--bf16: cpu computes this model in fp32" in cpu.reason
    assert not found.healthy


def test_options_are_checked(tiny_model: Path) -> None:
    with pytest.raises(UsageError, match="There is no provider 'gpu'"):
        doctor.diagnose(tiny_model, EngineOptions("gpu"))
    with pytest.raises(UsageError, match="--batch-size must be 1 to 1024, not 0"):
        doctor.diagnose(tiny_model, EngineOptions(batch_size=0))


def test_without_a_model_it_says_what_could_run() -> None:
    found = doctor.diagnose()
    cpu = next(report for report in found.providers if report.name == "cpu")
    assert cpu.usable
    assert cpu.self_test == "not run"
    assert found.model is None
    assert found.packages["numpy"]
    assert found.usable_cpus >= 1
    assert found.cpu


def test_a_broken_model_is_explained_and_nothing_is_healthy(tmp_path: Path, tiny_model: Path) -> None:
    path = tmp_path / "cut.onnx"
    path.write_bytes(tiny_model.read_bytes()[:-10])
    found = doctor.diagnose(path)
    assert not found.healthy
    assert found.model is not None
    assert "has changed since" in found.model.problem or "truncated" in found.model.problem
    assert found.model.problem in found.problems


def test_a_model_that_fails_its_self_test_is_not_usable(tmp_path: Path, tiny_model: Path) -> None:
    from glomedge.model.file import read_model_file, sealed
    from helpers import builders

    path = tmp_path / "moved.onnx"
    path.write_bytes(sealed(builders.tiny_graph(bias=-3.0).SerializeToString(), read_model_file(tiny_model).spec))
    found = doctor.diagnose(path, EngineOptions(cache_dir=tmp_path / "cache"))
    assert not found.healthy
    assert found.recommendation is None
    cpu = next(report for report in found.providers if report.name == "cpu")
    assert (cpu.usable, cpu.self_test) == (False, "failed")
    assert "gave 0.54" in cpu.reason


def test_two_runtimes_are_a_problem_with_a_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    both = (libraries.Package("onnxruntime", "1.32.0"), libraries.Package("onnxruntime-gpu", "1.31.1"))
    monkeypatch.setattr(libraries, "onnxruntime_packages", lambda: both)
    assert any("pip uninstall -y onnxruntime onnxruntime-gpu" in problem for problem in doctor.diagnose().problems)


def report(name: str, *speeds: tuple[int, float]) -> ProviderReport:
    return ProviderReport(name, usable=True, speeds=tuple(Speed(*speed) for speed in speeds))


def test_of_nearly_equal_batches_the_smallest_is_taken() -> None:
    assert report("cpu", (1, 50.0), (4, 98.0), (16, 100.0)).best == Speed(4, 98.0)
    assert report("cpu", (1, 50.0), (4, 90.0), (16, 100.0)).best == Speed(16, 100.0)
    assert report("cpu").best is None


def test_the_fastest_that_passed_is_recommended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "has_native_int8", lambda: True)
    model = ModelReport("model.onnx", precision="fp32", target="any")
    reports = (
        report("cpu", (4, 30.0)),
        ProviderReport("cuda", usable=False, reason="x"),
        report("openvino", (4, 40.0)),
    )
    advice = doctor.recommend(reports, model)
    assert advice is not None
    assert (advice.provider, advice.precision, advice.batch_size) == ("openvino", "fp32", 4)
    assert "int8" in advice.why


@pytest.mark.parametrize(
    ("usable", "int8", "expected"),
    [
        (("cpu", "openvino"), True, ("cpu", "int8", 4)),
        (("cpu",), False, ("cpu", "fp32", 4)),
        (("cpu", "cuda"), True, ("cuda", "fp16", 32)),
        (("cpu", "cuda", "tensorrt"), True, ("tensorrt", "fp16", 32)),
    ],
)
def test_without_a_model_the_hardware_decides(
    monkeypatch: pytest.MonkeyPatch, usable: tuple[str, ...], int8: bool, expected: tuple[str, str, int]
) -> None:
    monkeypatch.setattr(hardware, "has_native_int8", lambda: int8)
    advice = doctor.recommend(tuple(ProviderReport(name, usable=True) for name in usable), None)
    assert advice is not None
    assert (advice.provider, advice.precision, advice.batch_size) == expected


def test_nothing_usable_recommends_nothing() -> None:
    assert doctor.recommend((ProviderReport("cpu", usable=False, reason="x"),), None) is None


# hardware.py and gpus.py


@pytest.mark.parametrize(
    ("machine", "cpuinfo", "features", "int8", "bf16"),
    [
        ("x86_64", "flags : fpu avx2 fma avx512f avx512_vnni avx512_bf16", "AVX2 FMA AVX512F AVX512-VNNI AVX512-BF16",
         True, True),
        ("x86_64", "flags\t: fpu avx2 fma", "AVX2 FMA", False, False),
        ("x86_64", "flags : avx2 amx_tile amx_int8 amx_bf16", "AVX2 AMX AMX-INT8 AMX-BF16", True, True),
        ("aarch64", "Features : fp asimd asimddp i8mm bf16", "NEON|NEON dot product|INT8 matrix multiply|BF16",
         True, True),
        ("arm64", "", "NEON", False, False),
    ],
)  # fmt: skip
def test_cpu_features(
    monkeypatch: pytest.MonkeyPatch, machine: str, cpuinfo: str, features: str, int8: bool, bf16: bool
) -> None:
    monkeypatch.setattr(hardware, "_cpuinfo", cpuinfo.splitlines)
    monkeypatch.setattr("platform.machine", lambda: machine)
    assert hardware.cpu_features() == tuple(features.split("|") if "|" in features else features.split())
    assert hardware.has_native_int8() is int8
    assert hardware.has_native_bf16() is bf16


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "150000 100000"}, 2),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu/cpu.cfs_quota_us": "400000", "cpu/cpu.cfs_period_us": "100000"}, 4),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({}, None),
    ],
)
def test_a_containers_quota_is_respected(tmp_path: Path, files: dict[str, str], expected: int | None) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert hardware._cgroup_cpus(tmp_path) == expected


@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/system.slice/scan.service", {"system.slice/scan.service/cpu.max": "200000 100000"}, 2),
        # The tightest on the way down counts, and groups beside the own one do not.
        (
            "0::/system.slice/scan.service",
            {
                "system.slice/scan.service/cpu.max": "max 100000",
                "system.slice/cpu.max": "300000 100000",
                "user.slice/cpu.max": "100000 100000",
            },
            3,
        ),
        (
            "5:memory:/lab\n4:cpu,cpuacct:/lab/night",
            {
                "cpu,cpuacct/lab/night/cpu.cfs_quota_us": "-1",
                "cpu,cpuacct/lab/night/cpu.cfs_period_us": "100000",
                "cpu,cpuacct/lab/cpu.cfs_quota_us": "250000",
                "cpu,cpuacct/lab/cpu.cfs_period_us": "100000",
            },
            3,
        ),
        # Both versions at once: version 2 is mounted below.
        ("1:cpu:/\n0::/job", {"unified/job/cpu.max": "400000 100000"}, 4),
        # A container that sees the host's path but only its own group.
        ("1:cpu:/docker/0abc", {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ("0::/../../other", {"cpu.max": "200000 100000"}, 2),
        ("5:cpuset:/lab", {"cpuset/lab/cpu.max": "100000 100000"}, None),
        ("no such format", {}, None),
    ],
)
def test_a_services_own_quota_is_found(
    tmp_path: Path, membership: str, files: dict[str, str], expected: int | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert hardware._cgroup_cpus(tmp_path, membership) == expected


def test_this_processs_groups_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(hardware, "_own_cgroups", lambda: "0::/a")
    monkeypatch.setattr(hardware, "_cgroup_cpus", lambda root, membership: asked.append(membership))
    hardware.usable_cpus()
    assert asked == ["0::/a"]


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="affinity is Linux's")
def test_usable_cpus_never_exceed_the_affinity_mask() -> None:
    assert 1 <= hardware.usable_cpus() <= len(os.sched_getaffinity(0))


def test_gpus_are_found_or_their_absence_explained() -> None:
    found = gpus.find_gpus()
    assert bool(found.devices) != bool(found.problem)
    for gpu in found.devices:
        assert gpu.name
        assert float(gpu.compute_capability) >= 3.0
        assert gpu.memory_bytes > 0
