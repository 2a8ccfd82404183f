"""The three NVIDIA providers: their options, how they are opened, and what their engines depend on."""

from __future__ import annotations

import ctypes
import importlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from glomedge.engine.backends import onnxrt
from glomedge.engine.backends.gpu_memory import DeviceRunner
from glomedge.engine.backends.nvidia_machine import RTX_MODULE, TENSORRT_LIBRARY, load_bundled_cudart
from glomedge.engine.cache import EngineKey, Entry, WorkingCopy, cache_notes, problem, secure_root
from glomedge.engine.runner import Opened, SessionRequest, no_cache
from glomedge.errors import OutputError, ProviderUnavailableError, UsageError
from glomedge.model.spec import ModelSpec
from glomedge.system import libraries
from glomedge.system.gpu import find_gpus, session_gpu
from glomedge.system.telemetry import import_onnxruntime

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
TENSORRT_RTX = "NvTensorRTRTXExecutionProvider"


def cuda_options(request: SessionRequest) -> dict[str, str]:
    """Options of the CUDA provider.

    Batches are padded to a few sizes, so the exhaustive search for convolution kernels runs once for each. TF32
    is off: it keeps 10 bits of mantissa, and an fp32 file would no longer agree with the CPU to 1e-4. Tensor cores
    work on NHWC, which pays where the weights are half precision.
    """
    return {
        "device_id": "0",
        "cudnn_conv_algo_search": "EXHAUSTIVE",
        "cudnn_conv_use_max_workspace": "1",
        "arena_extend_strategy": "kSameAsRequested",
        "use_tf32": "0",
        "prefer_nhwc": "1" if request.file.spec.precision == "fp16" else "0",
        "enable_cuda_graph": "1" if request.fixed_batch else "0",
    }


def profile_shapes(request: SessionRequest) -> tuple[str, str, str]:
    """Smallest, usual and largest input, as TensorRT's options write shapes: ``images:1x224x224x3``."""
    profile, side_px = request.profile, _spec(request).input.side_px

    def shape(batch: int) -> str:
        return f"images:{batch}x{side_px}x{side_px}x3"

    return shape(profile.min), shape(profile.opt), shape(profile.max)


def tensorrt_options(request: SessionRequest, folder: str) -> dict[str, str]:
    """Options of onnxruntime's TensorRT provider; ``folder`` holds this one engine and its timing cache.

    Precision follows the file: half precision only for a file that holds it, integers only for a quantised one.
    """
    smallest, usual, largest = profile_shapes(request)
    precision = request.file.spec.precision
    return {
        "device_id": "0",
        "trt_profile_min_shapes": smallest,
        "trt_profile_opt_shapes": usual,
        "trt_profile_max_shapes": largest,
        "trt_fp16_enable": "1" if _holds_float16(request.file.spec) else "0",
        "trt_int8_enable": "1" if precision == "int8" else "0",
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": folder,
        "trt_engine_cache_prefix": "glomedge",
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": folder,
        "trt_builder_optimization_level": "3",
        "trt_cuda_graph_enable": "1" if request.fixed_batch else "0",
    }


def _holds_float16(spec: ModelSpec) -> bool:
    """Whether float16 tensors are in the file: fp16, and int8 whose scales are float16, which needs opset 19.

    An int8 file of an older opset stays float32 between its convolutions because float16 would overflow there.
    """
    return spec.precision == "fp16" or (spec.precision == "int8" and spec.target == "tensorrt" and spec.opset >= 19)


def tensorrt_rtx_options(request: SessionRequest, folder: str) -> dict[str, str]:
    """Options of NVIDIA's TensorRT-RTX plugin provider (names: its tensorrt_rtx_provider_options.h)."""
    smallest, usual, largest = profile_shapes(request)
    return {
        "nv_profile_min_shapes": smallest,
        "nv_profile_opt_shapes": usual,
        "nv_profile_max_shapes": largest,
        "nv_runtime_cache_path": folder,
        "enable_cuda_graph": "1" if request.fixed_batch else "0",
    }


def batch_sizes(request: SessionRequest) -> tuple[int, ...]:
    """The sizes batches are padded to: each new shape would cost a kernel search or a new context."""
    profile = request.profile
    return tuple(sorted({profile.min, profile.opt, profile.max}))


def unsuited_cuda(request: SessionRequest) -> str | None:
    """CUDA's provider has no integer convolutions: a quantised graph would run as floats, slower than fp16."""
    if _spec(request).precision == "int8":
        return "it has no integer convolutions; for this GPU export with --precision fp16"
    return None


def unsuited_parser(request: SessionRequest) -> str | None:
    """NVIDIA's parser refuses the uint8 activations of a file quantised for another target."""
    spec = _spec(request)
    if spec.precision == "int8" and spec.target != "tensorrt":
        return f"this int8 file is quantised for target '{spec.target}'; export with --target tensorrt"
    return None


def unsuited_tensorrt(request: SessionRequest) -> str | None:
    """``auto`` does not start a build that takes minutes, except for a file exported for TensorRT."""
    reason = unsuited_parser(request)
    if reason is not None or _spec(request).target == "tensorrt":
        return reason
    key = engine_key(request, "tensorrt", tensorrt_version(), tensorrt_options(request, ""))
    try:
        root = secure_root(request.cache_dir)
    except (OutputError, UsageError) as error:
        return f"its engine would be built anew in every run: {error}"
    if problem(root / key.digest(), key):
        return "no engine is built for this model and these batch sizes yet; glomedge warm --provider tensorrt does it"
    return None


def _spec(request: SessionRequest) -> ModelSpec:
    return request.file.spec


def engine_key(request: SessionRequest, provider: str, runtime: str, options: Mapping[str, str]) -> EngineKey:
    """The cache key of an engine for the GPU that sessions run on (``device_id`` 0 of the options)."""
    ort = import_onnxruntime()

    device = session_gpu()
    profile = request.profile
    # Paths differ between building and use and say nothing about the engine.
    stable = {name: value for name, value in options.items() if not name.endswith("_path")}
    return EngineKey(
        provider=provider,
        file_sha256=request.file.sha256,
        shapes=f"{profile.min}-{profile.opt}-{profile.max}",
        precision=request.file.spec.precision,
        onnxruntime=ort.__version__,
        runtime=runtime,
        driver=find_gpus().driver,
        device=f"{device.name} compute {device.compute_capability}" if device else "none",
        options=json.dumps(stable, sort_keys=True),
    )


def tensorrt_version() -> str:
    """Version of the TensorRT library that this onnxruntime links against, such as ``10.13.3``; empty if absent."""
    folder = libraries.module_folder("onnxruntime")
    path = folder / "capi" / TENSORRT_LIBRARY if folder else None
    if path is None or not path.is_file():
        return ""
    name = next((n for n in libraries.needed_libraries(path) if n.startswith("libnvinfer.so")), None)
    if name is None:
        return ""
    try:
        number = int(ctypes.CDLL(name).getInferLibVersion())
    except (OSError, AttributeError):
        return ""
    # 10.13.3 is 101303 from TensorRT 10 on (NvInferVersion.h).
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"


def open_cuda(request: SessionRequest) -> DeviceRunner:
    """A CUDA session with its tensors bound on the device."""
    return _open_builtin(CUDA, [(CUDA, cuda_options(request)), (onnxrt.CPU, {})], request, {}, ())


def open_tensorrt(request: SessionRequest) -> DeviceRunner:
    """A TensorRT session; builds the engine when the cache has no valid one, which takes minutes."""
    version = tensorrt_version()
    key = engine_key(request, "tensorrt", version, tensorrt_options(request, ""))
    with Entry(secure_root(request.cache_dir), key) as entry:
        # Nodes that TensorRT does not take go to CUDA rather than to the CPU.
        chain = [
            (TENSORRT, tensorrt_options(request, str(entry.folder))),
            (CUDA, cuda_options(request) | {"enable_cuda_graph": "0"}),
            (onnxrt.CPU, {}),
        ]
        runner = _open_builtin(TENSORRT, chain, request, {"tensorrt": version}, cache_notes(entry), entry.drop)
        entry.commit()
    return runner


def open_tensorrt_rtx(request: SessionRequest) -> onnxrt.OrtRunner:
    """A session on NVIDIA's TensorRT-RTX plugin provider, registered with onnxruntime on first use.

    Raises:
        ProviderUnavailableError: the plugin offers no device here (it supports RTX GPUs from Ampere on).
    """
    ort = import_onnxruntime()

    module = importlib.import_module(RTX_MODULE)
    load_bundled_cudart(Path(module.get_library_path()).parent)
    with onnxrt.LOCK:
        if not _rtx_devices():
            ort.register_execution_provider_library(TENSORRT_RTX, module.get_library_path())
        devices = _rtx_devices()
    if not devices:
        raise ProviderUnavailableError(
            "tensorrt-rtx: the plugin offers no device on this machine; it supports GeForce and RTX GPUs from Ampere "
            "on. Use --provider cuda or tensorrt."
        )
    version = str(module.__version__)
    key = engine_key(request, "tensorrt-rtx", version, tensorrt_rtx_options(request, ""))
    copy = WorkingCopy(secure_root(request.cache_dir), key)
    try:
        chosen = tensorrt_rtx_options(request, str(copy.folder))
        options = onnxrt.session_options(request)
        options.add_provider_for_devices(devices[:1], chosen)
        session = onnxrt.create_session(request, None, options)
        onnxrt.verify_provider(session, TENSORRT_RTX)
        notes = cache_notes(copy.entry)
        opened = _opened(session, TENSORRT_RTX, request, chosen, {"tensorrt-rtx-ep": version}, notes)
    except BaseException:
        copy.discard()
        raise
    # The plugin writes its cache when the session is destroyed (IExecutionContextDeleter in nv_execution_provider.h).
    return onnxrt.OrtRunner(session, opened, batch_sizes(request), on_closed=copy.keep, forget=copy.drop)


def _rtx_devices() -> list[Any]:
    ort = import_onnxruntime()

    return [device for device in ort.get_ep_devices() if device.ep_name == TENSORRT_RTX]


def _opened(
    session: Any,
    ort_name: str,
    request: SessionRequest,
    options: Mapping[str, str],
    versions: Mapping[str, str],
    notes: tuple[str, ...],
) -> Opened:
    ort = import_onnxruntime()

    counts, strays = onnxrt.placement(session, ort_name) if request.record_placement else ({}, ())
    return Opened(
        precision=request.file.spec.precision,
        versions={"onnxruntime": ort.__version__, "driver": find_gpus().driver} | dict(versions),
        options={name: value for name, value in options.items() if not name.endswith("_path")},
        placement=counts,
        strays=strays,
        notes=notes,
    )


def _open_builtin(
    ort_name: str,
    chain: list[tuple[str, dict[str, str]]],
    request: SessionRequest,
    versions: Mapping[str, str],
    notes: tuple[str, ...],
    forget: Callable[[], bool] = no_cache,
) -> DeviceRunner:
    libraries.preload_cuda()
    session = onnxrt.create_session(request, chain, onnxrt.session_options(request))
    onnxrt.verify_provider(session, ort_name)
    opened = _opened(session, ort_name, request, chain[0][1], versions, notes)
    return DeviceRunner(session, opened, batch_sizes(request), forget=forget)
