"""NVIDIA GPUs and their driver, asked from the driver's own management library (NVML) without any package.

Signatures: NVML API reference, https://docs.nvidia.com/deploy/nvml-api/.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: such as ``NVIDIA RTX A2000``.
        compute_capability: such as ``8.6``.
        memory_bytes: in all.
    """

    name: str
    compute_capability: str
    memory_bytes: int


@dataclass(frozen=True)
class Gpus:
    """What the driver reports; ``driver`` is empty and ``problem`` says why where there is none."""

    driver: str
    devices: tuple[Gpu, ...]
    problem: str = ""


class _Memory(ctypes.Structure):
    _fields_ = (("total", ctypes.c_ulonglong), ("free", ctypes.c_ulonglong), ("used", ctypes.c_ulonglong))


def find_gpus() -> Gpus:
    """Ask NVML. Never raises: a machine without a GPU is an ordinary machine."""
    for name in ("libnvidia-ml.so.1", "nvml.dll"):
        try:
            nvml = ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        return Gpus("", (), "no NVIDIA driver: libnvidia-ml.so.1 is not on this system")
    code = nvml.nvmlInit_v2()
    if code != 0:
        return Gpus("", (), f"the NVIDIA driver does not answer (nvmlInit: {code}); run nvidia-smi")
    try:
        return Gpus(_text(nvml.nvmlSystemGetDriverVersion), tuple(_devices(nvml)))
    finally:
        nvml.nvmlShutdown()


def _text(function: ctypes._NamedFuncPointer, *arguments: object) -> str:
    buffer = ctypes.create_string_buffer(96)
    code = function(*arguments, buffer, ctypes.c_uint(len(buffer)))
    return buffer.value.decode("utf-8", "replace") if code == 0 else ""


def _devices(nvml: ctypes.CDLL) -> list[Gpu]:
    count = ctypes.c_uint()
    if nvml.nvmlDeviceGetCount_v2(ctypes.byref(count)) != 0:
        return []
    found = []
    for index in range(count.value):
        handle = ctypes.c_void_p()
        if nvml.nvmlDeviceGetHandleByIndex_v2(ctypes.c_uint(index), ctypes.byref(handle)) != 0:
            continue
        memory, major, minor = _Memory(), ctypes.c_int(), ctypes.c_int()
        nvml.nvmlDeviceGetMemoryInfo(handle, ctypes.byref(memory))
        nvml.nvmlDeviceGetCudaComputeCapability(handle, ctypes.byref(major), ctypes.byref(minor))
        found.append(Gpu(_text(nvml.nvmlDeviceGetName, handle), f"{major.value}.{minor.value}", memory.total))
    return found
