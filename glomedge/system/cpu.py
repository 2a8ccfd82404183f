"""The processor, as far as a runtime can use it. Read only; nothing is probed at import."""

from __future__ import annotations

import os
import platform
import sys
from pathlib import Path


def usable_cpus() -> int:
    """How many CPUs this process may use: its affinity mask, limited by its control group's CPU quota, at least 1."""
    if hasattr(os, "sched_getaffinity"):
        count = len(os.sched_getaffinity(0))
    else:
        count = os.cpu_count() or 1
    quota = _cgroup_cpus(Path("/sys/fs/cgroup"), _own_cgroups())
    return max(1, min(count, quota) if quota else count)


def _own_cgroups() -> str:
    """Which control groups this process is in: lines ``number:controllers:path`` (cgroups(7))."""
    try:
        return Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cgroup_cpus(root: Path, membership: str = "") -> int | None:
    """CPU quota of this process's control group and of those above it, rounded up; None where there is none.

    In a container, the root of the file system is the container's own group. A systemd service's lies deeper, and the
    tightest quota on the way down counts.

    Args:
        root: where control groups are mounted.
        membership: text of ``/proc/self/cgroup``.
    """
    quotas = [quota for folder in _cgroup_folders(root, membership) if (quota := _quota_cpus(folder)) is not None]
    return min(quotas, default=None)


def _cgroup_folders(root: Path, membership: str) -> list[Path]:
    """Folders that may hold a quota: of version 2, of version 1, and of both at once (``unified``)."""
    folders = [root, root / "cpu"]
    for line in membership.splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and "cpu" not in controllers.split(","):
            continue
        bases = (root / controllers, root / "cpu") if controllers else (root, root / "unified")
        parts = [part for part in path.split("/") if part]
        if ".." in parts:  # above what this namespace shows
            parts = []
        folders += [base.joinpath(*parts[:depth]) for base in bases for depth in range(len(parts) + 1)]
    return list(dict.fromkeys(folders))


def _quota_cpus(folder: Path) -> int | None:
    """One group's quota (version 2 ``cpu.max``, version 1 ``cpu.cfs_*``) in CPUs, rounded up."""
    try:
        quota, period = (folder / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota = (folder / "cpu.cfs_quota_us").read_text().strip()
            period = (folder / "cpu.cfs_period_us").read_text().strip()
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
