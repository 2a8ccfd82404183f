"""Machines with NVIDIA GPUs, made of shared objects: what the real loader, ctypes and nvidia-ml-py find on each.

A machine is a folder of libraries that a process searches first (LD_LIBRARY_PATH), a folder of modules, and the folder
of an installed onnxruntime. The driver's two libraries are small programs in C; the rest are libraries without content
but with the names and dependencies (DT_NEEDED) of the real ones, so that a wheel can be described without installing
it. What a machine lacks is an empty file, which the loader refuses: the machine of the test may have the real one.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from helpers.paths import ROOT

CUDA_LIBRARIES = ("libcudart.so.{0}", "libcublas.so.{0}", "libcublasLt.so.{0}", "libcurand.so.10")
ALL_LIBRARIES = (
    "libcuda.so.1",
    "libnvidia-ml.so.1",
    *(name.format(major) for name in CUDA_LIBRARIES for major in (12, 13)),
    "libcudnn.so.9",
    *(f"{stem}.so.{major}" for stem in ("libnvinfer", "libnvonnxparser") for major in (10, 11)),
)
GPU_PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")


@dataclass(frozen=True)
class Machine:
    """One machine.

    Attributes:
        gpus: what CUDA counts, as ``name|major.minor|MiB``; empty where there is no driver.
        driver_cuda: what cuDriverGetVersion says: 12080 for CUDA 12.8.
        nvml: whether libnvidia-ml.so.1 is there.
        nvml_gpu: the GPU that NVML lists where it is another than CUDA's first (a whole card behind a slice).
        wheel_cuda: the CUDA that the installed onnxruntime-gpu is built for; None for the CPU's onnxruntime.
        arm_server_wheel: whether that onnxruntime-gpu is pip's for arm64, which has no TensorRT provider.
        kernels: the compute capabilities, times ten, that its CUDA provider is compiled for; empty: as if for any.
        cuda: the CUDA whose libraries the loader finds.
        cudnn: whether libcudnn.so.9 is found.
        tensorrt: the version whose libraries the loader finds.
        pip_tensorrt: the version that pip brought: its package's metadata and its folder of libraries.
        plugin: whether the TensorRT-RTX plugin is installed, with the CUDA runtime that it brings.
        both: whether the CPU's onnxruntime is installed beside onnxruntime-gpu.
        environment: further variables.
        jetson: the text of ``/etc/nv_tegra_release``.
    """

    gpus: str = ""
    driver_cuda: int = 0
    nvml: bool = True
    nvml_gpu: str = ""
    wheel_cuda: int | None = None
    arm_server_wheel: bool = False
    kernels: tuple[int, ...] = ()
    cuda: int | None = None
    cudnn: bool = False
    tensorrt: int | None = None
    pip_tensorrt: str = ""
    plugin: bool = False
    both: bool = False
    environment: dict[str, str] = field(default_factory=dict)
    jetson: str = ""


class Workshop:
    """Makes shared objects; those that were asked for before are not made again."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None or not sys.platform.startswith("linux"):
            pytest.skip("no C compiler for ELF libraries to make the driver's libraries with")
        self._compiler = compiler
        self._stubs = folder / "stubs"
        self._stubs.mkdir()
        (self._stubs / "empty.c").write_text("")

    def library(self, path: Path, needs: Sequence[str] = (), source: Path | None = None, soname: str = "") -> None:
        """Make a library that links against ``needs`` by name, which need not exist where it is used."""
        path.parent.mkdir(parents=True, exist_ok=True)
        for name in needs:
            if not (self._stubs / name).exists():
                self._compile(self._stubs / name, [], None, name)
        self._compile(path, [str(self._stubs / name) for name in needs], source, soname or path.name)

    def _compile(self, path: Path, linked: list[str], source: Path | None, soname: str) -> None:
        command = [self._compiler, "-shared", "-fPIC", "-o", str(path), str(source or self._stubs / "empty.c")]
        subprocess.run([*command, "-Wl,--no-as-needed", f"-Wl,-soname,{soname}", *linked], check=True)


def build(machine: Machine, folder: Path, workshop: Workshop) -> dict[str, str]:
    """Write the machine below ``folder``; the environment of a process on it, without its library path."""
    found, modules, capi = folder / "lib", folder / "modules", folder / "onnxruntime" / "capi"
    for part in (found, modules, capi):
        part.mkdir(parents=True)
    for name in ALL_LIBRARIES:
        (found / name).touch()
    helpers = ROOT / "tests" / "helpers"
    if machine.driver_cuda:
        workshop.library(found / "libcuda.so.1", source=helpers / "fake_cuda.c")
        if machine.nvml:
            workshop.library(found / "libnvidia-ml.so.1", source=helpers / "fake_nvml.c")
    names = [name.format(machine.cuda) for name in CUDA_LIBRARIES] if machine.cuda else []
    names += ["libcudnn.so.9"] if machine.cudnn else []
    names += _tensorrt(machine.tensorrt) if machine.tensorrt else []
    for name in names:
        workshop.library(found / name)
    if machine.wheel_cuda:
        needs = [name.format(machine.wheel_cuda) for name in CUDA_LIBRARIES]
        # As onnxruntime-gpu's wheels have it: cuDNN stands in the TensorRT provider alone.
        code = capi / "kernels.c"
        numbers = ", ".join(map(str, fat_binary(*((2, capability) for capability in machine.kernels))))
        code.write_text(f"const unsigned char kernels[] = {{{numbers}}};\n")
        workshop.library(capi / "libonnxruntime_providers_cuda.so", [*needs, "libcuda.so.1"], source=code)
        needs = [*needs[:2], "libcudnn.so.9", *_tensorrt(10)]
        workshop.library(capi / "libonnxruntime_providers_tensorrt.so", needs)
    if machine.pip_tensorrt:
        _pip_tensorrt(machine.pip_tensorrt, modules, workshop)
    if machine.plugin:
        _plugin(modules, workshop)
    if machine.jetson:
        (folder / "etc").mkdir()
        (folder / "etc" / "nv_tegra_release").write_text(machine.jetson)
    return {
        "FAKE_GPUS": machine.gpus,
        "FAKE_CUDA_VERSION": str(machine.driver_cuda),
        "FAKE_NVML_GPU": machine.nvml_gpu or machine.gpus.partition(";")[0],
        "FAKE_NVML_DRIVER": "580.65" if machine.driver_cuda >= 13000 else "570.86",
        **machine.environment,
    }


def fat_binary(*entries: tuple[int, int]) -> bytes:
    """A fat binary as nvcc embeds it: of each entry kind (1: PTX, 2: cubin) and compute capability times ten."""
    content = b"".join(
        struct.pack("<HHIQ", kind, 0x101, 64, 16) + bytes(12) + struct.pack("<I", capability) + bytes(32 + 16)
        for kind, capability in entries
    )
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(content)) + content


def _tensorrt(major: int) -> list[str]:
    return [f"libnvinfer.so.{major}", f"libnvonnxparser.so.{major}"]


def _pip_tensorrt(version: str, modules: Path, workshop: Workshop) -> None:
    """What ``pip install tensorrt-cu13`` leaves: metadata, and libraries in a folder that no loader searches."""
    metadata = modules / f"tensorrt_cu13-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: tensorrt_cu13\nVersion: {version}\n")
    libs = modules / "tensorrt_libs"
    libs.mkdir()
    (libs / "__init__.py").write_text("")
    for name in _tensorrt(int(version.split(".")[0])):
        workshop.library(libs / name)


def _plugin(modules: Path, workshop: Workshop) -> None:
    """The plugin's package (0.5.0): its CUDA runtime lies beside it under a file name that no loader asks for."""
    package = modules / "onnxruntime_ep_nv_tensorrt_rtx"
    library = package / "libonnxruntime_providers_nv_tensorrt_rtx.so"
    workshop.library(library, ["libcudart.so.13", "libcuda.so.1", "libnvidia-ml.so.1"])
    workshop.library(package / "libcudart.so.13.4.36", soname="libcudart.so.13")
    (package / "__init__.py").write_text(f"__version__ = '0.5.0'\ndef get_library_path(): return {str(library)!r}\n")


# One process for all machines, because starting one takes longer than all else: it forks for each, after the folder
# that LD_LIBRARY_PATH names has become that machine's. The wheel is described by what is asked of it, the packages are
# those of the machine's folder of modules; the loader, ctypes, CUDA's and NVML's libraries are asked as ever.
_DOCTOR = """
import contextlib, importlib, importlib.metadata, io, json, os, sys
from pathlib import Path
from glomedge.cli.doctor import print_diagnosis
from glomedge.engine import doctor, providers
from glomedge.engine.backends import nvidia_machine
from glomedge.system import cuda, libraries
from glomedge.system.jetson import find_jetson
from glomedge.system.telemetry import import_onnxruntime
import pynvml, rich.console
onnxruntime = import_onnxruntime()

def folder_of(name):
    path = FOLDER / "onnxruntime" if name == "onnxruntime" else FOLDER / "modules" / name
    return path if path.is_dir() else None

def installed(*names):
    here = importlib.metadata.distributions(path=[str(FOLDER / "modules")])
    found = {d.name.replace("_", "-"): d.version for d in here}
    return tuple(libraries.Package(name, found[name]) for name in names if name in found)

def examine(machine):
    os.environ.update(machine["environment"])
    sys.path.insert(0, str(FOLDER / "modules"))
    importlib.invalidate_caches()
    libraries.onnxruntime_packages = lambda: tuple(libraries.Package(name, "1.31.1") for name in machine["packages"])
    libraries.providers_built_in = lambda: tuple(machine["built_in"])
    libraries.module_folder, libraries.installed = folder_of, installed
    libraries.preload_cuda = lambda: None
    cuda._LIBRARY_FOLDERS = ()
    if machine["jetson"]:
        doctor.find_jetson = nvidia_machine.find_jetson = lambda: find_jetson(FOLDER)
    providers.PROVIDERS.pop("openvino")
    words = io.StringIO()
    with contextlib.redirect_stdout(words):
        found = doctor.diagnose()
        print_diagnosis(found)
    return json.dumps([found.to_json_object(), " ".join(words.getvalue().split())])

for line in sys.stdin:
    machine = json.loads(line)
    FOLDER = Path(machine["folder"])
    child = os.fork()
    if child == 0:
        try:
            print(examine(machine), flush=True)
            os._exit(0)
        finally:
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        print("null", flush=True)
"""


class Doctor:
    """``glomedge doctor`` on one machine after another. Use as a context manager."""

    def __init__(self, folder: Path, workshop: Workshop) -> None:
        self._workshop = workshop
        self._current = folder / "current"
        (folder / "none" / "lib").mkdir(parents=True)
        self._current.symlink_to(folder / "none")
        variables = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
        variables |= {
            "COLUMNS": "400",
            "LD_LIBRARY_PATH": str(self._current / "lib"),
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "export")]),
        }
        self._process = subprocess.Popen(
            [sys.executable, "-c", _DOCTOR], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=variables
        )

    def diagnose(self, machine: Machine, folder: Path) -> tuple[dict[str, Any], str]:
        """What it finds there, as its JSON object and in words with single spaces."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        environment = build(machine, folder, self._workshop)
        link = self._current.with_name("next")
        link.symlink_to(folder)
        link.replace(self._current)
        lacking = 2 if not machine.wheel_cuda else 1 if machine.arm_server_wheel else 0
        told = {
            "folder": str(folder),
            "environment": environment,
            "packages": ["onnxruntime"] * (machine.both or not machine.wheel_cuda)
            + ["onnxruntime-gpu"] * bool(machine.wheel_cuda),
            "built_in": GPU_PROVIDERS[lacking:],
            "jetson": bool(machine.jetson),
        }
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        found, words = json.loads(self._process.stdout.readline())
        return found, words

    def __enter__(self) -> Doctor:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(timeout=60)
