"""NVIDIA GPUs and their driver, asked from the driver's own libraries (NVML, CUDA) without any package.

Signatures: NVML API reference, https://docs.nvidia.com/deploy/nvml-api/ ; CUDA driver API,
https://docs.nvidia.com/cuda/cuda-driver-api/.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

# CUdevice_attribute (cuda.h): CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR.
_CAPABILITY_MAJOR, _CAPABILITY_MINOR = 75, 76


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
    nvml = _library("libnvidia-ml.so.1", "nvml.dll")
    if nvml is None:
        return Gpus("", (), "no NVIDIA driver: libnvidia-ml.so.1 is not on this system")
    code = nvml.nvmlInit_v2()
    if code != 0:
        return Gpus("", (), f"the NVIDIA driver does not answer (nvmlInit: {code}); run nvidia-smi")
    try:
        return Gpus(_text(nvml.nvmlSystemGetDriverVersion), tuple(_devices(nvml)))
    finally:
        nvml.nvmlShutdown()


def session_gpu() -> Gpu | None:
    """The GPU that CUDA counts as 0 in this process, which is the one sessions run on; None where it counts none.

    NVML lists every GPU in the order of the PCI bus. CUDA leaves out those that CUDA_VISIBLE_DEVICES does, and puts
    the fastest first unless CUDA_DEVICE_ORDER says otherwise; so CUDA itself is asked. It makes no context.
    """
    cuda = _library("libcuda.so.1", "nvcuda.dll")
    device, memory, major, minor = ctypes.c_int(), ctypes.c_size_t(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    if (
        cuda is None
        or cuda.cuInit(ctypes.c_uint(0)) != 0
        or cuda.cuDeviceGet(ctypes.byref(device), ctypes.c_int(0)) != 0
        or cuda.cuDeviceGetName(name, ctypes.c_int(len(name)), device) != 0
        or cuda.cuDeviceGetAttribute(ctypes.byref(major), ctypes.c_int(_CAPABILITY_MAJOR), device) != 0
        or cuda.cuDeviceGetAttribute(ctypes.byref(minor), ctypes.c_int(_CAPABILITY_MINOR), device) != 0
        or cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device) != 0
    ):
        return None
    return Gpu(name.value.decode("utf-8", "replace"), f"{major.value}.{minor.value}", memory.value)


def _library(*names: str) -> ctypes.CDLL | None:
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    return None


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
