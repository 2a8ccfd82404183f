"""The machine and the package versions that are recorded with every figure.

No host name, no user name, no path: a record can be published unchanged.
"""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from glomedge.about import __version__
from glomedge.system.cpu import usable_cpus
from glomedge.system.gpu import Nvml, NvmlUnavailableError
from glomedge.system.libraries import installed

PACKAGES = (
    "numpy", "opencv-python-headless", "pillow", "kornia-rs", "imagecodecs", "onnxruntime",
    "onnxruntime-gpu", "onnxruntime-ep-openvino", "onnxruntime-ep-nv-tensorrt-rtx-cu13", "openvino", "tensorrt",
    "tensorrt-rtx", "tensorflow", "keras", "tf2onnx", "onnx", "scikit-learn",
)  # fmt: skip

ISA_FLAGS = (
    "sse4_2", "avx", "avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "amx_int8",
    "amx_bf16", "neon", "asimd", "asimddp", "i8mm", "bf16", "sve",
)  # fmt: skip
"""Instruction sets that decide how fast a precision runs (x86 and Arm names of /proc/cpuinfo)."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")


def environment() -> dict[str, Any]:
    """The environment of a measurement, as plain JSON values (absent facts are None or empty)."""
    return {
        "versions": versions(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.release()}",
        "cpu": cpu(),
        "memory_bytes": memory_bytes(),
        "gpus": gpus(),
        "thread_variables": {name: os.environ[name] for name in THREAD_VARIABLES if name in os.environ},
        "load_average_1min": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
    }


def versions(also: Iterable[str] = ()) -> dict[str, str]:
    """Installed versions of the packages that decide pixels, answers or speed, by distribution name.

    The one list for every record: ``run.json``, ``bench.json``, the training record and the export record. ``also``
    names packages that matter to one record only.
    """
    return {"glomedge": __version__} | {package.name: package.version for package in installed(*PACKAGES, *also)}


def usable_cores() -> int:
    """Cores this process may run on: its affinity, limited by a cgroup's CPU quota if one is set."""
    return usable_cpus()


def cpu() -> dict[str, Any]:
    """Model name, architecture, instruction sets, cores of the machine and cores this process may use."""
    info = _read("/proc/cpuinfo")
    flags = set(_field(info, "flags").split()) | set(_field(info, "Features").split())
    return {
        "model": _field(info, "model name") or platform.processor() or platform.machine(),
        "architecture": platform.machine(),
        "family": _field(info, "cpu family") or None,
        "isa": [flag for flag in ISA_FLAGS if flag in flags],
        "cores": os.cpu_count() or 1,
        "cores_usable": usable_cores(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").strip() or None,
    }


def memory_bytes() -> int | None:
    """Physical memory, or None if the system does not report it."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def gpus() -> list[dict[str, Any]]:
    """NVIDIA GPUs as NVML reports them: name, memory, driver, compute capability, power limit.

    Values are text in the form of ``nvidia-smi --format=csv,nounits``, so that records of any date can be compared.
    """
    try:
        with Nvml() as nvml:
            driver, found, limits_w = nvml.driver(), nvml.gpus(), nvml.power_limits_w()
    except NvmlUnavailableError:
        return []
    return [
        {
            "name": gpu.name,
            "memory_mib": str(gpu.memory_bytes >> 20),
            "driver": driver,
            "compute_capability": gpu.compute_capability,
            "power_limit_w": "[N/A]" if limit_w is None else f"{limit_w:.2f}",
        }
        for gpu, limit_w in zip(found, limits_w, strict=True)
    ]


def host_kind(record: dict[str, Any] | None = None) -> str:
    """A short name for this kind of machine, for folders: ``amd-epyc-avx2-2cores``, ``...-nvidia-l4``."""
    record = record or environment()
    machine = record["cpu"]
    isa = machine["isa"]
    widest = next(
        (
            name.replace("_", "")
            for name in ("amx_int8", "avx512_vnni", "avx512f", "avx_vnni", "avx2", "i8mm", "asimddp", "avx")
            if name in isa
        ),
        machine["architecture"],
    )
    words = re.sub(r"\((r|tm)\)|processor|cpu|@.*|\d+-core.*", " ", str(machine["model"]).lower())
    parts = re.findall(r"[a-z0-9]+", words)[:3]
    name = "-".join([*parts, widest, f"{machine['cores_usable']}cores"])
    if record["gpus"]:
        name += "-" + "-".join(re.findall(r"[a-z0-9]+", str(record["gpus"][0]["name"]).lower()))
    return name


def describe(record: dict[str, Any]) -> str:
    """One line for a table's caption: CPU, cores, instruction sets, GPU, the main versions."""
    machine, installed = record["cpu"], record["versions"]
    runtime = " ".join(
        f"{name} {installed[name]}"
        for name in ("onnxruntime", "onnxruntime-gpu", "openvino", "tensorflow")
        if name in installed
    )
    gpu = ", ".join(str(g["name"]) for g in record["gpus"]) or "no GPU"
    isa = "/".join(f for f in machine["isa"] if f not in ("sse4_2", "avx", "fma")) or "baseline"
    return (
        f"{machine['model']} ({isa}), {machine['cores_usable']} of {machine['cores']} cores, {gpu}; "
        f"Python {record['python']}, {runtime}"
    )


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _field(text: str, name: str) -> str:
    match = re.search(rf"^{re.escape(name)}\s*:\s*(.*)$", text, re.MULTILINE)
    return match.group(1).strip() if match else ""
