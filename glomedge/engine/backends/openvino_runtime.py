"""OpenVINO's own runtime behind the Engine.

onnxruntime's OpenVINO plugin offers only Intel devices; the ``openvino`` package runs the same file on any x86-64 or
arm64 CPU, in bfloat16 where the processor supports it.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import queue
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.about import install_command
from glomedge.engine.backends.onnxrt import OUTPUT_NAMES, first_line, is_out_of_memory
from glomedge.engine.cache import EngineKey, Entry, cache_notes, secure_root
from glomedge.engine.runner import Opened, OutOfMemoryError, RawOutput, SessionRequest, TensorInfo, no_cache
from glomedge.errors import EngineError, OutputError, ProviderUnavailableError, UsageError
from glomedge.system.cpu import cpu_features, cpu_name, has_native_bf16
from glomedge.system.telemetry import import_openvino

_INSTALL = "glomedge[openvino]"
_DTYPES = {"u8": "uint8", "f32": "float32", "f16": "float16", "i8": "int8"}


def unusable() -> str | None:
    """Why OpenVINO cannot run here, None when nothing speaks against it."""
    cure = install_command(_INSTALL)
    if importlib.util.find_spec("openvino") is None:
        return f"openvino: the package 'openvino' is not installed. Install it with: {cure}"
    try:
        openvino = import_openvino()
    except (ImportError, OSError) as error:
        return f"openvino: its library does not load ({first_line(error)}). Reinstall it: {cure}"
    if "CPU" not in openvino.Core().available_devices:
        return f"openvino: it offers no CPU device on this machine. Use --provider cpu, or reinstall it: {cure}"
    return None


def options(request: SessionRequest) -> dict[str, str]:
    """Properties of the compiled model.

    Several callers at once: throughput hint, one stream each. One caller: latency hint, all threads in one stream.
    The precision is set explicitly: by default OpenVINO uses bfloat16 wherever the processor has it, and one file would
    give different answers on two machines.
    """
    return {
        "PERFORMANCE_HINT": "LATENCY" if request.concurrency == 1 else "THROUGHPUT",
        "NUM_STREAMS": str(request.concurrency),
        "INFERENCE_NUM_THREADS": str(request.threads),
        "INFERENCE_PRECISION_HINT": "bf16" if request.bf16 else "f32",
    }


def open_runner(request: SessionRequest) -> OpenVinoRunner:
    """Compile the model for the CPU.

    Raises:
        ProviderUnavailableError: OpenVINO cannot read the graph or refuses an option; bf16 on a processor without it.
    """
    if request.bf16 and not has_native_bf16():
        raise ProviderUnavailableError(
            "openvino: this processor has no bfloat16 instructions, so bf16 would be slower than fp32. Omit bf16."
        )
    chosen = options(request)
    try:
        with Entry(secure_root(request.cache_dir), _engine_key(request, chosen)) as entry:
            compiled = _compile(request, chosen | {"CACHE_DIR": str(entry.folder)})
            runner = OpenVinoRunner(compiled, request, chosen, cache_notes(entry), entry.drop)
            entry.commit()
        return runner
    except (OutputError, UsageError) as error:
        if request.cache_dir is not None:
            raise  # a folder that the user named must be fit to use
        # The cache only saves time: without a home, or with a full disk, the model runs all the same.
        note = f"compiled model not cached: {error}"
        return OpenVinoRunner(_compile(request, chosen), request, chosen, (note,), no_cache)


def _compile(request: SessionRequest, properties: Mapping[str, str]) -> Any:
    openvino = import_openvino()
    core = openvino.Core()
    device = dict(properties)
    if "CACHE_DIR" in device:
        core.set_property({"CACHE_DIR": device.pop("CACHE_DIR")})
    try:
        # By path: with a cached blob the ONNX file need not be parsed at all.
        return core.compile_model(str(request.file.path), "CPU", device)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(f"Not enough memory to load {request.file.path}. Free some.") from error
        raise ProviderUnavailableError(
            f"openvino could not load {request.file.path}: {first_line(error)}. Use --provider cpu."
        ) from error


def _engine_key(request: SessionRequest, chosen: Mapping[str, str]) -> EngineKey:
    return EngineKey(
        provider="openvino",
        file_sha256=request.file.sha256,
        shapes="any",
        precision="bf16" if request.bf16 else request.file.spec.precision,
        onnxruntime="",
        runtime=importlib.metadata.version("openvino"),
        driver="",
        device=f"{cpu_name()} {' '.join(cpu_features())}",
        options=json.dumps(chosen, sort_keys=True),
    )


class OpenVinoRunner:
    """A compiled model and one infer request for each calling thread."""

    batch_sizes: tuple[int, ...] = ()

    def __init__(
        self,
        compiled: Any,
        request: SessionRequest,
        chosen: dict[str, str],
        notes: tuple[str, ...],
        forget: Callable[[], bool],
    ) -> None:
        self.inputs = tuple(_tensor_info(port, ("images",)) for port in compiled.inputs)
        self.outputs = tuple(_tensor_info(port, OUTPUT_NAMES) for port in compiled.outputs)
        self.opened = Opened(
            precision="bf16" if request.bf16 else request.file.spec.precision,
            versions={"openvino": importlib.metadata.version("openvino")},
            options=chosen,
            notes=notes,
        )
        self._requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        for _ in range(request.concurrency):
            self._requests.put(compiled.create_infer_request())
        self._compiled = compiled
        self._forget = forget
        found = {output.name for output in self.outputs}
        self._wanted = [name for name in OUTPUT_NAMES if name in found]

    def run(self, images_nhwc: npt.NDArray[np.uint8]) -> RawOutput:
        """One synchronous request; a caller beyond ``concurrency`` waits for a free one."""
        request = self._requests.get()
        try:
            request.infer({"images": images_nhwc}, share_inputs=True)
            # Copied, because the request's own buffers are written again by its next run.
            probability, *maps = (np.array(request.get_tensor(name).data, np.float32) for name in self._wanted)
            return probability, maps[0] if maps else None
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise OutOfMemoryError(
                    f"Out of memory at a batch of {len(images_nhwc)}: {first_line(error)}."
                ) from error
            raise EngineError(f"OpenVINO failed: {first_line(error)}. Run: glomedge doctor") from error
        finally:
            self._requests.put(request)

    def forget(self) -> bool:
        """See ``Runner``."""
        return self._forget()

    def close(self) -> None:
        """Drop the compiled model and its requests."""
        self._compiled = None
        while not self._requests.empty():
            self._requests.get_nowait()


def _tensor_info(port: Any, wanted: tuple[str, ...]) -> TensorInfo:
    # Compiling gives a port the names of the tensors that were folded into it as well.
    names = port.get_names()
    name = next((name for name in wanted if name in names), min(names, default=""))
    dtype = port.get_element_type().get_type_name()
    shape = tuple(side.get_length() if side.is_static else None for side in port.get_partial_shape())
    return TensorInfo(name, _DTYPES.get(dtype, dtype), shape)
