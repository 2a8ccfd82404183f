"""The graph that onnxruntime hands to a provider: its own passes have rewritten the file by then.

What NVIDIA's parser says of the file itself is not what it will say on the device (onnxruntime#22889).
"""

from __future__ import annotations

from glomedge.engine.backends.nvidia_options import DISABLED_FOR_PARSER
from glomedge.engine.backends.onnxrt import first_line
from glomedge.errors import GateError
from glomedge.system.telemetry import import_onnxruntime


def handed_over(data: bytes) -> bytes:
    """The graph after the passes that onnxruntime runs before it asks its providers (level 1, "basic").

    It is what onnxruntime's model compiler writes where no provider compiles anything. A session's
    ``optimized_model_filepath`` is something else: it is written after the nodes were given to the CPU, with casts
    to float32 around every float16 node.

    Args:
        data: serialised ModelProto.

    Returns:
        A serialised ModelProto, optimised with the passes left out that the engine leaves out for TensorRT.

    Raises:
        GateError: onnxruntime cannot read the graph.
    """
    ort = import_onnxruntime()
    errors = ort.capi.onnxruntime_pybind11_state

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_session_config_entry("optimization.disable_specified_optimizers", ";".join(DISABLED_FOR_PARSER))
    basic = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    try:
        return bytes(ort.ModelCompiler(options, data, graph_optimization_level=basic).compile_to_bytes())
    except (errors.Fail, errors.InvalidGraph, errors.InvalidProtobuf, errors.NotImplemented) as error:
        raise GateError(
            f"onnxruntime {ort.__version__} cannot read the file that TensorRT is to run: {first_line(error)}. Nothing "
            "was written. Report this with the versions that glomedge doctor prints."
        ) from error
