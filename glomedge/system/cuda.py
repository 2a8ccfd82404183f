"""Whether this machine's NVIDIA driver and TensorRT suit what an installed library was built for, and the cure if not.

The number in ``libcudart.so.N``, which the library links against, is the major version of CUDA that it was built for;
the driver says itself which version it runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from glomedge.system import libraries
from glomedge.system.gpu import driver_cuda

# CUDA's major version -> the oldest driver that runs it on Linux (CUDA Compatibility, table of minor version
# compatibility).
_LEAST_DRIVER = {12: "525.60", 13: "580.65"}
CUDA_12_WHEEL = "onnxruntime-gpu[cuda,cudnn]>=1.24.4,<1.27"
"""The last onnxruntime-gpu of the Python Package Index that is built for CUDA 12; from 1.27 on they want CUDA 13."""

_TENSORRT_PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
# Where Linux distributions, NVIDIA's packages and its archives put libraries; LD_LIBRARY_PATH comes first.
_LIBRARY_FOLDERS = (
    "usr/lib/x86_64-linux-gnu",
    "usr/lib/aarch64-linux-gnu",
    "usr/lib64",
    "usr/lib",
    "usr/local/lib",
    "usr/local/tensorrt/lib",
    "opt/tensorrt/lib",
)


def cuda_major(needed: Iterable[str]) -> int | None:
    """The CUDA that a library with these dependencies was built for: 13 for ``libcudart.so.13``; None for none."""
    for name in needed:
        stem, _, version = name.partition(".so.")
        if stem == "libcudart" and version.split(".")[0].isdigit():
            return int(version.split(".")[0])
    return None


def driver_too_old(needed: Iterable[str], what: str, older: str = "") -> tuple[str, str] | None:
    """Why the driver does not run a library that links against ``needed``, and the cure; None where it does.

    None too where there is no driver, and for a library that uses no CUDA.

    Args:
        needed: names as DT_NEEDED has them.
        what: that library, in words.
        older: what a driver for CUDA 12 can be given instead of an update.
    """
    major, runs = cuda_major(needed), driver_cuda()
    if major is None or runs is None or runs[0] >= major:
        return None
    cure = newer_driver(major)
    if older and runs[0] == 12:
        cure += f", or {older}"
    return f"the NVIDIA driver runs CUDA up to {runs[0]}.{runs[1]} and {what} is built for CUDA {major}", cure


def newer_driver(major: int) -> str:
    """What to install for programs of that CUDA."""
    least = _LEAST_DRIVER.get(major)
    return f"Install NVIDIA driver {least} or newer" if least else f"Install an NVIDIA driver for CUDA {major}"


def only_cuda_12() -> bool:
    """Whether the driver runs CUDA 12 but no newer one, so that the newest wheels would not run."""
    runs = driver_cuda()
    return runs is not None and runs[0] == 12


@dataclass(frozen=True)
class TensorRT:
    """One TensorRT on this machine.

    Attributes:
        version: such as ``10.16.0.72`` from pip, or ``11`` from a file's name.
        place: the package, or the folder of its ``libnvinfer``.
        pip: whether pip brought it.
    """

    version: str
    place: str
    pip: bool

    @property
    def major(self) -> str:
        """The number that must agree with ``libnvinfer.so.N``."""
        return self.version.split(".")[0]

    def __str__(self) -> str:
        return f"TensorRT {self.version} ({self.place})"


def installed_tensorrt(root: Path = Path("/")) -> tuple[TensorRT, ...]:
    """Every TensorRT that pip brought or that lies where libraries usually lie. Nothing is loaded.

    Args:
        root: the file system whose usual folders are looked at.
    """
    found = [TensorRT(item.version, item.name, pip=True) for item in libraries.installed(*_TENSORRT_PACKAGES)]
    named = [Path(folder) for folder in os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep) if folder]
    for folder in dict.fromkeys([*named, *(root / name for name in _LIBRARY_FOLDERS)]):
        # libnvinfer.so.10 and libnvinfer.so.10.16.0 are one library; a dangling link or an empty file is none.
        files = [path for path in folder.glob("libnvinfer.so.*") if path.is_file() and path.stat().st_size]
        majors = {match[1] for path in files if (match := _MAJOR.search(path.name))}
        found += [TensorRT(major, str(folder), pip=False) for major in sorted(majors)]
    return tuple(found)


_MAJOR = re.compile(r"\.so\.(\d+)")


def tensorrt_cure(missing: Iterable[str], needed: tuple[str, ...]) -> str | None:
    """What to do about the TensorRT that is there and is not the one that is missing; None where there is none.

    Args:
        missing: names of libraries that the loader does not find.
        needed: all that the provider links against, for the CUDA version.
    """
    name = next((name for name in missing if name.startswith("libnvinfer.so.")), None)
    here = installed_tensorrt()
    if name is None or not here:
        return None
    wanted = name.rsplit(".", 1)[1]
    right = next((one for one in here if one.major == wanted), None)
    if right is not None and not right.pip:
        return f"{right} is not where the loader looks: add that folder to LD_LIBRARY_PATH"
    package = f"'tensorrt-cu{cuda_major(needed) or 13}=={wanted}.*' from NVIDIA's index"
    if right is not None:
        return f"{right} lacks its libraries: reinstall {package}"
    others = [one.place for one in here if one.pip]
    replace = (
        f"pip uninstall -y {' '.join(others)}, then install {package}" if others else f"Beside it install {package}"
    )
    return f"{', '.join(map(str, here))} is here, and TensorRT {wanted} is needed. {replace}"
