"""The three NVIDIA providers: their options, how they are opened, and what their engines depend on."""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from glomedge.engine.backends import nvidia_options, onnxrt
from glomedge.engine.backends.gpu_memory import SLOTS, DeviceRunner
from glomedge.engine.backends.nvidia_machine import RTX_MODULE, TENSORRT_LIBRARY, load_bundled_cudart
from glomedge.engine.cache import EngineKey, Entry, WorkingCopy, cache_notes, problem, secure_root
from glomedge.engine.runner import Opened, OutOfMemoryError, SessionRequest, no_cache
from glomedge.engine.timing_cache import TimingCache, for_building
from glomedge.errors import GlomedgeError, OutputError, ProviderUnavailableError, UsageError
from glomedge.model.spec import ModelSpec
from glomedge.system import libraries, tf32
from glomedge.system.gpu import find_gpus, session_gpu, session_pci_bus_id
from glomedge.system.telemetry import import_onnxruntime

CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"
TENSORRT_RTX = "NvTensorRTRTXExecutionProvider"
_BUILDING_ONLY = "trt_timing_cache_enable"


def batch_sizes(request: SessionRequest) -> tuple[int, ...]:
    """The usual batch, which every batch is padded to, and its halves for where memory runs out.

    One size, because the CUDA provider keeps what it found out about a convolution for the last shape alone: a change
    of the batch would start the search for kernels anew, for all 54 of them.
    """
    sizes = [request.profile.opt]
    while sizes[-1] // 2 >= request.profile.min:
        sizes.append(sizes[-1] // 2)
    return tuple(reversed(sizes))


def refused_by_cuda(spec: ModelSpec) -> str | None:
    """CUDA's provider has no integer convolutions: a quantised graph would run as floats, slower than fp16."""
    if spec.precision == "int8":
        return "it has no integer convolutions; for this GPU export with --precision fp16"
    return None


def refused_by_parser(spec: ModelSpec) -> str | None:
    """NVIDIA's parser refuses the uint8 activations of a file quantised for another target."""
    if spec.precision == "int8" and spec.target != "tensorrt":
        return f"this int8 file is quantised for target '{spec.target}'; export with --target tensorrt"
    return None


def unsuited_tensorrt(request: SessionRequest) -> str | None:
    """``auto`` does not start a build that takes minutes, except for a file exported for TensorRT."""
    if request.file.spec.target == "tensorrt":
        return None
    key = engine_key(request, "tensorrt", tensorrt_version(), nvidia_options.tensorrt_options(request, ""))
    try:
        root = secure_root(request.cache_dir)
    except (OutputError, UsageError) as error:
        return f"its engine would be built anew in every run: {error}"
    if problem(root / key.digest(), key):
        return "no engine is built for this model and these batch sizes yet; glomedge warm --provider tensorrt does it"
    return None


def engine_key(request: SessionRequest, provider: str, runtime: str, options: Mapping[str, str]) -> EngineKey:
    """The cache key of an engine for the GPU that sessions run on (``device_id`` 0 of the options)."""
    tf32.forbid()  # the key says whether it is
    ort = import_onnxruntime()

    device = session_gpu()
    profile = request.profile
    return EngineKey(
        provider=provider,
        file_sha256=request.file.sha256,
        shapes=f"{profile.min}-{profile.opt}-{profile.max}",
        precision=request.file.spec.precision,
        onnxruntime=ort.__version__,
        runtime=runtime,
        driver=find_gpus().driver,
        device=f"{device.name} compute {device.compute_capability}" if device else "none",
        options=json.dumps(_lasting(provider, options), sort_keys=True),
        file_name=request.file.path.name,
    )


def _lasting(provider: str, options: Mapping[str, str]) -> dict[str, str]:
    """What decides the answers: the options and what is set beside them. Paths differ between building and use."""
    chosen = {name: value for name, value in options.items() if not name.endswith("_path") and name != _BUILDING_ONLY}
    chosen["disabled_optimizers"] = ",".join(nvidia_options.disabled_optimizers(provider))
    chosen[tf32.VARIABLE] = tf32.setting()
    return chosen


def tensorrt_version() -> str:
    """Version of the TensorRT library that this onnxruntime links against, such as ``10.13.3``; empty if absent."""
    name = _wanted_tensorrt()
    if name is None:
        return ""
    tf32.forbid()
    try:
        number = int(ctypes.CDLL(name).getInferLibVersion())
    except (OSError, AttributeError):
        return ""
    # 10.13.3 is 101303 from TensorRT 10 on (NvInferVersion.h).
    return f"{number // 10_000}.{number // 100 % 100}.{number % 100}"


def _wanted_tensorrt() -> str | None:
    """The name of the TensorRT library that this onnxruntime links against, such as ``libnvinfer.so.10``."""
    folder = libraries.module_folder("onnxruntime")
    path = folder / "capi" / TENSORRT_LIBRARY if folder else None
    if path is None or not path.is_file():
        return None
    return next((name for name in libraries.needed_libraries(path) if name.startswith("libnvinfer.so")), None)


def load_tensorrt() -> None:
    """Load the TensorRT that pip brought, which lies where the loader does not look.

    Nothing where the loader finds the one that is wanted (the system's), or pip brought another version or none. Its
    package loads all of it, the builder's resources too, which TensorRT itself looks for only while it builds.

    Raises:
        ProviderUnavailableError: the package is there and does not load.
    """
    tf32.forbid()
    name, brought = _wanted_tensorrt(), libraries.module_folder("tensorrt_libs")
    if name is None or brought is None or not (brought / name).is_file():
        return
    with contextlib.suppress(OSError):
        ctypes.CDLL(name)
        return
    try:
        importlib.import_module("tensorrt_libs")
    except (ImportError, OSError) as error:
        raise ProviderUnavailableError(
            f"tensorrt: the TensorRT that pip installed does not load ({onnxrt.first_line(error)}). Install it again, "
            "or use --provider cuda."
        ) from error


def open_cuda(request: SessionRequest) -> DeviceRunner:
    """A CUDA session with its tensors bound on the device."""
    return _open_builtin(CUDA, [(CUDA, nvidia_options.cuda_options(request)), (onnxrt.CPU, {})], request, {})


def open_tensorrt(request: SessionRequest) -> DeviceRunner:
    """A TensorRT session; builds the engine when the cache has none that can be used, which takes minutes."""
    load_tensorrt()
    root, version = secure_root(request.cache_dir), tensorrt_version()
    key = engine_key(request, "tensorrt", version, nvidia_options.tensorrt_options(request, ""))
    entry = Entry(root, key)
    # What is prepared opens from a cache that cannot be written to, as in a container's image.
    timings = None if entry.found else for_building(root, key)
    try:
        return _tensorrt_session(request, version, entry, timings)
    except GlomedgeError as error:
        if not _cache_may_be_at_fault(error, entry.found or (timings is not None and timings.found)):
            raise
        again = Entry(root, key, _why(error))
        return _tensorrt_session(request, version, again, for_building(root, key, empty=True))


def _tensorrt_session(request: SessionRequest, version: str, entry: Entry, timings: TimingCache | None) -> DeviceRunner:
    with entry, timings or contextlib.nullcontext():
        # Nodes that TensorRT does not take go to CUDA rather than to the CPU.
        chain = [
            (
                TENSORRT,
                nvidia_options.tensorrt_options(request, str(entry.folder), str(timings.folder) if timings else ""),
            ),
            (CUDA, nvidia_options.cuda_options(request) | {"enable_cuda_graph": "0"}),
            (onnxrt.CPU, {}),
        ]

        def settle() -> tuple[str, ...]:
            entry.commit()
            if timings is not None:
                timings.keep()
            return cache_notes(entry)

        return _open_builtin(TENSORRT, chain, request, {"tensorrt": version}, settle, entry.drop)


def _cache_may_be_at_fault(error: GlomedgeError, cached: bool) -> bool:
    """Whether another try without what the cache held may open the session."""
    return cached and not isinstance(error, OutOfMemoryError)


def _why(error: GlomedgeError) -> str:
    return f"the provider could not use it ({onnxrt.first_line(error)})"


def open_tensorrt_rtx(request: SessionRequest) -> onnxrt.OrtRunner:
    """A session on NVIDIA's TensorRT-RTX plugin provider, registered with onnxruntime on first use.

    Raises:
        ProviderUnavailableError: the plugin offers no device here (it supports RTX GPUs from Ampere on).
    """
    ort = import_onnxruntime()

    tf32.forbid()
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
    root, version = secure_root(request.cache_dir), str(module.__version__)
    key = engine_key(request, "tensorrt-rtx", version, nvidia_options.tensorrt_rtx_options(request, ""))
    device, copy = _of_cuda(devices), WorkingCopy(root, key)
    try:
        return _rtx_session(request, version, device, copy)
    except GlomedgeError as error:
        if not _cache_may_be_at_fault(error, copy.entry.found):
            raise
        return _rtx_session(request, version, device, WorkingCopy(root, key, _why(error)))


def _rtx_session(
    request: SessionRequest, version: str, device: tuple[Any, tuple[str, ...]], copy: WorkingCopy
) -> onnxrt.OrtRunner:
    try:
        chosen = nvidia_options.tensorrt_rtx_options(request, str(copy.folder))
        options = onnxrt.session_options(request, nvidia_options.disabled_optimizers(TENSORRT_RTX))
        options.add_provider_for_devices([device[0]], chosen)
        session = onnxrt.create_session(request, None, options)
        onnxrt.verify_provider(session, TENSORRT_RTX)
        notes = (*cache_notes(copy.entry), *device[1])
        opened = _opened(session, TENSORRT_RTX, request, chosen, {"tensorrt-rtx-ep": version}, notes)
    except BaseException:
        copy.discard()
        raise
    # The plugin writes its cache when the session is destroyed (IExecutionContextDeleter in nv_execution_provider.h).
    return onnxrt.OrtRunner(session, opened, batch_sizes(request), on_closed=copy.keep, forget=copy.drop)


def _of_cuda(devices: list[Any]) -> tuple[Any, tuple[str, ...]]:
    """The plugin's device that CUDA counts as 0, which the engine's key names; the plugin lists them in another order.

    Both know a GPU by its place on the PCI bus. Where either does not say, the plugin's first is taken, and a note for
    the user says so.
    """
    wanted = session_pci_bus_id()
    same = [device for device in devices if wanted and device.device.metadata.get("pci_bus_id", "").lower() == wanted]
    if same or len(devices) == 1:
        return (same or devices)[0], ()
    return devices[0], (
        f"which of the plugin's {len(devices)} GPUs is CUDA's first is not known: its own first was taken; "
        "CUDA_VISIBLE_DEVICES leaves one alone",
    )


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
        options=_lasting(ort_name, options),
        placement=counts,
        strays=strays,
        notes=(*notes, *tf32.note(request.file.spec.precision)),
    )


def _open_builtin(
    ort_name: str,
    chain: list[tuple[str, dict[str, str]]],
    request: SessionRequest,
    versions: Mapping[str, str],
    settle: Callable[[], tuple[str, ...]] = tuple,
    forget: Callable[[], bool] = no_cache,
) -> DeviceRunner:
    """A session on a provider that is built into onnxruntime.

    ``settle`` is called once the session is open, to keep what was built; it gives the notes for the user.
    """
    libraries.preload_cuda()
    disabled = nvidia_options.disabled_optimizers(ort_name)
    session = onnxrt.create_session(request, chain, onnxrt.session_options(request, disabled))
    onnxrt.verify_provider(session, ort_name)
    opened = _opened(session, ort_name, request, chain[0][1], versions, settle())
    slots = 1 if request.fixed_batch else SLOTS
    return DeviceRunner(session, opened, batch_sizes(request), forget=forget, slots=slots)
