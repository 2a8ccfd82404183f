"""``glomedge export``: convert, measure, apply the gates, and only then write the file to its path.

Order of things: Keras -> float32 graph -> (fp16 or int8) -> checker -> gates -> golden self-test -> spec -> seal ->
temporary file -> NVIDIA's parser -> rename. Parity is part of the spec, so it is measured on the graph before
sealing; sealing appends metadata and does not touch the graph.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from glomedge.about import __version__, install_command
from glomedge.engine import golden
from glomedge.errors import GateError, MissingExtraError, UsageError
from glomedge.files.writing import check_writable, write_atomically
from glomedge.model.file import read_model_file, sealed
from glomedge.model.gate_table import GateRow, table
from glomedge.model.spec import MAP_SIZE, BatchProfile, InputSpec, ModelSpec, Precision, Target
from glomedge.reports import model_card
from glomedge_export.enhancement.files import Companions, made
from glomedge_export.export_report import Laps, Proven, export_report
from glomedge_export.export_source.crops import CropsWanted, ExportCrops, crops_for
from glomedge_export.export_source.foreign import with_fit, with_network
from glomedge_export.export_source.load import load_source
from glomedge_export.export_source.measured import measured
from glomedge_export.export_source.output import (
    RECORDED,
    check_not_of_another,
    default_output,
    recorded_name,
    with_a_name,
)
from glomedge_export.export_source.source import Said, Source
from glomedge_export.graph import surgery
from glomedge_export.graph.convert import Converted
from glomedge_export.graph.lower import LoweringInputs, lower, runner_for
from glomedge_export.graph.placement import placement
from glomedge_export.progress import Progress, silent
from glomedge_export.proof import gates, judge, tensorrt
from glomedge_export.proof.parity import Decision

# Enough for the float32 gates, which look for a wrong graph and not for a rare flip; takes less than a minute.
FP32_GATE_CROPS = 96
GATE_CROPS = 512
TARGETS: dict[Precision, tuple[Target, ...]] = {
    "fp32": ("any", "onnxruntime"),
    "fp16": ("tensorrt", "onnxruntime", "openvino"),
    "int8": ("onnxruntime", "tensorrt", "openvino"),
}
CalibrationMethod = Literal["auto", "minmax", "entropy", "percentile"]


@dataclass(frozen=True)
class Request:
    """What one export is asked to do.

    Attributes:
        model: the Keras file or SavedModel folder; the record of one that glomedge trained is beside it.
        output: final path; None for the default next to the model.
        precision: of the file.
        target: runtime that the file is laid out for; None for the precision's first.
        said: what the model's file may not say, and labelled crops for calibration and gates (without any, the data
            set in the record, if it is still there).
        calibration_crops: how many training crops int8 is calibrated on.
        calibration_method: how activation ranges are chosen.
        batch_profile: batch sizes that an engine is built for.
        gate_overrides: GateLimits fields put in place of the defaults.
        gate_crops: about how many held-out crops to compare on; None for the precision's default.
        require_tensorrt_check: absence of NVIDIA's parser is an error.
        engine: write the portable TensorRT-RTX engine next to the model.
        device: name of the device recipe that chose the above, for the report.
        companions: files for other programs to write beside the model.
    """

    model: Path
    output: Path | None = None
    precision: Precision = "fp32"
    target: Target | None = None
    said: Said = field(default_factory=Said)
    calibration_crops: int = 256
    calibration_method: CalibrationMethod = "auto"
    batch_profile: BatchProfile = field(default_factory=BatchProfile)
    gate_overrides: dict[str, float | None] = field(default_factory=dict)
    gate_crops: int | None = None
    require_tensorrt_check: bool = False
    engine: bool = False
    device: str | None = None
    companions: Companions = field(default_factory=Companions)


@dataclass(frozen=True)
class Tell:
    """What is said while an export runs.

    Attributes:
        found: called with what was read off a model that glomedge did not train.
        gates: called with the gate table before it is enforced, so that it can also be shown when a gate fails.
    """

    found: Callable[[tuple[str, ...]], None] = lambda _: None
    gates: Callable[[list[GateRow]], None] = lambda _: None


@dataclass(frozen=True)
class Result:
    """What one export wrote.

    Attributes:
        path: the model file.
        spec: as written inside the file.
        rows: the gate table, all passed.
        report: what ``<model>.export.json`` holds.
        written: every file written, the model first.
    """

    path: Path
    spec: ModelSpec
    rows: list[GateRow]
    report: dict[str, Any]
    written: tuple[Path, ...]


def resolved_target(precision: Precision, target: Target | None) -> Target:
    """The target to lay out for. Raises UsageError where precision and target do not go together."""
    allowed = TARGETS[precision]
    if target is None or (precision == "fp32" and target in ("tensorrt", "openvino")):
        # Both lay a float32 graph out for themselves.
        return allowed[0]
    if target not in allowed:
        raise UsageError(
            f"{precision} is exported for {' or '.join(allowed)}, not {target!r}. Choose one with --target."
        )
    return target


def export(
    request: Request,
    progress: Progress = silent,
    tell: Tell | None = None,
    conversions: dict[str, Converted] | None = None,
) -> Result:
    """Run one export.

    Args:
        request: what to export, and how.
        progress: called with (stage, done, of).
        tell: what is called with what is known before the end.
        conversions: kept by the caller between exports of one model in several precisions, so that tf2onnx, the
            slowest step, runs once.

    Raises:
        GateError: the answers of the file differ from those of its reference; nothing is written. A file of an
            earlier export at the final path is left as it is, and the message says so.
        ModelError, DatasetError, UsageError: the model, data or options cannot be used.
        MissingExtraError: a package of the extra ``export`` is not installed.
    """
    request = replace(request, model=with_a_name(request.model))
    # What can be refused at once is refused before a minute of converting.
    target = resolved_target(request.precision, request.target)
    gates.limits_for(request.precision, request.gate_overrides)
    _check_tensorrt_options(request, target)
    request.companions.check_target(target)
    output = request.output or default_output(request.model, request.precision, target)
    if not output.parent.is_dir():
        raise UsageError(f"The folder {output.parent} does not exist. Create it, or give another --output.")
    check_writable(output.parent, "Choose another --output.")
    if request.output is None and request.model.exists():
        check_not_of_another(output, request.model)
    job = _Job(request, target, output, progress, tell or Tell())
    try:
        return _export(job, conversions if conversions is not None else {})
    except GateError as error:
        if not output.exists():
            raise
        raise GateError(
            f"{error} {output} is still the file of an earlier export: remove it if it must not be used."
        ) from error


@dataclass(frozen=True)
class _Job:
    """A request with what has been decided about it."""

    request: Request
    target: Target
    output: Path
    progress: Progress
    tell: Tell


def _export(job: _Job, conversions: dict[str, Converted]) -> Result:
    request, progress, lap = job.request, job.progress, Laps()
    progress("loading", 0, 1)
    source = load_source(request.model, request.said)
    request.companions.check_place(job.output, source.recipe)
    progress("loading", 1, 1)
    job.tell.found(source.found)
    lap("load")
    crops = crops_for(source, _crops_wanted(request), progress)
    lap("crops")
    progress("converting", 0, 1)
    if source.key not in conversions:
        conversions[source.key] = source.convert()
    converted = conversions[source.key]
    weights = source.weights_sha256(converted)
    progress("converting", 1, 1)
    lap("convert")
    already = len(source.found)
    source = measured(with_network(source, converted), converted, crops, request.said.threshold, progress)
    converted = with_fit(converted, source)
    job.tell.found(source.found[already:])
    lap("threshold")
    proven = _prove(job, source, converted, crops, lap)
    spec = _spec(job, source, converted, proven, weights)
    data = sealed(proven.lowered.model.SerializeToString(), spec)
    progress("NVIDIA's parser", 0, 1)
    checked, engine = _tensorrt(request, job.target, data)
    progress("NVIDIA's parser", 1, 1)
    lap("tensorrt check")
    named = {
        "model": job.output.name,
        RECORDED: recorded_name(request.model, job.output),
        "precision": request.precision,
        "target": job.target,
        "device": request.device,
    }
    report = export_report(named, data, converted, proven, request.batch_profile)
    report["found_in_the_model"] = list(source.found)
    report["drawn_crops_because"] = crops.drawn_because
    report["tensorrt"] = asdict(checked) if isinstance(checked, tensorrt.TensorRtCheck) else {"not_checked": checked}
    beside = made(request.companions, job.output, proven.lowered.model, spec, report["sha256"])
    lap("companions")
    report["companions"] = {path.name: known.gate.model_dump() for path, (_, known) in beside.items()}
    report["seconds"] = lap.seconds
    write_atomically(job.output, data)
    sha256 = read_model_file(job.output).sha256
    report_path, card_path = job.output.with_suffix(".export.json"), job.output.with_suffix(".card.md")
    written = [job.output, report_path, card_path]
    if engine is not None and isinstance(checked, tensorrt.TensorRtCheck):
        written += tensorrt.write_engine(job.output, engine, spec, sha256, checked)
    for path, (companion, _) in beside.items():
        write_atomically(path, companion)
    written += beside
    write_atomically(card_path, model_card.markdown(spec, job.output.name, sha256).encode())
    write_atomically(report_path, json.dumps(report, indent=1).encode())
    return Result(job.output, spec, proven.rows, report, tuple(written))


def _crops_wanted(request: Request) -> CropsWanted:
    return CropsWanted(
        data=request.said.data,
        case_pattern=request.said.case_pattern,
        compared=request.gate_crops or (FP32_GATE_CROPS if request.precision == "fp32" else GATE_CROPS),
        calibration=request.calibration_crops if request.precision == "int8" else 0,
    )


def _prove(job: _Job, source: Source, converted: Converted, crops: ExportCrops, lap: Laps) -> Proven:
    """Lower the graph and compare float32 with its framework, then the file with float32. Raises GateError."""
    request, target, compared = job.request, job.target, crops.compared
    decision = Decision(source.threshold, source.temperature)
    criteria = judge.Criteria(request.precision, decision, request.gate_overrides, job.progress)
    images = compared.images_nhwc
    inputs = LoweringInputs(images, crops.calibration, request.calibration_method)
    is_float32 = request.precision == "fp32"
    lowered = lower(converted.model, "fp32", target if is_float32 else "any", inputs, job.progress)
    float32_parity = judge.against_framework(source.reference, lowered.model, compared, criteria)
    lap("fp32 gates")
    if not is_float32:
        judge.enforce_float32(float32_parity, lowered.model, compared, "The float32 graph behind this file")
        lowered = lower(converted.model, request.precision, target, inputs, job.progress)
    lap(f"lower to {request.precision}")
    runner = runner_for(lowered.model, request.precision, target)
    parity = float32_parity if is_float32 else judge.against_fp32(converted.model, runner, compared, criteria)
    rows = table(parity)
    job.tell.gates(rows)
    what = f"{job.output.name} ({request.precision}, {target})"
    if is_float32:
        judge.enforce_float32(parity, lowered.model, compared, what)
    else:
        gates.enforce(parity, what, gates.advice(request.precision))
    judge.check_profile(runner, compared, request.batch_profile)
    lap("gates")
    return Proven(lowered, runner, parity, float32_parity, rows)


def _spec(job: _Job, source: Source, converted: Converted, proven: Proven, weights: str) -> ModelSpec:
    precision, record = job.request.precision, source.record
    return ModelSpec(
        producer=f"glomedge {__version__}",
        created_utc=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        threshold=source.threshold,
        temperature=source.temperature,
        input=InputSpec(height_px=converted.side_px, width_px=converted.side_px),
        recipe=source.recipe,
        input_scaling=converted.input_scaling,
        input_affine=converted.scaling.in_spec,
        backbone=converted.backbone,
        map="none" if converted.map_cells is None else "exact",
        map_cells=converted.map_cells or MAP_SIZE,
        map_placement=None if converted.map_cells is None else placement(converted.model),
        source=source.origin,
        precision=precision,
        target=job.target,
        opset=proven.lowered.model.opset_import[0].version,
        batch_profile=job.request.batch_profile,
        weights_sha256=weights,
        multiply_adds=surgery.multiply_adds(converted.model),
        training=record.training if record is not None else None,
        operating_point=source.operating_point,
        calibration=proven.lowered.calibration,
        parity=proven.parity,
        golden=golden.make(source.recipe, lambda images: proven.runner(images)[0], precision),
        mpp=record.mpp if record is not None else None,
    )


def _check_tensorrt_options(request: Request, target: Target) -> None:
    """``--require-tensorrt-check`` and ``--engine`` can be refused before a minute of converting."""
    if not (request.require_tensorrt_check or request.engine):
        return
    unfit = tensorrt.unfit(request.precision, target)
    if unfit is not None:
        raise UsageError(
            f"This file is {unfit}. Export with --target tensorrt, or omit --engine and --require-tensorrt-check."
        )
    if not tensorrt.installed():
        raise MissingExtraError("NVIDIA's parser", "tensorrt-rtx", "tensorrt-rtx")


def _tensorrt(request: Request, target: Target, data: bytes) -> tuple[tensorrt.TensorRtCheck | str, bytes | None]:
    """What NVIDIA's parser reports on the file, or why it was not asked; the engine only where one was requested."""
    unfit = tensorrt.unfit(request.precision, target)
    if unfit is not None:
        return unfit, None
    if not tensorrt.installed():
        return f"the package tensorrt-rtx is not installed ({install_command('glomedge[tensorrt-rtx]')})", None
    found, engine = tensorrt.check(data, request.batch_profile)
    tensorrt.enforce(found)
    return found, engine if request.engine else None
