"""Check what will run on TensorRT with NVIDIA's own parser and builder, on a machine without a GPU.

What runs is not the file but the graph that onnxruntime makes of it (``handed_over``), so that is parsed and built.

``tensorrt-rtx`` brings the real libraries. Parsing and building need no GPU: the engine it gives is portable
between RTX GPUs (Ampere and newer) and is specialised when it is first loaded. Networks are strongly typed only:
the types in the file are the precision that runs.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import onnx

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.errors import GateError, MissingExtraError
from glomedge.files.writing import write_atomically
from glomedge.model.spec import BatchProfile, ModelSpec, Precision, Target
from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.graph.surgery import attribute, constants
from glomedge_export.proof.handed_over import handed_over


@dataclass(frozen=True)
class TensorRtCheck:
    """What parser and builder reported.

    Attributes:
        version: of tensorrt-rtx.
        onnxruntime: version of the one whose optimiser made the graph.
        nodes: of the graph that onnxruntime hands over.
        subgraphs: parts of it that run on TensorRT; 1 where nothing stands between them.
        nodes_elsewhere: nodes that would be left to CUDA or the CPU.
        strongly_typed: whether the types in the file are the precision that runs.
        unsupported: ``"<node> (<operator>): <why>"`` of each node that the parser refuses; empty when it takes all.
        layers: layers of the parsed network, before fusion.
        engine_bytes: size of the serialised engine; None if it was not built.
        device_memory_bytes: activation memory that the engine asks for at the profile's largest batch; None where
            this build of the library does not say so without a GPU.
        parse_seconds: parsing.
        build_seconds: building.
        messages: warnings of the library, unique, in order.
    """

    version: str
    onnxruntime: str
    nodes: int
    subgraphs: int
    nodes_elsewhere: int
    strongly_typed: bool
    unsupported: tuple[str, ...]
    layers: int
    engine_bytes: int | None
    device_memory_bytes: int | None
    parse_seconds: float
    build_seconds: float | None
    messages: tuple[str, ...]


def installed() -> bool:
    """Whether NVIDIA's parser is installed."""
    try:
        import tensorrt_rtx  # noqa: F401
    except ImportError:
        return False
    return True


def unfit(precision: Precision, target: Target) -> str | None:
    """Why a file of this layout is not asked about, in words that follow "This file is"; None if it is."""
    if precision == "int8" and target != "tensorrt":
        return f"laid out for {target}, with uint8 activations that TensorRT does not take"
    if precision == "fp32" and target == "onnxruntime":
        return "laid out for onnxruntime on a CPU, with convolutions taken apart that TensorRT runs faster whole"
    return None


# Quantised operators other than QuantizeLinear / DequantizeLinear: NVIDIA's parser knows none of them.
_INTEGER_OPERATORS = ("DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")


def refuse_unsigned_activations(model: onnx.ModelProto) -> None:
    """Refuse before NVIDIA's parser does, with a clearer message: TensorRT takes only symmetric signed quantisation.

    Raises:
        GateError: names the first node with uint8 activations, a zero point other than 0, or integer arithmetic
            as a separate operator.
    """
    known = constants(model)
    for node in model.graph.node:
        kind = _not_for_tensorrt(node, known)
        if kind is not None:
            raise GateError(
                f"TensorRT cannot run this file: {node.op_type} {node.name!r} uses {kind}, and TensorRT takes only "
                "symmetric signed int8. The file was quantised for another runtime; make one for TensorRT with: "
                "glomedge export --precision int8 --target tensorrt"
            )


def _not_for_tensorrt(node: onnx.NodeProto, known: dict[str, Any]) -> str | None:
    if node.op_type in _INTEGER_OPERATORS:
        return "an integer operator"
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return None
    zero = known.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    if zero is None:
        # Without a zero point QuantizeLinear gives uint8 (ONNX), unless a newer opset's attribute says otherwise.
        typed = int(attribute(node, "output_dtype", 0)) == onnx.TensorProto.INT8
        return "uint8" if node.op_type == "QuantizeLinear" and not typed else None
    if zero.dtype.name not in ("int8", "int32"):
        return str(zero.dtype.name)
    return "a zero point other than 0" if zero.any() else None


def _logger(trt: Any, messages: list[str]) -> Any:
    class Collect(trt.ILogger):  # type: ignore[misc]  # tensorrt_rtx ships no types
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.WARNING and message not in messages:
                messages.append(message)

    return Collect()


def check(data: bytes, profile: BatchProfile, *, build: bool = True) -> tuple[TensorRtCheck, bytes | None]:
    """Parse what onnxruntime makes of a file with NVIDIA's parser, and build it for a batch profile.

    Args:
        data: serialised ModelProto, glomedge's metadata included or not.
        profile: smallest, best and largest batch.
        build: also build the engine.

    Returns:
        What was found, and the serialised portable engine where it was built.

    Raises:
        MissingExtraError: tensorrt-rtx is not installed.
        GateError: the file is quantised in a way that TensorRT does not take.
    """
    try:
        import tensorrt_rtx as trt
    except ImportError as error:
        raise MissingExtraError("NVIDIA's parser", "tensorrt-rtx", "tensorrt-rtx") from error
    model = onnx.load_model_from_string(data)
    refuse_unsigned_activations(model)
    optimised = handed_over(data)
    messages: list[str] = []
    logger = _logger(trt, messages)
    builder = trt.Builder(logger)
    placed = _placed(trt, builder, logger, optimised)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, logger)
    start = time.perf_counter()
    accepted = parser.parse(optimised)
    parse_seconds = time.perf_counter() - start
    errors = [parser.get_error(index) for index in range(parser.num_errors)]
    unsupported = tuple(f"{e.node_name()} ({e.node_operator()}): {e.desc()}" for e in errors)
    engine: bytes | None = None
    build_seconds = None
    memory = None
    if accepted and build:
        config = builder.create_builder_config()
        side_px = model.graph.input[0].type.tensor_type.shape.dim[1].dim_value
        shapes = [(size, side_px, side_px, 3) for size in (profile.min, profile.opt, profile.max)]
        ranges = builder.create_optimization_profile()
        ranges.set_shape("images", *shapes)
        config.add_optimization_profile(ranges)
        start = time.perf_counter()
        serialised = builder.build_serialized_network(network, config)
        build_seconds = time.perf_counter() - start
        if serialised is not None:
            engine = bytes(serialised)
            memory = _device_memory(trt, engine, logger, messages)
        else:
            unsupported = (*unsupported, f"the builder gave no engine: {'; '.join(messages[-3:]) or 'no reason'}")
    found = TensorRtCheck(
        version=trt.__version__,
        onnxruntime=import_onnxruntime().__version__,
        **asdict(placed),
        strongly_typed=network.get_flag(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED),
        unsupported=unsupported if accepted or unsupported else ("the parser gave no reason",),
        layers=network.num_layers,
        engine_bytes=len(engine) if engine is not None else None,
        device_memory_bytes=memory,
        parse_seconds=round(parse_seconds, 3),
        build_seconds=round(build_seconds, 3) if build_seconds is not None else None,
        messages=tuple(messages[:20]),
    )
    return found, engine


@dataclass(frozen=True)
class _Placed:
    """Where the nodes of a graph would run; see ``TensorRtCheck``."""

    nodes: int
    subgraphs: int
    nodes_elsewhere: int


def _placed(trt: Any, builder: Any, logger: Any, data: bytes) -> _Placed:
    """Ask as onnxruntime's provider does before it takes a graph: which parts of it TensorRT supports."""
    nodes = len(onnx.load_model_from_string(data).graph.node)
    network = builder.create_network(0)  # a network of its own: asking fills it
    parser = trt.OnnxParser(network, logger)
    parser.supports_model_v2(data)
    taken = [
        len(parser.get_subgraph_nodes(index))
        for index in range(parser.num_subgraphs)
        if parser.is_subgraph_supported(index)
    ]
    return _Placed(nodes, len(taken), nodes - sum(taken))


def _device_memory(trt: Any, engine: bytes, logger: Any, messages: list[str]) -> int | None:
    """The engine's own figure. Loading an engine needs a GPU; not having one says nothing about the file."""
    said = len(messages)
    runtime = trt.Runtime(logger)
    loaded = runtime.deserialize_cuda_engine(engine) if runtime is not None else None
    memory = int(loaded.device_memory_size_v2) if loaded is not None else None
    del messages[said:]
    return memory


def enforce(found: TensorRtCheck) -> None:
    """Raises GateError unless all of the graph runs on TensorRT, in the file's own types; names what is refused."""
    if found.unsupported:
        listed = "; ".join(found.unsupported[:5])
        more = f"; and {len(found.unsupported) - 5} more" if len(found.unsupported) > 5 else ""
        raise GateError(
            f"TensorRT-RTX {found.version} refuses the file: {listed}{more}. Nothing was written. Choose another "
            "--target, or report this with the versions that glomedge doctor prints."
        )
    if found.subgraphs != 1 or found.nodes_elsewhere or not found.strongly_typed:
        raise GateError(
            f"TensorRT-RTX {found.version} would run the file in {found.subgraphs} parts, with "
            f"{found.nodes_elsewhere} of {found.nodes} nodes left to CUDA or the CPU"
            f"{'' if found.strongly_typed else ', in types of its own choice'}. Nothing was written. Choose another "
            "--target, or report this with the versions that glomedge doctor prints."
        )


def write_engine(model: Path, engine: bytes, spec: ModelSpec, model_sha256: str, found: TensorRtCheck) -> list[Path]:
    """Write ``<model>.rtx.engine`` and its passport ``<model>.rtx.engine.json``; the passport last.

    An engine file does not describe itself: the passport names the weights, versions, profile and precision it was
    built from, and the SHA-256 of engine and model, so that neither can be mistaken for another.
    """
    import hashlib

    path = model.with_suffix(".rtx.engine")
    passport = {
        "notice": RESEARCH_USE_NOTICE,
        "engine": path.name,
        "engine_sha256": hashlib.sha256(engine).hexdigest(),
        "engine_bytes": len(engine),
        "model": model.name,
        "model_sha256": model_sha256,
        "weights_sha256": spec.weights_sha256,
        "precision": spec.precision,
        "target": spec.target,
        "batch_profile": spec.batch_profile.model_dump(),
        "producer": spec.producer,
        "created_utc": spec.created_utc,
        "tensorrt_rtx": found.version,
        "runs_on": "RTX GPUs from Ampere on, with TensorRT-RTX of the same major and minor version",
        "check": asdict(found),
    }
    write_atomically(path, engine)
    passport_path = path.with_name(path.name + ".json")
    write_atomically(passport_path, json.dumps(passport, indent=1).encode())
    return [path, passport_path]
