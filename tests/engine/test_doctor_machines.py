"""doctor on every kind of machine with an NVIDIA GPU: what it finds, what it recommends, and no harmful cure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from helpers.gpu_machines import Doctor, Machine, Workshop

H100 = "NVIDIA H100 80GB HBM3|9.0|81559"
L4 = "NVIDIA L4|8.9|23034"
SLICE = "NVIDIA H100 80GB HBM3 MIG 1g.10gb|9.0|9984"
NEW = Machine(gpus=L4, driver_cuda=13000)
COMPLETE = replace(NEW, wheel_cuda=13, cuda=13, cudnn=True)
JETPACK_6 = "# R36 (release), REVISION: 4.3, GCID: 1, BOARD: generic, EABI: aarch64"
JETPACK_7 = "# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic, EABI: aarch64"
WHEEL_KERNELS = (75, 80, 86, 89, 90, 120)
TWO = "onnxruntime 1.31.1 and onnxruntime-gpu 1.31.1 are both installed"
ORIN = "Orin (nvgpu)|8.7|62841"


@dataclass(frozen=True)
class Row:
    """One machine and what is expected of ``doctor`` there.

    Attributes:
        machine: see ``Machine``.
        usable: the GPU providers that can run.
        says: for each other one, words of its reason and cure.
        never: words that no reason may hold.
        notes: words of the notes.
        recommended: provider; empty where nothing can run.
    """

    machine: Machine
    usable: tuple[str, ...]
    says: dict[str, tuple[str, ...]]
    never: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    recommended: str = "cpu"


ROWS = {
    "no driver, CPU wheel": Row(
        Machine(),
        (),
        {
            "cuda": ("built without CUDAExecutionProvider", "This machine has no NVIDIA driver"),
            "tensorrt-rtx": ("is not installed",),
        },
    ),
    "no driver, GPU wheel": Row(
        replace(COMPLETE, gpus="", driver_cuda=0),
        (),
        {"cuda": ("missing libcuda.so.1", "the NVIDIA driver (from your system's packages, not from pip)")},
        never=("pip uninstall",),
    ),
    "driver too old for the wheel": Row(
        replace(COMPLETE, driver_cuda=12080, cuda=None),
        (),
        {
            "cuda": (
                "the NVIDIA driver runs CUDA up to 12.8 and this onnxruntime is built for CUDA 13",
                "Install NVIDIA driver 580.65 or newer",
                "pip install 'onnxruntime-gpu[cuda,cudnn]>=1.24.4,<1.27'",
                "'tensorrt-cu12==10.*'",
            ),
            "tensorrt": ("runs CUDA up to 12.8",),
            "tensorrt-rtx": ("the plugin is built for CUDA 13", "Install NVIDIA driver 580.65 or newer"),
        },
        never=("[gpu]", "tensorrt-cu13", "tensorrt-rtx-provider"),
        notes=("NVIDIA L4 is not used",),
    ),
    "driver too old for any wheel": Row(
        replace(COMPLETE, driver_cuda=11040, wheel_cuda=None),
        (),
        {"cuda": ("Install NVIDIA driver 580.65 or newer (this one runs CUDA up to 11.4), then replace it",)},
        never=("<1.27",),
    ),
    "old driver and the wheel for it": Row(
        replace(COMPLETE, driver_cuda=12080, wheel_cuda=12, cuda=12),
        ("cuda",),
        {"tensorrt": ("missing libnvinfer.so.10", "'tensorrt-cu12==10.*'")},
        never=("Install NVIDIA driver 580.65 or newer, or", "pip uninstall"),
        recommended="cuda",
    ),
    "new driver, older wheel": Row(
        replace(COMPLETE, wheel_cuda=12, cuda=12), ("cuda",), {}, never=("pip uninstall",), recommended="cuda"
    ),
    "driver but CPU wheel": Row(
        NEW,
        (),
        {
            "cuda": ("Replace it: pip uninstall onnxruntime, then", "[gpu]"),
            # Beside what is installed, and nothing has to be removed for it.
            "tensorrt-rtx": ("[cpu,tensorrt-rtx-provider]",),
        },
        never=("<1.27",),
        notes=("NVIDIA L4 is not used",),
    ),
    "old driver but CPU wheel": Row(
        replace(NEW, driver_cuda=12040),
        (),
        {"cuda": ("pip uninstall onnxruntime, then pip install 'onnxruntime-gpu[cuda,cudnn]>=1.24.4,<1.27'",)},
        never=("[gpu]", "tensorrt-rtx-provider"),
    ),
    "two runtimes": Row(
        replace(COMPLETE, both=True),
        (),
        {"cuda": (TWO, "onnxruntime-gpu, then pip install", "[gpu]")},
        never=("<1.27",),
        recommended="",
    ),
    "two runtimes, old driver": Row(
        replace(COMPLETE, driver_cuda=12080, wheel_cuda=12, cuda=12, both=True),
        (),
        {"cuda": (TWO, "onnxruntime-gpu, then pip install 'onnxruntime-gpu[cuda,cudnn]>=1.24.4,<1.27'")},
        never=("[gpu]",),
        recommended="",
    ),
    "CUDA without cuDNN": Row(
        replace(COMPLETE, cudnn=False),
        (),
        {"cuda": ("missing libcudnn.so.9", "pip install 'onnxruntime-gpu[cuda,cudnn]'")},
        never=("libcudart", "pip uninstall"),
    ),
    "no CUDA libraries at all": Row(
        replace(COMPLETE, cuda=None, cudnn=False),
        (),
        {"cuda": ("missing libcudart.so.13", "libcudnn.so.9", "pip install 'onnxruntime-gpu[cuda,cudnn]'")},
    ),
    "TensorRT absent": Row(
        COMPLETE,
        ("cuda",),
        {"tensorrt": ("missing libnvinfer.so.10, libnvonnxparser.so.10", "'tensorrt-cu13==10.*'")},
        never=("pip uninstall",),
        recommended="cuda",
    ),
    "TensorRT 11 from pip": Row(
        replace(COMPLETE, pip_tensorrt="11.0.0.9"),
        ("cuda",),
        {
            "tensorrt": (
                "TensorRT 11.0.0.9 (tensorrt-cu13) is here, and TensorRT 10 is needed",
                "pip uninstall -y tensorrt-cu13, then install 'tensorrt-cu13==10.*'",
            )
        },
        recommended="cuda",
    ),
    "TensorRT 11 from the system": Row(
        replace(COMPLETE, tensorrt=11),
        ("cuda",),
        {"tensorrt": ("TensorRT 11 (", "Beside it install 'tensorrt-cu13==10.*'")},
        never=("pip uninstall", "apt"),
        recommended="cuda",
    ),
    "TensorRT 10 from pip": Row(
        replace(COMPLETE, pip_tensorrt="10.16.0.72"), ("cuda", "tensorrt"), {}, recommended="tensorrt"
    ),
    "TensorRT 10 from the system": Row(
        replace(COMPLETE, tensorrt=10), ("cuda", "tensorrt"), {}, recommended="tensorrt"
    ),
    "TensorRT 10 from the system, 11 from pip": Row(
        replace(COMPLETE, tensorrt=10, pip_tensorrt="11.0.0.9"), ("cuda", "tensorrt"), {}, recommended="tensorrt"
    ),
    "RTX plugin without a toolkit": Row(replace(NEW, plugin=True), ("tensorrt-rtx",), {}, recommended="tensorrt-rtx"),
    "RTX plugin with a toolkit": Row(
        replace(NEW, plugin=True, cuda=13), ("tensorrt-rtx",), {}, recommended="tensorrt-rtx"
    ),
    "RTX plugin, driver too old": Row(
        replace(NEW, plugin=True, driver_cuda=12080),
        (),
        {"tensorrt-rtx": ("the plugin is built for CUDA 13", "Install NVIDIA driver 580.65 or newer")},
    ),
    "RTX plugin, GPU that it refuses": Row(
        replace(NEW, gpus=H100, plugin=True),
        (),
        {
            "tensorrt-rtx": (
                "NVIDIA H100 80GB HBM3 (compute 9.0) is no GPU of TensorRT for RTX",
                "Use --provider tensorrt",
            )
        },
    ),
    "no plugin, GPU that it refuses": Row(
        replace(NEW, gpus=H100), (), {"tensorrt-rtx": ("is no GPU of TensorRT for RTX",)}, never=("rtx-provider",)
    ),
    "plugin to be added to the GPU wheel": Row(
        COMPLETE, ("cuda",), {"tensorrt-rtx": ("[tensorrt-rtx-provider]",)}, never=("[cpu",), recommended="cuda"
    ),
    "MIG slice": Row(
        replace(COMPLETE, gpus=SLICE, nvml_gpu=H100),
        ("cuda",),
        {},
        notes=("Sessions run on a slice of the GPU (MIG): NVIDIA H100 80GB HBM3 MIG 1g.10gb, 9.8 GiB",),
        recommended="cuda",
    ),
    "container without NVML": Row(
        replace(COMPLETE, nvml=False),
        ("cuda",),
        {},
        notes=("NVML (libnvidia-ml.so.1) does not answer here", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"),
        recommended="cuda",
    ),
    "RTX plugin in a container without NVML": Row(
        replace(NEW, nvml=False, plugin=True),
        (),
        {"tensorrt-rtx": ("missing libnvidia-ml.so.1", "NVIDIA_DRIVER_CAPABILITIES=compute,utility")},
        never=("from your system's packages",),
    ),
    "GPU hidden from CUDA": Row(
        replace(COMPLETE, environment={"CUDA_VISIBLE_DEVICES": ""}),
        (),
        {"cuda": ("the driver lists NVIDIA L4, but CUDA counts no GPU in this process", "CUDA_VISIBLE_DEVICES")},
    ),
    "JetPack 7.2, CPU wheel": Row(
        replace(NEW, gpus=ORIN, driver_cuda=13020, nvml=False, jetson=JETPACK_7),
        (),
        {"cuda": ("This is a Jetson (", "docs/jetson.md"), "tensorrt-rtx": ("does not run on a Jetson",)},
        never=("pip install", "[gpu]", "pip uninstall"),
    ),
    "JetPack 7.2, its own wheel": Row(
        replace(COMPLETE, gpus=ORIN, driver_cuda=13020, nvml=False, tensorrt=10, jetson=JETPACK_7),
        ("cuda", "tensorrt"),
        {},
        never=("pip install", "[gpu]"),
        recommended="tensorrt",
    ),
    "GPU that the wheel has no kernels for": Row(
        replace(COMPLETE, gpus="NVIDIA B200|10.0|183359", tensorrt=10, kernels=WHEEL_KERNELS),
        ("tensorrt",),
        {"cuda": ("kernels for compute 7.5, 8.0, 8.6, 8.9, 9.0, 12.0, and none for NVIDIA B200 (compute 10.0)",)},
        never=("pip uninstall",),
        recommended="tensorrt",
    ),
    "GPU that the wheel has kernels for": Row(
        replace(COMPLETE, gpus=H100, kernels=WHEEL_KERNELS), ("cuda",), {}, recommended="cuda"
    ),
    "JetPack 7.2, pip's wheel for servers": Row(
        replace(
            COMPLETE,
            gpus=ORIN,
            driver_cuda=13020,
            nvml=False,
            arm_server_wheel=True,
            kernels=(80, 90, 100, 110),
            jetson=JETPACK_7,
        ),
        (),
        {
            "cuda": ("none for Orin (nvgpu) (compute 8.7)", "docs/jetson.md"),
            "tensorrt": ("built without TensorrtExecutionProvider", "docs/jetson.md"),
        },
        never=("pip install", "[gpu]", "pip uninstall", "--provider tensorrt,"),
    ),
    "JetPack 7.2, wheel without cuDNN": Row(
        replace(COMPLETE, gpus=ORIN, driver_cuda=13020, nvml=False, cudnn=False, jetson=JETPACK_7),
        (),
        {"cuda": ("missing libcudnn.so.9", "docs/jetson.md")},
        never=("pip install", "[gpu]"),
    ),
    "JetPack 6": Row(
        replace(COMPLETE, gpus=ORIN, driver_cuda=12060, nvml=False, cuda=None, cudnn=False, jetson=JETPACK_6),
        (),
        {"cuda": ("runs CUDA up to 12.6", "JetPack 6", "Use --provider cpu, or install JetPack 7.2")},
        never=("pip install", "[gpu]", "580"),
    ),
}


@pytest.fixture(scope="module")
def doctor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Doctor]:
    folder = tmp_path_factory.mktemp("doctor")
    with Doctor(folder, Workshop(folder)) as doctor:
        yield doctor


@pytest.mark.parametrize("name", ROWS)
def test_doctor_finds_what_is_there_and_advises_what_helps(name: str, tmp_path: Path, doctor: Doctor) -> None:
    row = ROWS[name]
    found, words = doctor.diagnose(row.machine, tmp_path / "machine")
    reports = {report["name"]: report for report in found["providers"]}
    assert tuple(name for name in ("cuda", "tensorrt", "tensorrt-rtx") if reports[name]["usable"]) == row.usable
    for provider, parts in row.says.items():
        for part in parts:
            assert part in reports[provider]["reason"], reports[provider]["reason"]
            assert part in words
    reasons = [report["reason"] for report in reports.values()]
    assert not [text for text in reasons for word in row.never if word in text]
    assert all(len(text) < 500 for text in reasons), max(reasons, key=len)
    for part in row.notes:
        assert any(part in note for note in found["gpu_notes"]), found["gpu_notes"]
        assert part in words
    recommended = found["recommendation"]
    assert (recommended["provider"] if recommended else "") == row.recommended
    assert found["healthy"] is bool(row.recommended)


def test_doctor_shows_driver_gpu_and_every_tensorrt(tmp_path: Path, doctor: Doctor) -> None:
    machine = replace(COMPLETE, tensorrt=10, pip_tensorrt="11.0.0.9", gpus=f"{L4};{H100}")
    found, words = doctor.diagnose(machine, tmp_path / "machine")
    assert (found["driver"], found["driver_cuda"]) == ("580.65", "13.0")
    assert found["session_gpu"]["name"] == "NVIDIA L4"
    where = re.sub(r"10 \(.*/current/lib\)", "10 (LIBRARIES)", "|".join(found["tensorrt"]))
    assert where.split("|") == ["TensorRT 11.0.0.9 (tensorrt-cu13)", "TensorRT 10 (LIBRARIES)"]
    assert "580.65, runs CUDA up to 13.0" in words
    assert "TensorRT 11.0.0.9 (tensorrt-cu13), TensorRT 10 (" in words


def test_without_nvml_the_gpus_are_those_that_cuda_counts(tmp_path: Path, doctor: Doctor) -> None:
    machine = replace(COMPLETE, gpus=f"{L4};{H100}", nvml=False, driver_cuda=12080, wheel_cuda=12, cuda=12)
    found, _ = doctor.diagnose(machine, tmp_path / "machine")
    assert [gpu["name"] for gpu in found["gpus"]] == ["NVIDIA L4", "NVIDIA H100 80GB HBM3"]
    assert found["gpus"][1] == {
        "name": "NVIDIA H100 80GB HBM3", "compute_capability": "9.0", "memory_bytes": 81559 << 20,
    }  # fmt: skip
    # The kernel module's version where there is one (a real driver on the machine of the test), else CUDA's.
    assert found["driver"] == "of CUDA 12.8" or found["driver"][:1].isdigit()
    assert any("Sessions run on NVIDIA L4, which CUDA counts first" in note for note in found["gpu_notes"])
