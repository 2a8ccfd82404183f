"""From the float32 graph to the requested precision and target, and the runner that checks it on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx

from glomedge.errors import MissingExtraError
from glomedge.model.spec import Calibration, Precision, Target
from glomedge_export.data.export_crops import CalibrationCrops
from glomedge_export.graph import float16, int8, space_to_depth, winograd
from glomedge_export.graph.convert import check
from glomedge_export.graph.ranges import METHODS, Method, channel_means, observe
from glomedge_export.graph.run import Images, OnnxRunner, OpenvinoRunner, Runner, onnx_answers
from glomedge_export.graph.surgery import op_counts
from glomedge_export.progress import Progress, silent

# Measured in benchmarks/graph/int8_layouts.py: with 8-bit weights the 16-bit sums of a processor without VNNI saturate
# and the answer depends on the machine; with 7 bits it does not, at the same speed. TensorRT sums in 32 bits.
WEIGHT_BITS: dict[Target, int] = {"onnxruntime": 7, "openvino": 7, "tensorrt": 8}
CHOICE_CROPS = 32
RANGE_CROPS = 64
HALF_EMULATED = ", float16 rounding emulated behind every node"


@dataclass(frozen=True)
class Lowered:
    """A graph in its final precision.

    Attributes:
        model: checked.
        calibration: how int8 ranges were found; None otherwise.
        notes: for the report: steps with operator counts, methods tried, ranges.
    """

    model: onnx.ModelProto
    calibration: Calibration | None
    notes: dict[str, Any]


def runner_for(model: onnx.ModelProto, precision: Precision, target: Target) -> Runner:
    """The runner that judges a file here: its own runtime where that runs on a CPU, else an exact emulation.

    float16 is emulated by rounding every tensor (a CPU would compute it in float32 and hide an overflow). int8 for
    TensorRT is executed as written: QuantizeLinear rounds exactly and nothing saturates, as on a GPU.

    Raises:
        MissingExtraError: an int8 file for OpenVINO where OpenVINO is not installed.
    """
    if precision == "fp16":
        runner = OnnxRunner(float16.emulate_fp16(model).SerializeToString())
        runner.name += HALF_EMULATED
        return runner
    if precision == "int8" and target == "tensorrt":
        runner = OnnxRunner(float16.emulate_fp16(model).SerializeToString(), literal=True)
        runner.name += HALF_EMULATED if float16.has_fp16(model) else ""
        return runner
    if precision == "int8" and target == "openvino":
        try:
            return OpenvinoRunner(model.SerializeToString())
        except ImportError as error:
            raise MissingExtraError("Judging a file for OpenVINO", "openvino", "openvino") from error
    return OnnxRunner(model.SerializeToString())


@dataclass(frozen=True)
class LoweringInputs:
    """What lowering needs in addition to the graph.

    Attributes:
        judge_on: uint8 ``[N, side, side, 3]``; fp16 looks for the largest activation on these.
        calibration: crops of the training split, for int8.
        method: how int8 ranges are chosen: ``auto``, ``minmax``, ``entropy`` or ``percentile``.
    """

    judge_on: Images
    calibration: CalibrationCrops | None = None
    method: str = "auto"


def lower(
    fp32: onnx.ModelProto, precision: Precision, target: Target, inputs: LoweringInputs, progress: Progress = silent
) -> Lowered:
    """The graph in the requested precision.

    Args:
        fp32: of ``graph.convert.convert``.
        precision: ``fp32`` for the target ``any`` gives the graph back.
        target: layout of int8; ``onnxruntime`` lays fp32 out for its CPU kernels.
        inputs: see LoweringInputs.
        progress: called with (stage, done, of).

    Raises:
        GateError: float16 overflows (names the layer), or the checker refuses the graph.
    """
    if precision == "fp32":
        if target != "onnxruntime":
            return Lowered(fp32, None, {})
        tiled = check(winograd.rewrite(fp32))
        return Lowered(tiled, None, {"steps": [_step("Winograd's minimal filtering", fp32, tiled)]})
    if precision == "fp16":
        layer, reach = float16.check_fp16_range(fp32, inputs.judge_on[:RANGE_CROPS], progress)
        halved = check(float16.to_fp16(fp32))
        notes = {"largest_activation": {"layer": layer, "value": reach, "limit": float16.FP16_MAX}}
        return Lowered(halved, None, {**notes, "steps": [_step("float16", fp32, halved)]})
    assert inputs.calibration is not None
    return _lower_to_int8(fp32, target, inputs, inputs.calibration, progress)


def _lower_to_int8(
    fp32: onnx.ModelProto, target: Target, inputs: LoweringInputs, calibration: CalibrationCrops, progress: Progress
) -> Lowered:
    prepared = int8.prepare_int8(fp32, target)
    tensors = int8.quantised_tensors(prepared, target)
    seen = observe(prepared, tensors, calibration.images_nhwc, progress)
    means = channel_means(prepared, calibration.images_nhwc, progress)
    between = _between_convolutions(fp32, target, calibration, progress)

    def quantised(name: Method) -> onnx.ModelProto:
        bits, halved = WEIGHT_BITS[target], between == "float16"
        statistics = int8.ActivationStatistics(seen, name, means)
        model = int8.to_int8(prepared, target, statistics, bits, half_scales=halved)
        if target == "onnxruntime":
            model = space_to_depth.rewrite(model)
        return float16.to_fp16(model) if halved else model

    candidates = {name: quantised(name) for name in METHODS if inputs.method in ("auto", name)}
    chosen, tried, model = _choose(fp32, target, candidates, calibration, progress)
    return Lowered(
        check(model),
        Calibration(
            method=chosen,
            crops=len(calibration.names),
            cases=calibration.cases,
            names_sha256=calibration.names_sha256,
            names=calibration.names,
        ),
        {
            "steps": [_step("form for int8", fp32, prepared), _step("quantisation", prepared, model)],
            "calibration": {
                "chosen": chosen,
                "mean_logit_error_by_method": tried,
                "weight_bits": WEIGHT_BITS[target],
                "quantised_tensors": len(tensors),
                "between_convolutions": between,
            },
        },
    )


def _step(name: str, before: onnx.ModelProto, after: onnx.ModelProto) -> dict[str, Any]:
    return {"name": name, "before": op_counts(before), "after": op_counts(after)}


def _between_convolutions(
    fp32: onnx.ModelProto, target: Target, calibration: CalibrationCrops, progress: Progress
) -> str:
    """The type of what an int8 file leaves unquantised: float16 for TensorRT where that holds every activation.

    Sums, BatchNormalization and Relu between int8 convolutions are bound by memory, and float16 halves it.
    """
    if target != "tensorrt":
        return "uint8"
    picked = _spread(calibration, RANGE_CROPS)
    reach = max(float16.fp16_reach(fp32, picked, progress).values())
    # Half of the limit: these crops are not those that will come, and Inf is no rounding error.
    return "float16" if reach < float16.FP16_MAX / 2 else "float32"


def _spread(calibration: CalibrationCrops, count: int) -> Images:
    """Up to ``count`` of the crops, evenly picked."""
    total = len(calibration.names)
    picked = np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))
    return np.asarray(calibration.images_nhwc[picked], np.uint8)


def _choose(
    fp32: onnx.ModelProto,
    target: Target,
    candidates: dict[Method, onnx.ModelProto],
    calibration: CalibrationCrops,
    progress: Progress,
) -> tuple[Method, dict[str, float], onnx.ModelProto]:
    """The method with the least mean error of the logit on calibration crops (never on crops of the gates)."""
    if len(candidates) == 1:
        name, model = next(iter(candidates.items()))
        return name, {}, model
    images = _spread(calibration, CHOICE_CROPS)
    reference = _logits(OnnxRunner(fp32.SerializeToString()), images, "float32", progress)
    errors: dict[str, float] = {}
    for name, model in candidates.items():
        logits = _logits(runner_for(model, "int8", target), images, f"trying {name}", progress)
        # A layout so broken that it gives NaN must lose, not win every comparison.
        errors[name] = float(np.nan_to_num(np.abs(logits - reference), nan=np.inf).mean())
    best = min(candidates, key=lambda name: errors[name])
    return best, errors, candidates[best]


def _logits(run: Runner, images: Images, what: str, progress: Progress) -> Any:
    answers = onnx_answers(run, images, what=what, progress=progress)
    if answers.activation is not None:
        return answers.activation.astype(np.float64).mean(axis=(1, 2))
    # Without a map the logit is only in the probability; where that has no digits left, the logit is large enough.
    probability = np.clip(answers.probability.astype(np.float64), 1e-7, 1.0 - 1e-7)
    return np.log(probability / (1.0 - probability))
