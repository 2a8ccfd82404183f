"""``glomedge export``: convert, measure, hold to the gates, and only then let a file appear at its path.

Order of things: Keras -> float32 graph -> (fp16 or int8) -> checker -> gates -> golden self-test -> spec -> seal ->
temporary file -> NVIDIA's parser -> rename. Parity stands inside the spec, so it is measured on the graph before
sealing; sealing appends metadata and does not touch the graph.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from glomedge.about import RESEARCH_USE_NOTICE, __version__, install_command
from glomedge.engine import golden
from glomedge.errors import GateError, MissingExtraError, ModelError, UsageError
from glomedge.files.writing import write_atomically
from glomedge.model.file import SEAL_BYTES, read_model_file, sealed
from glomedge.model.gate_table import GateRow, table
from glomedge.model.spec import BatchProfile, ModelSpec, Precision, Recipe, Target
from glomedge.reports import model_card
from glomedge_export.data.export_crops import (
    MIN_CROPS,
    CalibrationCrops,
    Crops,
    calibration_crops,
    drawn,
    held_out,
    read_recorded,
)
from glomedge_export.graph import surgery
from glomedge_export.graph.convert import Converted, convert
from glomedge_export.graph.lower import lower, runner_for
from glomedge_export.proof import gates, judge, tensorrt
from glomedge_export.record import TrainingRecord, read_record, record_path
from glomedge_export.stages import Progress, nothing

# Enough for the float32 gates, which look for a wrong graph and not for a rare flip, within the minute.
FP32_GATE_CROPS = 96
GATE_CROPS = 512
TARGETS: dict[Precision, tuple[Target, ...]] = {
    "fp32": ("any", "onnxruntime"),
    "fp16": ("tensorrt", "onnxruntime", "openvino"),
    "int8": ("onnxruntime", "tensorrt", "openvino"),
}
PACKAGES = ("glomedge", "tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "openvino", "tensorrt-rtx", "numpy")
CalibrationMethod = Literal["auto", "minmax", "entropy", "percentile"]


@dataclass(frozen=True)
class Request:
    """What is asked of one export.

    Attributes:
        model: the ``.keras`` file; its record lies beside it.
        output: final path; None for the default beside the model.
        precision: of the file.
        target: runtime that the file is laid out for; None for the precision's first.
        data: labelled data set for calibration and gates; None for the one in the record, where it still lies.
        recipe: colour enhancement, only for a model without a record.
        threshold: decision threshold, only for a model without a record.
        calibration_crops: how many training crops int8 is calibrated on.
        calibration_method: how activation ranges are chosen.
        batch_profile: batch sizes that an engine is built for.
        gate_overrides: GateLimits fields put in place of the defaults.
        gate_crops: about how many held-out crops to compare on; None for the precision's default.
        require_tensorrt_check: absence of NVIDIA's parser is an error.
        engine: write the portable TensorRT-RTX engine beside the model.
        device: name of the device recipe that chose the above, for the report.
    """

    model: Path
    output: Path | None = None
    precision: Precision = "fp32"
    target: Target | None = None
    data: Path | None = None
    recipe: Recipe | None = None
    threshold: float | None = None
    calibration_crops: int = 256
    calibration_method: CalibrationMethod = "auto"
    batch_profile: BatchProfile = field(default_factory=BatchProfile)
    gate_overrides: dict[str, float | None] = field(default_factory=dict)
    gate_crops: int | None = None
    require_tensorrt_check: bool = False
    engine: bool = False
    device: str | None = None


@dataclass(frozen=True)
class Result:
    """What one export wrote.

    Attributes:
        path: the model file.
        spec: as it stands inside the file.
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


def default_output(model: Path, precision: Precision, target: Target) -> Path:
    """``model.onnx`` for float32 and any target, else ``model.<precision>.<target>.onnx``, beside the Keras model."""
    suffix = ".onnx" if target == "any" else f".{precision}.{target}.onnx"
    return model.with_name(model.stem + suffix)


@dataclass(frozen=True)
class _Source:
    """The Keras model and everything known about it."""

    keras_model: Any
    record: TrainingRecord | None
    recipe: Recipe
    threshold: float
    temperature: float


def _load(request: Request) -> _Source:
    from glomedge_export.network.network import load_model

    if not request.model.is_file():
        raise ModelError(f"There is no Keras model at {request.model}. Train one with: glomedge train DATA")
    record = read_record(request.model) if record_path(request.model).is_file() else None
    if record is None and request.recipe is None:
        raise ModelError(
            f"There is no training record at {record_path(request.model)}: how the crops were enhanced is unknown. "
            "Copy it from where the model was trained, or say --recipe seed, published or plain if you know."
        )
    if record is not None and (request.recipe not in (None, record.recipe) or request.threshold is not None):
        raise UsageError(
            "Recipe and threshold of this model are in its training record and are not changed at export. "
            "Leave out --recipe and --threshold; glomedge infer takes a --threshold of its own."
        )
    recipe = record.recipe if record is not None else request.recipe
    assert recipe is not None
    return _Source(
        load_model(request.model),
        record,
        recipe,
        record.threshold if record is not None else request.threshold or 0.5,
        record.temperature if record is not None else 1.0,
    )


def weights_sha256(keras_model: Any) -> str:
    """SHA-256 of backbone and dense weights, shapes and bytes in layer order: the same for every precision."""
    from glomedge_export.network.network import inference_parts

    parts = inference_parts(keras_model)
    digest = hashlib.sha256()
    for value in [*parts.backbone.get_weights(), parts.kernel, parts.bias]:
        digest.update(str(value.shape).encode())
        digest.update(np.ascontiguousarray(value, np.float32).tobytes())
    return digest.hexdigest()


def _crops(request: Request, source: _Source, progress: Progress) -> tuple[Crops, CalibrationCrops | None, str | None]:
    """Crops to compare on, crops to calibrate on (int8), and why drawn crops were used, if they were."""
    count = request.gate_crops or (FP32_GATE_CROPS if request.precision == "fp32" else GATE_CROPS)
    directory = request.data
    if directory is None and source.record is not None and Path(source.record.data_directory).is_dir():
        directory = Path(source.record.data_directory)
    if directory is None:
        if request.precision == "int8":
            raise UsageError(
                "int8 is calibrated on crops of the training split, and the folder that the model was trained on is "
                "not known here. Give it with --calibration DATA."
            )
        return drawn(source.recipe), None, "the data set that the model was trained on is not here"
    dataset = read_recorded(directory, source.record)
    calibration = None
    if request.precision == "int8":
        calibration = calibration_crops(dataset, source.record, source.recipe, request.calibration_crops, progress)
    found = held_out(dataset, source.record, source.recipe, count, progress) if source.record is not None else None
    if found is not None:
        return found, calibration, None
    return drawn(source.recipe), calibration, f"fewer than {MIN_CROPS} held-out crops are known"


def export(
    request: Request,
    progress: Progress = nothing,
    on_gates: Callable[[list[GateRow]], None] | None = None,
    conversions: dict[str, Converted] | None = None,
) -> Result:
    """Run one export.

    Args:
        request: what is asked.
        progress: called with (stage, done, of).
        on_gates: called with the gate table before it is enforced, so that it can be shown when it refuses too.
        conversions: kept by the caller between exports of one model in several precisions, so that tf2onnx, the
            slowest step, runs once.

    Raises:
        GateError: the file does not say what its reference says; nothing is written. A file of an earlier export at
            the final path is left as it is, and the message says so.
        ModelError, DatasetError, UsageError: the model, data or options cannot be used.
        MissingExtraError: a package of the extra ``export`` is not installed.
    """
    # What can be refused at once is refused before a minute of converting.
    target = resolved_target(request.precision, request.target)
    gates.limits_for(request.precision, request.gate_overrides)
    _check_tensorrt_wish(request, target)
    output = request.output or default_output(request.model, request.precision, target)
    if not output.parent.is_dir():
        raise UsageError(f"The folder {output.parent} does not exist. Make it, or give another --output.")
    try:
        return _export(request, target, output, progress, on_gates, conversions if conversions is not None else {})
    except GateError as error:
        if not output.exists():
            raise
        raise GateError(
            f"{error} {output} is still the file of an earlier export: remove it if it must not be used."
        ) from error


def _export(
    request: Request,
    target: Target,
    output: Path,
    progress: Progress,
    on_gates: Callable[[list[GateRow]], None] | None,
    conversions: dict[str, Converted],
) -> Result:
    started = time.perf_counter()
    seconds: dict[str, float] = {}

    def lap(name: str) -> None:
        nonlocal started
        now = time.perf_counter()
        seconds[name] = round(now - started, 3)
        started = now

    progress("loading", 0, 1)
    source = _load(request)
    progress("loading", 1, 1)
    lap("load")
    crops, calibration_set, stand_in = _crops(request, source, progress)
    lap("crops")
    progress("converting", 0, 1)
    weights = weights_sha256(source.keras_model)
    key = f"{weights} {source.temperature!r}"
    if key not in conversions:
        conversions[key] = convert(source.keras_model, source.temperature)
    converted = conversions[key]
    progress("converting", 1, 1)
    lap("convert")
    common: dict[str, Any] = {
        "precision": request.precision,
        "threshold": source.threshold,
        "temperature": source.temperature,
        "overrides": request.gate_overrides,
        "progress": progress,
    }
    how = (converted.input_scaling, crops.images_nhwc, calibration_set, request.calibration_method, progress)
    lowered = lower(converted.model, "fp32", target if request.precision == "fp32" else "any", *how)
    fp32_parity = judge.against_keras(source.keras_model, lowered.model, crops, **common)
    lap("fp32 gates")
    if request.precision != "fp32":
        judge.enforce_float32(fp32_parity, lowered.model, crops, "The float32 graph behind this file")
        lowered = lower(converted.model, request.precision, target, *how)
    lap(f"lower to {request.precision}")
    model = lowered.model
    runner = runner_for(model, request.precision, target)
    measured = fp32_parity
    if request.precision != "fp32":
        measured = judge.against_fp32(converted.model, runner, crops, **common)
    rows = table(measured)
    if on_gates is not None:
        on_gates(rows)
    what = f"{output.name} ({request.precision}, {target})"
    if request.precision == "fp32":
        judge.enforce_float32(measured, model, crops, what)
    else:
        gates.enforce(measured, what, gates.advice(request.precision))
    judge.check_profile(runner, crops, request.batch_profile)
    lap("gates")
    self_test = golden.make(source.recipe, lambda images: runner(images)[0], request.precision)
    spec = ModelSpec(
        producer=f"glomedge {__version__}",
        created_utc=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        threshold=source.threshold,
        temperature=source.temperature,
        recipe=source.recipe,
        input_scaling=converted.input_scaling,
        precision=request.precision,
        target=target,
        opset=model.opset_import[0].version,
        batch_profile=request.batch_profile,
        weights_sha256=weights,
        multiply_adds=surgery.multiply_adds(converted.model),
        training=source.record.training if source.record is not None else None,
        operating_point=source.record.operating_point if source.record is not None else None,
        calibration=lowered.calibration,
        parity=measured,
        golden=self_test,
    )
    data = sealed(model.SerializeToString(), spec)
    progress("NVIDIA's parser", 0, 1)
    checked, engine = _tensorrt(request, target, data)
    progress("NVIDIA's parser", 1, 1)
    lap("tensorrt check")
    report = {
        "notice": RESEARCH_USE_NOTICE,
        "model": output.name,
        # As runners name the model: of everything before the seal. sha256sum gives the other one.
        "sha256": hashlib.sha256(data[:-SEAL_BYTES]).hexdigest(),
        "file_sha256": hashlib.sha256(data).hexdigest(),
        "size_bytes": len(data),
        "precision": request.precision,
        "target": target,
        "device": request.device,
        "judged_on": runner.name,
        "parity": measured.model_dump(),
        "float32_against_keras": fp32_parity.model_dump(),
        "drawn_crops_because": stand_in,
        "gates": [asdict(row) for row in rows],
        "steps": [*[asdict(step) for step in converted.steps], *lowered.notes.pop("steps", [])],
        **lowered.notes,
        "tensorrt": asdict(checked) if isinstance(checked, tensorrt.TensorRtCheck) else {"not_checked": checked},
        "peak_activation_bytes": {
            str(size): surgery.peak_activation_bytes(model, size)
            for size in sorted({request.batch_profile.min, request.batch_profile.opt, request.batch_profile.max})
        },
        "operators": surgery.op_counts(model),
        "multiply_adds": spec.multiply_adds,
        "versions": versions(),
        "seconds": seconds,
    }
    write_atomically(output, data)
    sha256 = read_model_file(output).sha256
    report_path, card_path = output.with_suffix(".export.json"), output.with_suffix(".card.md")
    written = [output, report_path, card_path]
    if engine is not None and isinstance(checked, tensorrt.TensorRtCheck):
        written += tensorrt.write_engine(output, engine, spec, sha256, checked)
    write_atomically(card_path, model_card.markdown(spec, output.name, sha256).encode())
    write_atomically(report_path, json.dumps(report, indent=1).encode())
    return Result(output, spec, rows, report, tuple(written))


def _check_tensorrt_wish(request: Request, target: Target) -> None:
    """``--require-tensorrt-check`` and ``--engine`` can be refused before a minute of converting."""
    if not (request.require_tensorrt_check or request.engine):
        return
    unfit = tensorrt.unfit(request.precision, target)
    if unfit is not None:
        raise UsageError(
            f"This file is {unfit}. Export with --target tensorrt, or leave out --engine and --require-tensorrt-check."
        )
    if not tensorrt.installed():
        raise MissingExtraError("NVIDIA's parser", "tensorrt-rtx", "tensorrt-rtx")


def _tensorrt(request: Request, target: Target, data: bytes) -> tuple[tensorrt.TensorRtCheck | str, bytes | None]:
    """NVIDIA's word on the file, or why it was not asked; the engine only where one was ordered."""
    unfit = tensorrt.unfit(request.precision, target)
    if unfit is not None:
        return unfit, None
    if not tensorrt.installed():
        return f"the package tensorrt-rtx is not installed ({install_command('glomedge[tensorrt-rtx]')})", None
    found, engine = tensorrt.check(data, request.batch_profile)
    tensorrt.enforce(found)
    return found, engine if request.engine else None


def versions() -> dict[str, str]:
    """The packages that made the file, by distribution name."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found
