"""The processor, as far as a runtime can use it. Read only; nothing is probed at import."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path


def usable_cpus() -> int:
    """How many CPUs this process may use: its affinity mask, limited by its cgroup's CPU quota, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = _cgroup_cpus(Path("/sys/fs/cgroup"))
    return max(1, min(count, quota) if quota else count)


def _cgroup_cpus(root: Path) -> int | None:
    """CPU quota of the container, rounded up (cgroup v2 ``cpu.max``, v1 ``cpu.cfs_*``); None where there is none."""
    try:
        quota, period = (root / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (root / "cpu" / "cpu.cfs_quota_us").read_text().strip()
            period = (root / "cpu" / "cpu.cfs_period_us").read_text().strip()
        except OSError:
            return None
    if not quota.isdigit() or not period.isdigit() or int(period) == 0:
        return None
    return max(1, -(-int(quota) // int(period)))


# What determines the speed of a convolution, by the operating system's name for it.
_X86_FLAGS = {
    "avx2": "AVX2",
    "fma": "FMA",
    "avx512f": "AVX512F",
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "avx512_bf16": "AVX512-BF16",
    "amx_tile": "AMX",
    "amx_int8": "AMX-INT8",
    "amx_bf16": "AMX-BF16",
}
_ARM_FLAGS = {
    "asimd": "NEON",
    "asimddp": "NEON dot product",
    "i8mm": "INT8 matrix multiply",
    "bf16": "BF16",
    "sve": "SVE",
    "sve2": "SVE2",
}


def cpu_name() -> str:
    """The processor's marketing name, or its architecture where the system does not say."""
    for line in _cpuinfo():
        if line.lower().startswith(("model name", "hardware")):
            return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def cpu_features() -> tuple[str, ...]:
    """Vector and matrix extensions that matter here, in a fixed order, such as ``("AVX2", "AVX512-VNNI")``.

    From ``/proc/cpuinfo`` on Linux; elsewhere only what the architecture guarantees (NEON on arm64).
    """
    flags: set[str] = set()
    for line in _cpuinfo():
        if line.lower().startswith(("flags", "features")):
            flags.update(line.split(":", 1)[1].split())
            break
    table = _ARM_FLAGS if platform.machine().lower() in ("aarch64", "arm64") else _X86_FLAGS
    found = tuple(name for flag, name in table.items() if flag in flags)
    if not found and table is _ARM_FLAGS:
        return ("NEON",)
    return found


def has_native_bf16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware; without it bf16 is slower than fp32."""
    return any(name in ("AVX512-BF16", "AMX-BF16", "BF16") for name in cpu_features())


def has_native_int8() -> bool:
    """Whether this processor has 8-bit dot products; without them x86 int8 kernels add in saturating 16 bits."""
    return any("VNNI" in name or name in ("AMX-INT8", "NEON dot product") for name in cpu_features())


def operating_system() -> str:
    """Such as ``Linux 6.8 x86_64``."""
    return f"{platform.system()} {platform.release()} {platform.machine()}"


def python_version() -> str:
    """Such as ``3.11.9``."""
    return sys.version.split()[0]


def _cpuinfo() -> list[str]:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
