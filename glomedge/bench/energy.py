"""Energy from the machine's own counters, if they exist and are readable.

RAPL: ``energy_uj`` of each package in the Linux powercap tree (Linux kernel documentation, power/powercap).
NVML: ``nvmlDeviceGetTotalEnergyConsumption`` in millijoules (Volta and later). Both include idle power.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from glomedge.system.gpu import Nvml, NvmlUnavailableError

POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class _Counter:
    name: str
    path: Path
    range_uj: int


class EnergyMeter:
    """Joules between entering and leaving, by counter; ``joules`` stays empty if nothing can be read."""

    def __init__(self, powercap: Path = POWERCAP) -> None:
        self.joules: dict[str, float] = {}
        self._counters = _rapl_packages(powercap)
        # Held open: connecting takes a while, and a GPU uses energy meanwhile.
        self._nvml = _open_nvml()
        self._has_gpus = self._nvml is not None and bool(self._nvml.gpus())
        self._begin: dict[str, int] = {}

    @property
    def source(self) -> str:
        """Which counters are read: ``RAPL``, ``NVML``, ``RAPL + NVML`` or nothing."""
        return " + ".join(n for n, there in (("RAPL", bool(self._counters)), ("NVML", self._has_gpus)) if there)

    def __enter__(self) -> EnergyMeter:
        self._begin = self._read()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        end = self._read()
        ranges = {counter.name: counter.range_uj for counter in self._counters}
        for name, before in self._begin.items():
            if name not in end:
                continue
            used = end[name] - before
            if used < 0 and name in ranges:
                used += ranges[name]  # the counter wrapped round once; at 300 W that takes 15 minutes or more
            self.joules[name] = used / 1e6

    def _read(self) -> dict[str, int]:
        values = {}
        for counter in self._counters:
            value = _read_int(counter.path / "energy_uj")
            if value is not None:
                values[counter.name] = value
        for index, millijoules in enumerate([] if self._nvml is None else self._nvml.energy_mj()):
            if millijoules is not None:
                values[f"gpu-{index}"] = millijoules * 1000
        return values


def _rapl_packages(powercap: Path) -> list[_Counter]:
    """Top-level zones only (``intel-rapl:0``): sub-zones (``intel-rapl:0:1``) are part of their package."""
    found = []
    for zone in sorted(powercap.glob("*rapl:*")) if powercap.is_dir() else []:
        if zone.name.count(":") != 1 or "mmio" in zone.name:
            continue
        if _read_int(zone / "energy_uj") is None:
            continue
        found.append(_Counter(zone.name.replace(":", "-"), zone, _read_int(zone / "max_energy_range_uj") or 2**32))
    return found


def _read_int(path: Path) -> int | None:
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def _open_nvml() -> Nvml | None:
    try:
        return Nvml()
    except NvmlUnavailableError:
        return None


def gpu_memory_bytes(pid: int) -> int | None:
    """GPU memory that NVML attributes to a process, bytes; None if NVML is absent or does not report it."""
    nvml = _open_nvml()
    if nvml is None:
        return None
    with nvml:
        return nvml.process_memory_bytes(pid)
