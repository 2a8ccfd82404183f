"""The factory of onnxruntime sessions, which never run on another provider than requested.

By default ``InferenceSession(...)`` skips a provider that cannot be loaded, with a warning, and repeats a run that
fails on a GPU on the CPU. Here both fallbacks are disabled, and the providers that the session reports are compared
with the request.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.engine.cache import EngineKey, Entry, secure_root
from glomedge.engine.runner import Opened, OutOfMemoryError, RawOutput, SessionRequest, TensorInfo, no_cache
from glomedge.errors import EngineError, GlomedgeError, ModelError, ProviderUnavailableError
from glomedge.system.cpu import cpu_features, cpu_name
from glomedge.system.telemetry import import_onnxruntime

CPU = "CPUExecutionProvider"
OUTPUT_NAMES = ("probability", "activation")
"""Of every file; without the second where the network has no exact map (``ModelSpec.map``)."""

# Before 1.32 this pass merges the zero padding ahead of ResNet50V2's max-pool into the pool's own -inf padding and
# moves probabilities by up to 7.7e-3. Files that glomedge exports hold nothing it could merge; other exporters' may.
DISABLED_OPTIMIZERS: tuple[str, ...] = ("Pad_Fusion",)

WORTH_COPYING_BYTES = 32_000_000

_DTYPES = {"tensor(uint8)": "uint8", "tensor(float)": "float32", "tensor(float16)": "float16", "tensor(int8)": "int8"}
# Lower case; tests/engine/test_engine_memory.py has the message that each comes from.
_OUT_OF_MEMORY = (
    "out of memory", "out_of_memory", "outofmemory", "failed to allocate", "bad_alloc", "bad allocation",
    "alloc_failed", "allocation_fail", "is smaller than requested bytes", "failed to find a free memory block",
    "could not build execution context for fused node", "ep failed to create context",
)  # fmt: skip
# Lower case: the CUDA provider loads cuDNN at its first convolution, and says this where it is not there
# (onnxruntime#29252).
_NO_CUDNN = "cudnn is unavailable or disabled"
# Lower case: name and text of the CUDA runtime's error 209.
_NO_KERNELS = ("cudaerrornokernelimagefordevice", "no kernel image is available for execution")


_DISABLED = "optimization.disable_specified_optimizers"
"""onnxruntime_session_options_config_keys.h: names of passes, with semicolons between them."""


_SHORT_SPIN_US = 5
"""An onnxruntime that does not know this setting spins for longer."""


def session_options(request: SessionRequest, disabled: tuple[str, ...] = DISABLED_OPTIMIZERS) -> Any:
    """onnxruntime's SessionOptions for a request.

    ``concurrency`` threads share ``threads`` CPUs, so each run gets its share. Spinning workers take the CPU from
    the other callers and from the decoders, so they may spin only when a run has the machine to itself, or for as long
    as it takes the other threads of a run to get there; and never after it, when they would burn several milliseconds
    waiting for a call that a server may not have for seconds.

    Args:
        request: what to load.
        disabled: passes of onnxruntime's optimiser that must not run.
    """
    ort = import_onnxruntime()

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = max(1, request.threads // request.concurrency)
    options.inter_op_num_threads = 1
    options.log_severity_level = 3  # errors only: warnings about fallback are raised as errors instead
    spinning = "1" if request.concurrency == 1 else "0"
    options.add_session_config_entry("session.intra_op.allow_spinning", spinning)
    if request.shares_cpus:
        options.add_session_config_entry("session.intra_op.spin_duration_us", str(_SHORT_SPIN_US))
    options.add_session_config_entry("session.force_spinning_stop", "1")
    options.add_session_config_entry("session.inter_op.allow_spinning", "0")
    options.add_session_config_entry(_DISABLED, ";".join(disabled))
    if request.record_placement:
        options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    return options


def describe_options(options: Any) -> dict[str, str]:
    """The options that decide speed, in words for the record of a run."""
    return {
        "intra_op_num_threads": str(options.intra_op_num_threads),
        "allow_spinning": options.get_session_config_entry("session.intra_op.allow_spinning"),
        "graph_optimization_level": "all",
        "disabled_optimizers": options.get_session_config_entry(_DISABLED).replace(";", ","),
    }


def create_session(
    request: SessionRequest, providers: list[tuple[str, dict[str, str]]] | None, options: Any, model: str | None = None
) -> Any:
    """An InferenceSession that raises instead of falling back.

    Args:
        request: what to load.
        providers: names with their options, in order of preference; None when ``options`` already holds devices.
        options: from ``session_options``.
        model: another path than the model's own (an optimised copy).

    Raises:
        ModelError: onnxruntime cannot read the graph.
        ProviderUnavailableError: a provider refused its options or its device.
    """
    ort = import_onnxruntime()
    errors = ort.capi.onnxruntime_pybind11_state

    path = model or str(request.file.path)
    extra = {} if providers is None else {"providers": providers}
    try:
        session = ort.InferenceSession(path, options, enable_fallback=0, **extra)
    except (errors.InvalidProtobuf, errors.InvalidGraph, errors.NoSuchFile, errors.NotImplemented) as error:
        if (missing := lacks_cudnn(error)) is not None:  # NOT_IMPLEMENTED is its code
            raise missing from error
        raise ModelError(
            f"onnxruntime {ort.__version__} cannot load {path}: {first_line(error)}. "
            "Upgrade onnxruntime, or export the model again."
        ) from error
    except (
        errors.EPFail,
        errors.Fail,
        errors.RuntimeException,
        errors.InvalidArgument,
        RuntimeError,
        ValueError,
    ) as error:
        if is_out_of_memory(error):
            raise OutOfMemoryError(
                f"There is not enough memory to load {path}: {first_line(error)}. Free memory, or use a smaller "
                "--max-batch or a smaller model."
            ) from error
        if (missing := lacks_cudnn(error)) is not None:  # so in onnxruntime 1.24
            raise missing from error
        wanted = providers[0][0] if providers else "the device"
        cure = f"Run: glomedge doctor --model {path}"
        if request.fixed_batch and "graph capture" in str(error):
            cure = "Omit --fixed-batch."  # parts of the graph would run on another provider
        raise ProviderUnavailableError(f"{wanted} could not open {path}: {first_line(error)}. {cure}") from error
    session.disable_fallback()
    return session


def first_line(error: BaseException) -> str:
    """The informative first line of onnxruntime's error, without its trailing full stop."""
    text = str(error).strip()
    return (text.splitlines()[0] if text else type(error).__name__).rstrip(". ")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a runtime's error means that memory ran out (onnxruntime has no error type for it)."""
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower()
    return any(words in text for words in _OUT_OF_MEMORY)


def tensor_info(argument: Any) -> TensorInfo:
    """onnxruntime's NodeArg in the contract's terms: symbolic and unknown sides become None."""
    shape = tuple(side if isinstance(side, int) and side > 0 else None for side in argument.shape)
    return TensorInfo(argument.name, _DTYPES.get(argument.type, argument.type), shape)


def placement(session: Any, wanted: str) -> tuple[dict[str, int], tuple[str, ...]]:
    """Where the session put every node: counts by provider, and ``name (type)`` of those not on ``wanted``."""
    counts: Counter[str] = Counter()
    strays: list[str] = []
    for subgraph in session.get_provider_graph_assignment_info():
        nodes = subgraph.get_nodes()
        counts[subgraph.ep_name] += len(nodes)
        if subgraph.ep_name != wanted:
            strays += [f"{node.name or 'unnamed'} ({node.op_type})" for node in nodes]
    return dict(counts), tuple(strays)


class OrtRunner:
    """An onnxruntime session fed from host memory: the CPU, and any provider that copies the data itself.

    ``on_closed`` is called after the session has closed, for providers that write their cache then; ``forget`` removes
    the engine from the cache.
    """

    batch_sizes: tuple[int, ...]

    def __init__(
        self,
        session: Any,
        opened: Opened,
        batch_sizes: tuple[int, ...] = (),
        on_closed: Callable[[], object] = lambda: None,
        forget: Callable[[], bool] = no_cache,
    ) -> None:
        self.inputs = tuple(tensor_info(argument) for argument in session.get_inputs())
        self.outputs = tuple(tensor_info(argument) for argument in session.get_outputs())
        self.opened = opened
        self.batch_sizes = batch_sizes
        self._session = session
        self._on_closed = on_closed
        self._forget = forget
        found = {output.name for output in self.outputs}
        self._wanted = [name for name in OUTPUT_NAMES if name in found]

    def run(self, images_nhwc: npt.NDArray[np.uint8]) -> RawOutput:
        """One run from host memory to host memory."""
        try:
            probability, *maps = self._session.run(self._wanted, {"images": images_nhwc})
        except Exception as error:
            raise engine_error(error, len(images_nhwc)) from error
        return probability, maps[0] if maps else None

    def forget(self) -> bool:
        """See ``Runner``."""
        return self._forget()

    def close(self) -> None:
        """Drop the session; onnxruntime frees its memory with it."""
        self._session = None
        self._on_closed()


def lacks_cudnn(error: BaseException) -> ProviderUnavailableError | None:
    """The error for the user where the CUDA provider did not find cuDNN; None for any other failure."""
    if _NO_CUDNN not in str(error).lower():
        return None
    return ProviderUnavailableError(
        f"cuda: onnxruntime did not find cuDNN ({first_line(error)}). Install it with: pip install "
        "'onnxruntime-gpu[cuda,cudnn]', or use --provider cpu. Nothing was computed elsewhere instead."
    )


def engine_error(error: BaseException, batch: int) -> GlomedgeError:
    """What a failed run becomes: out of memory (the Engine halves the batch), a missing library, or final."""
    if is_out_of_memory(error):
        return OutOfMemoryError(f"Out of memory at a batch of {batch}: {first_line(error)}.")
    if (missing := lacks_cudnn(error)) is not None:
        return missing
    if any(words in str(error).lower() for words in _NO_KERNELS):
        return ProviderUnavailableError(
            f"This onnxruntime has no kernels for this GPU ({first_line(error)}). glomedge doctor says for which it "
            "was built. Use --provider tensorrt, which brings its own, or --provider cpu. Nothing was computed "
            "elsewhere."
        )
    return EngineError(
        f"Inference failed ({first_line(error)}). The device may be lost or its driver reset: nothing was "
        "computed elsewhere instead. Run: glomedge doctor, then start again (infer continues with --resume)."
    )


def open_session(
    ort_name: str,
    request: SessionRequest,
    provider_options: Mapping[str, str],
    *,
    batch_sizes: tuple[int, ...] = (),
    notes: tuple[str, ...] = (),
) -> OrtRunner:
    """Open a built-in onnxruntime provider strictly.

    Raises:
        ProviderUnavailableError: the session runs on something other than ``ort_name``.
    """
    options = session_options(request)
    # The CPU takes the nodes that a provider does not; strict placement detects and forbids that.
    chain = [(ort_name, dict(provider_options))]
    if ort_name != CPU:
        chain.append((CPU, {}))
    session = create_session(request, chain, options)
    opened = _opened(session, ort_name, request, describe_options(options) | dict(provider_options), notes)
    return OrtRunner(session, opened, batch_sizes)


def _opened(
    session: Any, ort_name: str, request: SessionRequest, options: Mapping[str, str], notes: tuple[str, ...]
) -> Opened:
    """What an open session reports, once it is known to run on ``ort_name``."""
    ort = import_onnxruntime()

    verify_provider(session, ort_name)
    counts, strays = placement(session, ort_name) if request.record_placement else ({}, ())
    return Opened(
        precision=request.file.spec.precision,
        versions={"onnxruntime": ort.__version__},
        options=options,
        placement=counts,
        strays=strays,
        notes=notes,
    )


def open_cpu(request: SessionRequest) -> OrtRunner:
    """Open the CPU; a large graph from its optimised copy in the cache.

    For the 94 MB of an fp32 file that saves a fifth of the processor time to the first answer and 150 MB of peak
    memory; the 24 MB of an int8 file open as fast as their copy, so they are not copied.
    """
    if request.file.size_bytes < WORTH_COPYING_BYTES:
        return open_session(CPU, request, {})
    try:
        return _open_copy(request, secure_root(request.cache_dir))
    except GlomedgeError as error:
        if request.cache_dir is not None:
            secure_root(request.cache_dir)  # a folder that the user named must be usable
        # The copy only saves time: without a writable home, or with a full disk, the model still runs.
        return open_session(CPU, request, {}, notes=(f"optimised graph not cached: {error}",))


def _open_copy(request: SessionRequest, root: Path) -> OrtRunner:
    """The optimised copy, or the file itself while making the copy."""
    ort = import_onnxruntime()

    options = session_options(request)
    with Entry(root, _graph_key(request)) as entry:
        copy = entry.folder / "optimised.onnx"
        if not entry.built:
            options.optimized_model_filepath = str(copy)
            session = create_session(request, [(CPU, {})], options)
        else:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
            try:
                session = create_session(request, [(CPU, {})], options, model=str(copy))
            except GlomedgeError:
                entry.drop()
                raise
        note = "optimised graph taken from the cache" if entry.built else "optimised graph cached"
        if entry.reason:
            note += f" again: {entry.reason}"
        entry.commit()
    opened = _opened(session, CPU, request, describe_options(options), (note,))
    return OrtRunner(session, opened, forget=entry.drop)


def _graph_key(request: SessionRequest) -> EngineKey:
    ort = import_onnxruntime()

    return EngineKey(
        provider="cpu",
        file_sha256=request.file.sha256,
        shapes="any",
        precision=request.file.spec.precision,
        onnxruntime=ort.__version__,
        runtime="",
        driver="",
        # The layout of the weights is chosen for the processor's vector width.
        device=f"{cpu_name()} {' '.join(cpu_features())}",
        options=",".join(DISABLED_OPTIMIZERS),
    )


def verify_provider(session: Any, ort_name: str) -> None:
    """Raise ProviderUnavailableError unless the session's first provider is the one asked for."""
    running = session.get_providers()
    if not running or running[0] != ort_name:
        raise ProviderUnavailableError(
            f"{ort_name} was asked for but onnxruntime would run on {', '.join(running) or 'nothing'}. "
            "Run: glomedge doctor, or add --allow-fallback to accept another provider."
        )


LOCK = threading.Lock()
"""Held while a library is registered or preloaded: both change the whole process."""
