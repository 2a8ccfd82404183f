"""NVIDIA GPUs and their driver: NVML through the package ``nvidia-ml-py``, CUDA through the driver's own library.

Signatures: NVML API reference, https://docs.nvidia.com/deploy/nvml-api/ ; CUDA driver API,
https://docs.nvidia.com/cuda/cuda-driver-api/.
"""

from __future__ import annotations

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from glomedge.errors import GlomedgeError

_T = TypeVar("_T")

# CUdevice_attribute (cuda.h): CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76
# Written by the kernel module and visible in containers as well; its version is the driver's.
_KERNEL_MODULE = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Gpu:
    """One GPU.

    Attributes:
        name: such as ``NVIDIA RTX A2000``.
        compute_capability: such as ``8.6``.
        memory_bytes: total memory.
    """

    name: str
    compute_capability: str
    memory_bytes: int


@dataclass(frozen=True)
class Gpus:
    """What the driver reports; without one, ``driver`` is empty and ``problem`` says why.

    ``nvml`` is False where the GPUs are those that CUDA counts, because NVML is not there or does not answer.
    """

    driver: str
    devices: tuple[Gpu, ...]
    problem: str = ""
    nvml: bool = True


class NvmlUnavailableError(GlomedgeError):
    """NVML is unavailable; the message says why."""


class Nvml:
    """A connection to the NVIDIA driver through NVML, the management library that comes with it.

    Use as a context manager, or call ``close``. What a driver or GPU does not report is None, never an error.

    Raises:
        NvmlUnavailableError: no driver, a driver that does not answer, or no ``nvidia-ml-py``.
    """

    def __init__(self) -> None:
        # Looked for first: importing the package takes longer than this, and most machines have no such driver.
        if _library("libnvidia-ml.so.1", "nvml.dll") is None:
            raise NvmlUnavailableError("no NVIDIA driver: libnvidia-ml.so.1 is not on this system")
        try:
            import pynvml
        except ImportError:
            raise NvmlUnavailableError(
                "the package nvidia-ml-py, which asks the NVIDIA driver, is not installed: pip install nvidia-ml-py"
            ) from None
        self._nvml = pynvml
        try:
            pynvml.nvmlInit()
        except pynvml.NVMLError as error:
            raise NvmlUnavailableError(
                f"the NVIDIA driver does not answer (nvmlInit: {error}); run nvidia-smi"
            ) from None
        count = self._ask(pynvml.nvmlDeviceGetCount) or 0
        found = [self._ask(pynvml.nvmlDeviceGetHandleByIndex, index) for index in range(count)]
        self._handles = [handle for handle in found if handle is not None]

    def driver(self) -> str:
        """Version of the driver; empty if it does not report one."""
        return self._ask(self._nvml.nvmlSystemGetDriverVersion) or ""

    def gpus(self) -> tuple[Gpu, ...]:
        """Every GPU, in the order of the PCI bus."""
        return tuple(self._gpu(handle) for handle in self._handles)

    def power_limits_w(self) -> list[float | None]:
        """The power limit in force of each GPU, in watts."""
        limits_mw = [self._ask(self._nvml.nvmlDeviceGetPowerManagementLimit, handle) for handle in self._handles]
        return [None if limit_mw is None else limit_mw / 1000 for limit_mw in limits_mw]

    def energy_mj(self) -> list[int | None]:
        """Energy used by each GPU since the driver was loaded, in millijoules (Volta and later)."""
        return [self._ask(self._nvml.nvmlDeviceGetTotalEnergyConsumption, handle) for handle in self._handles]

    def process_memory_bytes(self, pid: int) -> int | None:
        """GPU memory held by a process, over all GPUs; None where NVML does not attribute any to it."""
        total = 0
        for handle in self._handles:
            for process in self._ask(self._nvml.nvmlDeviceGetComputeRunningProcesses, handle) or ():
                # usedGpuMemory is None where the driver hides it (containers, WDDM).
                if process.pid == pid and process.usedGpuMemory is not None:
                    total += int(process.usedGpuMemory)
        return total or None

    def close(self) -> None:
        """Release the connection."""
        self._ask(self._nvml.nvmlShutdown)

    def __enter__(self) -> Nvml:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _gpu(self, handle: object) -> Gpu:
        name = self._ask(self._nvml.nvmlDeviceGetName, handle)
        capability = self._ask(self._nvml.nvmlDeviceGetCudaComputeCapability, handle)
        memory = self._ask(self._nvml.nvmlDeviceGetMemoryInfo, handle)
        major, minor = capability or (0, 0)
        return Gpu(name or "", f"{major}.{minor}", 0 if memory is None else int(memory.total))

    def _ask(self, function: Callable[..., _T], *arguments: Any) -> _T | None:
        try:
            return function(*arguments)
        except self._nvml.NVMLError:
            return None


def find_gpus() -> Gpus:
    """Every GPU: from NVML, or from CUDA where NVML is not there or does not answer. Never raises.

    A container that was given the capability ``compute`` without ``utility`` has libcuda.so.1 and no NVML.
    """
    try:
        with Nvml() as nvml:
            return Gpus(nvml.driver(), nvml.gpus())
    except NvmlUnavailableError as error:
        devices = cuda_gpus()
        return Gpus(_driver_without_nvml() if devices else "", devices, "" if devices else str(error), nvml=False)


def cuda_gpus() -> tuple[Gpu, ...]:
    """The GPUs that CUDA counts in this process, in its order; empty where it counts none. It makes no context."""
    cuda, count = _initialised_cuda(), ctypes.c_int()
    if cuda is None or cuda.cuDeviceGetCount(ctypes.byref(count)) != 0:
        return ()
    found = [_cuda_gpu(cuda, ordinal) for ordinal in range(count.value)]
    return tuple(gpu for gpu in found if gpu is not None)


def session_gpu() -> Gpu | None:
    """The GPU that CUDA counts as 0 in this process, which is the one sessions run on; None where it counts none.

    NVML lists every GPU in the order of the PCI bus. CUDA leaves out those that CUDA_VISIBLE_DEVICES does, and puts
    the fastest first unless CUDA_DEVICE_ORDER says otherwise; so CUDA itself is asked. It makes no context.
    """
    cuda = _initialised_cuda()
    return None if cuda is None else _cuda_gpu(cuda, 0)


def session_pci_bus_id() -> str:
    """Where that GPU is on the PCI bus, in lower case, such as ``0000:65:00.0``; empty where CUDA does not say."""
    cuda, device, name = _initialised_cuda(), ctypes.c_int(), ctypes.create_string_buffer(32)
    if (
        cuda is None
        or cuda.cuDeviceGet(ctypes.byref(device), ctypes.c_int(0)) != 0
        or cuda.cuDeviceGetPCIBusId(name, ctypes.c_int(len(name)), device) != 0
    ):
        return ""
    return name.value.decode("ascii", "replace").lower()


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the installed driver runs, such as ``(12, 8)``; None without a driver. Needs no GPU.

    A driver runs every program of that major version or an older one (CUDA Compatibility, "Minor Version
    Compatibility"). CUDA is asked and not NVML, because a forward-compatibility package replaces libcuda only.
    """
    cuda, version = _library("libcuda.so.1", "nvcuda.dll"), ctypes.c_int()
    if cuda is None or cuda.cuDriverGetVersion(ctypes.byref(version)) != 0 or version.value == 0:
        return None
    return version.value // 1000, version.value % 1000 // 10


def _initialised_cuda() -> ctypes.CDLL | None:
    cuda = _library("libcuda.so.1", "nvcuda.dll")
    return None if cuda is None or cuda.cuInit(ctypes.c_uint(0)) != 0 else cuda


def _cuda_gpu(cuda: ctypes.CDLL, ordinal: int) -> Gpu | None:
    device, memory, major, minor = ctypes.c_int(), ctypes.c_size_t(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    if (
        cuda.cuDeviceGet(ctypes.byref(device), ctypes.c_int(ordinal)) != 0
        or cuda.cuDeviceGetName(name, ctypes.c_int(len(name)), device) != 0
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), ctypes.c_int(_CAPABILITY_MAJOR), device) != 0
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), ctypes.c_int(_CAPABILITY_MINOR), device) != 0
        or cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device) != 0
    ):
        return None
    return Gpu(name.value.decode("utf-8", "replace"), f"{major.value}.{minor.value}", memory.value)


def _driver_without_nvml() -> str:
    """The driver's version from its kernel module, else what CUDA says of it."""
    try:
        # "NVRM version: NVIDIA UNIX x86_64 Kernel Module  580.65.06  ..."
        found = re.search(r"\s(\d{3,}\.\d+(?:\.\d+)?)\s", _KERNEL_MODULE.read_text("utf-8", "replace"))
    except OSError:
        found = None
    if found:
        return found[1]
    version = driver_cuda()
    return f"of CUDA {version[0]}.{version[1]}" if version else ""


def _library(*names: str) -> ctypes.CDLL | None:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None
