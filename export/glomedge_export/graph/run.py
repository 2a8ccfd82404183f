"""Run a graph under construction with onnxruntime or OpenVINO, for calibration and checks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnx

from glomedge.system.telemetry import import_onnxruntime, import_openvino
from glomedge_export.progress import Progress, silent

Images = npt.NDArray[np.uint8]


Floats = npt.NDArray[np.float32]
Answer = tuple[Floats, Floats | None]


BATCH = 8


@dataclass(frozen=True)
class Answers:
    """Answers of a model.

    Attributes:
        probability: float32 ``[N]``.
        activation: float32 ``[N, cells, cells]``; None if the runner gives no map (Keras, a network without one).
        logit: float64 ``[N]`` before temperature, measured apart from the map; None if not measured.
    """

    probability: Floats
    activation: Floats | None = None
    logit: npt.NDArray[np.float64] | None = None


class OnnxRunner:
    """One ONNX file on onnxruntime's CPU provider.

    Args:
        model: serialised ModelProto.
        literal: run QuantizeLinear and DequantizeLinear as written, fused into no integer kernel. That is how a
            file for another runtime is judged here: the pairs round exactly, the arithmetic between is float32,
            and the answer does not depend on which int8 instructions this processor has.
        fuse: let onnxruntime rewrite the graph; without, every node runs as written.
    """

    def __init__(self, model: bytes, *, literal: bool = False, fuse: bool = True) -> None:
        ort = import_onnxruntime()

        options = ort.SessionOptions()
        options.log_severity_level = 3
        if not fuse:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        if literal:
            # Float fusions stay on (they only change the order of sums); no pair becomes an integer kernel.
            options.add_session_config_entry("session.disable_quant_qdq", "1")
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._mapped = "activation" in {output.name for output in self._session.get_outputs()}
        self.name = f"onnxruntime {ort.__version__} CPU" + (", quantisation as written" if literal else "")

    def __call__(self, images_nhwc: Images) -> Answer:
        """``[N, side, side, 3]`` -> probability ``[N]``, activation ``[N, cells, cells]`` or None."""
        names = ["probability", "activation"] if self._mapped else ["probability"]
        answer = self._session.run(names, {"images": images_nhwc})
        return answer[0].reshape(-1), answer[1] if self._mapped else None


class OpenvinoRunner:
    """One ONNX file on the OpenVINO CPU plugin, float32 where the file says float32 (no bf16)."""

    def __init__(self, model: bytes) -> None:
        openvino = import_openvino()

        core = openvino.Core()
        compiled = core.compile_model(
            core.read_model(model, b""), "CPU", {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
        )
        self._request = compiled.create_infer_request()
        self._mapped = any("activation" in output.get_names() for output in compiled.outputs)
        self.name = f"openvino {openvino.__version__.split('-')[0]} CPU"

    def __call__(self, images_nhwc: Images) -> Answer:
        """``[N, side, side, 3]`` -> probability ``[N]``, activation ``[N, cells, cells]`` or None."""
        self._request.infer({"images": images_nhwc})
        probability = self._request.get_tensor("probability").data.copy()
        return probability.reshape(-1), self._request.get_tensor("activation").data.copy() if self._mapped else None


Runner = OnnxRunner | OpenvinoRunner


def onnx_answers(
    run: Callable[[Images], Answer],
    images_nhwc: Images,
    *,
    batch: int = BATCH,
    what: str = "ONNX",
    progress: Progress = silent,
) -> Answers:
    """Run all crops through one runner."""
    probabilities, maps = [], []
    for start in range(0, len(images_nhwc), batch):
        probability, activation = run(np.ascontiguousarray(images_nhwc[start : start + batch]))
        probabilities.append(probability)
        if activation is not None:
            maps.append(activation)
        progress(what, min(start + batch, len(images_nhwc)), len(images_nhwc))
    return Answers(np.concatenate(probabilities), np.concatenate(maps) if maps else None)


def logits_runner(model: onnx.ModelProto) -> Callable[[Images], npt.NDArray[np.float64]]:
    """What gives the logit of a float32 graph before its temperature, with or without a map.

    Returns:
        A function from uint8 ``[N, side, side, 3]`` to float64 ``[N]``.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    name = makers["probability"].input[0]
    if makers[name].op_type == "Div" and "temperature" in makers[name].input:
        name = makers[name].input[0]
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    del cut.graph.output[:]
    cut.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    session = import_onnxruntime().InferenceSession(cut.SerializeToString(), providers=["CPUExecutionProvider"])

    def run(images_nhwc: Images) -> npt.NDArray[np.float64]:
        parts = []
        for start in range(0, len(images_nhwc), BATCH):
            (part,) = session.run(None, {"images": np.ascontiguousarray(images_nhwc[start : start + BATCH])})
            parts.append(np.asarray(part, np.float64).reshape(-1))
        return np.concatenate(parts)

    return run
