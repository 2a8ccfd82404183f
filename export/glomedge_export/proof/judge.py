"""The runs that gates look at: float32 graph against its framework, lowered file against float32, every batch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx

from glomedge.errors import GateError
from glomedge.model.gate_table import table
from glomedge.model.spec import BatchProfile, Parity, Precision
from glomedge_export.data.export_crops import MIN_CROPS, Crops
from glomedge_export.graph.run import Answers, OnnxRunner, Runner, onnx_answers
from glomedge_export.progress import Progress, silent
from glomedge_export.proof import gates, parity
from glomedge_export.proof.reference import Reference


@dataclass(frozen=True)
class Criteria:
    """What a file is judged by.

    Attributes:
        precision: of the file that is exported.
        decision: threshold and temperature of the model.
        overrides: GateLimits fields put in place of the defaults.
        progress: called with (stage, done, of).
    """

    precision: Precision
    decision: parity.Decision
    overrides: dict[str, float | None]
    progress: Progress = silent


def against_framework(reference: Reference, model: onnx.ModelProto, crops: Crops, criteria: Criteria) -> Parity:
    """The float32 graph on onnxruntime against the answers of the framework that made the model.

    Behind a lowered file (``precision`` not fp32) about 64 crops are enough: a wrong graph shows on any of them.
    """
    if criteria.precision != "fp32":
        crops = first_biopsies(crops, MIN_CROPS)
    progress = criteria.progress
    said = reference.answer(crops.images_nhwc, criteria.decision.temperature, progress)
    runner = OnnxRunner(model.SerializeToString())
    candidate = onnx_answers(runner, crops.images_nhwc, what="float32 file", progress=progress)
    return parity.compare(
        said,
        candidate,
        crops,
        decision=criteria.decision,
        limits=gates.float32_limits(criteria.precision, criteria.overrides),
        reference_name=reference.name,
    )


def against_fp32(fp32: onnx.ModelProto, runner: Runner, crops: Crops, criteria: Criteria) -> Parity:
    """A lowered file, on its runner for this machine, against its float32 graph."""
    images, progress = crops.images_nhwc, criteria.progress
    reference = onnx_answers(OnnxRunner(fp32.SerializeToString()), images, what="float32", progress=progress)
    candidate = onnx_answers(runner, images, what=f"{criteria.precision} file", progress=progress)
    return parity.compare(
        reference,
        candidate,
        crops,
        decision=criteria.decision,
        limits=gates.limits_for(criteria.precision, criteria.overrides),
        reference_name="the float32 file of the same weights",
    )


def first_biopsies(crops: Crops, count: int) -> Crops:
    """The first whole biopsies that make at least ``count`` crops (all of them where there are fewer)."""
    if len(crops) <= count:
        return crops
    last = crops.cases[count - 1]
    kept = [i for i, case in enumerate(crops.cases) if i < count or case == last]
    return crops.only(kept)


def float32_rounding(model: onnx.ModelProto, crops: Crops) -> float:
    """Largest |difference| of probability between two correct float32 runs of one graph: fused, and node by node.

    They only add up in a different order. Where a model magnifies rounding (large weights in the head), this is what no
    export can go below, and what a refusal must be compared with.
    """
    images = first_biopsies(crops, MIN_CROPS).images_nhwc
    data = model.SerializeToString()
    fused, plain = (onnx_answers(OnnxRunner(data, fuse=fuse), images) for fuse in (True, False))
    return float(np.abs(fused.probability.astype(np.float64) - plain.probability).max())


def enforce_float32(measured: Parity, model: onnx.ModelProto, crops: Crops, what: str) -> None:
    """The float32 gates. Raises GateError that says whether the graph is wrong or the model magnifies rounding."""
    if all(row.passed for row in table(measured)):
        return
    advice = gates.float32_advice(measured.max_probability_difference, float32_rounding(model, crops))
    gates.enforce(measured, what, advice)


def check_profile(runner: Runner, crops: Crops, profile: BatchProfile) -> None:
    """Every batch size of the profile is answered, in full and finite.

    Raises:
        GateError: NaN or Inf, or answers of another size than the batch.
    """
    for size in sorted({profile.min, profile.opt, profile.max}):
        picked = crops.images_nhwc[np.arange(size) % len(crops)]
        probability, activation = runner(np.ascontiguousarray(picked))
        if probability.shape != (size,) or (activation is not None and len(activation) != size):
            raise GateError(
                f"The exported file answers a batch of {size} with {len(probability)} probabilities. Nothing was "
                "written. This is a defect of the export: report it with the versions that glomedge doctor prints."
            )
        parity.check_finite(Answers(probability, activation), f"The exported file at batch {size}")
