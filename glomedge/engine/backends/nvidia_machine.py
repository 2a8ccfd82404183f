"""Whether NVIDIA's providers can run on this machine: driver, libraries and GPU; where not, why, and what to do."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
from pathlib import Path

from glomedge.about import install_command
from glomedge.engine.backends.onnxrt import first_line
from glomedge.system import cuda, libraries, tf32
from glomedge.system.gpu import Gpu, driver_cuda, find_gpus, session_gpu
from glomedge.system.jetson import find_jetson
from glomedge.system.telemetry import import_onnxruntime

TENSORRT_LIBRARY = "libonnxruntime_providers_tensorrt.so"
RTX_MODULE = "onnxruntime_ep_nv_tensorrt_rtx"
RTX_PACKAGE = "onnxruntime-ep-nv-tensorrt-rtx-cu13"
RTX_LIBRARY = "libonnxruntime_providers_nv_tensorrt_rtx.so"

CUDNN = "libcudnn.so.9"
"""Loaded by the CUDA provider at its first convolution, so that its dependencies do not list it."""

INSTALL_GPU = "glomedge[gpu]"
INSTALL_RTX = "glomedge[cpu,tensorrt-rtx-provider]"


def jetson_advice() -> str | None:
    """What to do for CUDA or TensorRT on a Jetson, None elsewhere: ``INSTALL_GPU`` brings no wheel that runs there."""
    board = find_jetson()
    if board is None:
        return None
    if board.jetpack == "6":
        return (
            f"This is a Jetson with JetPack 6 ({board}): onnxruntime with CUDA is built for its Python 3.10 only, and "
            "glomedge needs 3.11. Use --provider cpu, or install JetPack 7.2 (docs/jetson.md)"
        )
    return (
        f"This is a Jetson ({board}): CUDA and TensorRT come with JetPack, and onnxruntime-gpu for it is not the one "
        "that pip finds by that name; docs/jetson.md says what to install, in which order"
    )


def install_gpu() -> str:
    """The command that brings the onnxruntime with CUDA that this machine's driver runs."""
    return install_command(cuda.CUDA_12_WHEEL if cuda.only_cuda_12() else INSTALL_GPU)


def replace_by_gpu_wheel(installed: str) -> str:
    """What to do where the onnxruntime that is installed was built without CUDA: first the driver, then the wheel."""
    replace = f"pip uninstall {installed}, then {install_gpu()}"
    runs = driver_cuda()
    if runs is None:
        return f"This machine has no NVIDIA driver; with one, replace the package: {replace}"
    if runs[0] < 12:
        return f"{cuda.newer_driver(13)} (this one runs CUDA up to {runs[0]}.{runs[1]}), then replace it: {replace}"
    return f"Replace it: {replace}"


def library_problem(name: str, path: Path, on_jetson: str | None) -> str | None:
    """Why a provider's library cannot be loaded here, with what to do; None where it can.

    Args:
        name: of the provider.
        path: its library.
        on_jetson: what to do instead on a Jetson, where nothing of this comes from pip.
    """
    needed = libraries.needed_libraries(path)
    older = f"an older wheel: {install_command(cuda.CUDA_12_WHEEL)} (its TensorRT: 'tensorrt-cu12==10.*')"
    too_old = cuda.driver_too_old(needed, "this onnxruntime", older)
    if too_old is not None:
        reason, cure = too_old
        return f"{name}: {reason}. {on_jetson or cure}"
    libraries.preload_cuda()
    missing = libraries.missing_libraries(path, (CUDNN,) if cuda.cuda_major(needed) else ())
    if not missing:
        return None
    if on_jetson:
        return f"{name}: missing {', '.join(missing)}. {on_jetson}"
    other = cuda.tensorrt_cure(missing, needed)
    rest = [one for one in missing if other is None or not one.startswith(("libnvinfer", "libnvonnxparser"))]
    cures = [f"Provided by: {'; '.join(dict.fromkeys(libraries.brought_by(one, needed) for one in rest))}"] * bool(rest)
    return f"{name}: missing {', '.join(missing)}. {'. '.join([*cures, *([other] if other else [])])}"


def no_gpu() -> str | None:
    """Why there is no GPU that a session could run on, None when there is one."""
    if session_gpu() is not None:
        return None
    gpus = find_gpus()
    if gpus.devices:
        return (
            f"the driver lists {', '.join(dict.fromkeys(gpu.name for gpu in gpus.devices))}, but CUDA counts no GPU in "
            "this process: CUDA_VISIBLE_DEVICES hides it, or it is in no state to be used (run nvidia-smi)"
        )
    return gpus.problem or "the NVIDIA driver reports no GPU"


def tensorrt_rtx_unusable() -> str | None:
    """Why the TensorRT-RTX plugin cannot run here."""
    if find_jetson() is not None:
        return (
            "tensorrt-rtx: TensorRT for RTX does not run on a Jetson. Use --provider tensorrt or cuda "
            "(docs/jetson.md), or cpu"
        )
    if (other_kind := _not_an_rtx_gpu()) is not None:
        return other_kind
    cure = install_rtx()
    folder = libraries.module_folder(RTX_MODULE)
    if folder is None:
        return _rtx_driver_too_old(("libcudart.so.13",)) or (
            f"tensorrt-rtx: the package '{RTX_PACKAGE}' is not installed. Install it with: {cure}"
        )
    if not libraries.onnxruntime_packages():
        return f"tensorrt-rtx: onnxruntime is not installed. Install it with: {cure}"
    ort = import_onnxruntime()

    if not hasattr(ort, "register_execution_provider_library"):
        return f"tensorrt-rtx: onnxruntime {ort.__version__} takes no plugins. Upgrade to 1.24 or newer: {cure}"
    tf32.forbid()
    try:
        importlib.import_module(RTX_MODULE)  # loads the TensorRT-RTX libraries that it brings along
    except (ImportError, OSError) as error:
        return f"tensorrt-rtx: {RTX_MODULE} does not load ({first_line(error)}). Reinstall: {cure}"
    reason = _rtx_library_problem(folder)
    if reason is None and (nothing := no_gpu()) is not None:
        reason = f"tensorrt-rtx: {nothing}. Use --provider cpu"
    return reason


def install_rtx() -> str:
    """The command that brings the plugin, beside the onnxruntime that is here or with one where there is none."""
    here = [package.name for package in libraries.onnxruntime_packages()]
    # The extra `cpu` would be installed over another onnxruntime and take its GPU away.
    return install_command(INSTALL_RTX if here in ([], ["onnxruntime"]) else "glomedge[tensorrt-rtx-provider]")


def _rtx_driver_too_old(needed: tuple[str, ...]) -> str | None:
    too_old = cuda.driver_too_old(needed, "the plugin")
    return None if too_old is None else f"tensorrt-rtx: {too_old[0]}. {too_old[1]}"


def _rtx_library_problem(folder: Path) -> str | None:
    path = folder / RTX_LIBRARY
    needed = libraries.needed_libraries(path) if path.is_file() else ()
    if (too_old := _rtx_driver_too_old(needed)) is not None:
        return too_old
    load_bundled_cudart(folder)
    missing = libraries.missing_libraries(path) if path.is_file() else (RTX_LIBRARY,)
    if not missing:
        return None
    if "libcuda.so.1" in missing:
        cure = f"Provided by: {libraries.brought_by('libcuda.so.1')}"
    elif all(name.startswith("libnvidia-ml.") for name in missing):
        cure = "In a container: start it with NVIDIA_DRIVER_CAPABILITIES=compute,utility, which brings this library"
    else:
        # Not onnxruntime-gpu, which brings CUDA as well: it would be installed over the onnxruntime that is here.
        cure = f"The plugin brings its own: pip install --force-reinstall --no-deps {RTX_PACKAGE}"
    return f"tensorrt-rtx: missing {', '.join(missing)}. {cure}"


def _not_an_rtx_gpu() -> str | None:
    device = session_gpu()
    if device is None or runs_tensorrt_rtx(device):
        return None
    return (
        f"tensorrt-rtx: {device.name} (compute {device.compute_capability}) is no GPU of TensorRT for RTX, which takes "
        "compute 8.6, 8.9 and 12.0 or newer. Use --provider tensorrt or cuda"
    )


def runs_tensorrt_rtx(device: Gpu) -> bool:
    """Whether TensorRT for RTX takes a GPU (the plugin's tensorrt_rtx_provider_options.h)."""
    major, minor = (int(part) for part in device.compute_capability.split("."))
    return (major, minor) in ((8, 6), (8, 9)) or major >= 12


def load_bundled_cudart(folder: Path) -> None:
    """Load the CUDA runtime that the plugin brings and loads nowhere; silent where the system has to provide it."""
    for path in sorted(folder.glob("libcudart.so.*")):
        with contextlib.suppress(OSError):
            ctypes.CDLL(str(path))
