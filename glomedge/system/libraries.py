"""Which shared library is missing, read from the provider's own library instead of guessed.

A provider of onnxruntime is a shared library beside its Python module. What it links against is listed in its ELF
dynamic section (DT_NEEDED), so the exact name and version of what is missing, such as ``libnvinfer.so.10``, can be
reported without loading it. Layout: System V ABI, chapter 5, "Dynamic Section".
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import io
import struct
from dataclasses import dataclass
from pathlib import Path

from glomedge.system import tf32
from glomedge.system.telemetry import import_onnxruntime

CUDA_LIBRARY = "libonnxruntime_providers_cuda.so"
"""The CUDA provider, in ``capi/`` of an onnxruntime that was built with it."""

_ELF_MAGIC = b"\x7fELF"
_PT_LOAD, _PT_DYNAMIC = 1, 2
_DT_NULL, _DT_NEEDED, _DT_STRTAB = 0, 1, 5

# Library name before ".so" -> what provides it. CUDA wheels carry the CUDA version in their libraries' names.
_BROUGHT_BY = {
    "libcuda": "the NVIDIA driver (from your system's packages, not from pip)",
    "libnvidia-ml": "the NVIDIA driver (from your system's packages, not from pip)",
    "libcudart": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "libcublas": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "libcublasLt": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "libcurand": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "libcufft": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "libcudnn": "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    "libnvinfer": "NVIDIA TensorRT {version} (pip install 'tensorrt-cu{cuda}=={version}.*', from NVIDIA's index)",
    "libnvonnxparser": "NVIDIA TensorRT {version} (pip install 'tensorrt-cu{cuda}=={version}.*', from NVIDIA's index)",
}


def needed_libraries(path: Path) -> tuple[str, ...]:
    """The DT_NEEDED entries of a 64-bit little-endian ELF library, in their order; empty where it is none.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as handle:
        header = handle.read(64)
        if header[:4] != _ELF_MAGIC or header[4:6] != b"\x02\x01":
            return ()
        program_offset, entry_size, entries = (
            *struct.unpack_from("<Q", header, 32),
            *struct.unpack_from("<2H", header, 54),
        )
        handle.seek(program_offset)
        table = handle.read(entry_size * entries)
        loads: list[tuple[int, int, int]] = []
        dynamic = b""
        for index in range(entries):
            kind, _, offset, address, _, file_size = struct.unpack_from("<2I4Q", table, index * entry_size)
            if kind == _PT_LOAD:
                loads.append((address, offset, file_size))
            elif kind == _PT_DYNAMIC:
                handle.seek(offset)
                dynamic = handle.read(file_size)
        names: list[int] = []
        strings_address = 0
        for tag, value in struct.iter_unpack("<qQ", dynamic[: len(dynamic) // 16 * 16]):
            if tag == _DT_NULL:
                break
            if tag == _DT_NEEDED:
                names.append(value)
            elif tag == _DT_STRTAB:
                strings_address = value
        # The table's address is where it will be mapped; the segment that maps it gives its position in the file.
        strings_offset = next(
            (
                offset + strings_address - address
                for address, offset, size in loads
                if 0 <= strings_address - address < size
            ),
            None,
        )
        if strings_offset is None:
            return ()
        found = []
        for name in names:
            handle.seek(strings_offset + name)
            found.append(handle.read(256).split(b"\0", 1)[0].decode("utf-8", "replace"))
        return tuple(found)


def missing_libraries(path: Path, also: tuple[str, ...] = ()) -> tuple[str, ...]:
    """Which of the libraries that ``path`` links against the dynamic loader cannot find.

    Loads those it finds, as opening the provider would.

    Args:
        path: a library.
        also: what it loads by itself, later, and so does not list.
    """
    return tuple(name for name in dict.fromkeys((*needed_libraries(path), *also)) if not _loads(name))


def _loads(name: str) -> bool:
    # TensorRT's wheel keeps its libraries in a separate folder, where the loader does not search.
    folders = [folder for module in ("tensorrt_libs",) if (folder := module_folder(module)) is not None]
    for candidate in (name, *(str(folder / name) for folder in folders)):
        with contextlib.suppress(OSError):
            ctypes.CDLL(candidate)
            return True
    return False


def brought_by(library: str, others: tuple[str, ...] = ()) -> str:
    """What to install for a missing library; ``others`` are the names linked beside it, for the CUDA version."""
    stem, _, version = library.partition(".so")
    version = version.lstrip(".").split(".")[0]
    cuda = next((name.rsplit(".", 1)[1] for name in others if name.startswith("libcudart.so.")), "13")
    return _BROUGHT_BY.get(stem, "your system's packages").format(version=version, cuda=cuda)


@dataclass(frozen=True)
class Package:
    """An installed distribution."""

    name: str
    version: str


def installed(*names: str) -> tuple[Package, ...]:
    """Those of the named distributions that are installed in this environment."""
    found = []
    for name in names:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(Package(name, importlib.metadata.version(name)))
    return tuple(found)


ONNXRUNTIME_PACKAGES = (
    "onnxruntime",
    "onnxruntime-gpu",
    "onnxruntime-openvino",
    "onnxruntime-directml",
    "onnxruntime-qnn",
    "onnxruntime-training",
)


def onnxruntime_packages() -> tuple[Package, ...]:
    """Every installed distribution that provides a module named ``onnxruntime``; two of them break each other."""
    return installed(*ONNXRUNTIME_PACKAGES)


def providers_built_in() -> tuple[str, ...]:
    """The providers that the installed onnxruntime was built with, by its names for them."""
    return tuple(import_onnxruntime().get_available_providers())


def module_folder(module: str) -> Path | None:
    """The folder of a module, without importing it; None where it is not installed."""
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        return None
    return Path(spec.origin).parent


def preload_cuda() -> None:
    """Let onnxruntime find CUDA and cuDNN libraries installed as wheels. Silent where there are none.

    Where it was built with CUDA, TF32 is forbidden first: the libraries read that while they are loaded.
    """
    ort = import_onnxruntime()
    folder = module_folder("onnxruntime")
    if folder is not None and (folder / "capi" / CUDA_LIBRARY).is_file():
        tf32.forbid()

    # It prints what it did not find; missing_libraries reports that better.
    with contextlib.redirect_stdout(io.StringIO()):
        ort.preload_dlls()
