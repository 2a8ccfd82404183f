"""``glomedge export``: Keras model -> one verified, self-describing ONNX file."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli.options import json_option, model_argument, model_option, one_model
from glomedge.cli.progress import Progress
from glomedge.errors import MissingExtraError, UsageError

if TYPE_CHECKING:
    from glomedge.model.gate_table import GateRow
    from glomedge_export.export import Result

DEFAULT_KERAS = Path("artifacts/model.keras")


def export(
    model_path: Annotated[
        Path | None,
        model_argument("A Keras model: of glomedge train, or any .keras, .h5 or SavedModel folder.", DEFAULT_KERAS),
    ] = None,
    model: Annotated[Path | None, model_option()] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="The .onnx file to write (default: next to the model)")
    ] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, fp16 or int8 (default: fp32)")] = None,
    target: Annotated[
        str | None, typer.Option(help="Optimise the file for a runtime: onnxruntime, tensorrt or openvino.")
    ] = None,
    calibration: Annotated[
        Path | None,
        typer.Option(
            "--calibration",
            "--data",
            metavar="DATA",
            help="Labelled crops. The training data set of a model of glomedge train: its training split calibrates "
            "int8, the rest serves the gates (default: where it was during training). Of any other model: half of the "
            "biopsies fits temperature and threshold, the other half is counted on.",
        ),
    ] = None,
    calibration_crops: Annotated[int, typer.Option(min=1, help="Number of training crops for int8 calibration.")] = 256,
    calibration_method: Annotated[
        str, typer.Option(help="auto (best parity of the three), minmax, entropy or percentile.")
    ] = "auto",
    recipe: Annotated[
        str | None,
        typer.Option(help="How the crops were enhanced, if the model does not say: seed, published or plain."),
    ] = None,
    input_scaling: Annotated[
        str | None,
        typer.Option(
            "--input-scaling",
            help="How pixels are scaled before a model that does not do it itself: resnet, resnet_v2, torch, unit or "
            "none.",
        ),
    ] = None,
    logits: Annotated[
        bool, typer.Option("--logits", help="The model's last layer has no activation: it gives logits.")
    ] = False,
    positive_class: Annotated[
        int | None,
        typer.Option(min=0, max=1, help="Which of two outputs is globally sclerotic, for a model with two."),
    ] = None,
    input_side: Annotated[
        int | None, typer.Option(metavar="PX", help="Side of the input, for a model that leaves it open.")
    ] = None,
    case_pattern: Annotated[
        str | None, typer.Option(help="How biopsies are named in --data (default: found in the names)")
    ] = None,
    threshold: Annotated[
        str | None,
        typer.Option(
            metavar="VALUE|youden|sensitivity=S",
            help="Decision threshold of a model without a training record; a rule is fitted on --data (default: 0.5)",
        ),
    ] = None,
    batch_profile: Annotated[
        str | None, typer.Option(metavar="MIN,OPT,MAX", help="Batch sizes of an engine (default: 1,8,32)")
    ] = None,
    gate_crops: Annotated[
        int | None, typer.Option(min=64, help="Approximate number of held-out crops to compare.")
    ] = None,
    gate_probability: Annotated[
        str | None, typer.Option(metavar="LIMIT|off", help="Gate: largest |difference| in probability.")
    ] = None,
    gate_flips: Annotated[
        str | None, typer.Option(metavar="LIMIT|off", help="Gate: largest fraction of flipped decisions.")
    ] = None,
    gate_auroc: Annotated[str | None, typer.Option(metavar="LIMIT|off", help="Gate: largest loss of AUROC.")] = None,
    gate_grades: Annotated[
        str | None, typer.Option(metavar="LIMIT|off", help="Gate: largest fraction of biopsies changing grade.")
    ] = None,
    gate_map: Annotated[
        str | None, typer.Option(metavar="LIMIT|off", help="Gate: smallest rank correlation of the activation map.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Preset of all these for a device; see --list-devices.")] = None,
    list_devices: Annotated[bool, typer.Option("--list-devices", help="Explain the device recipes and exit.")] = False,
    require_tensorrt_check: Annotated[
        bool, typer.Option("--require-tensorrt-check", help="Fail if NVIDIA's parser is not installed.")
    ] = False,
    engine: Annotated[
        bool, typer.Option("--engine", help="Also write the portable TensorRT-RTX engine and its passport.")
    ] = False,
    with_preprocessing: Annotated[
        bool,
        typer.Option(
            "--with-preprocessing",
            help="Also write enhance.onnx: the colour enhancement for programs without Python, the same to the byte.",
        ),
    ] = False,
    merged: Annotated[
        bool,
        typer.Option("--merged", help="Also write MODEL.merged.onnx: enhancement and model in one, for onnxruntime."),
    ] = False,
    as_json: Annotated[bool, json_option("Print the report as JSON.")] = False,
) -> None:
    """Export a Keras model to one self-describing ONNX file that is checked against its own framework."""
    if list_devices:
        from glomedge_export.device_recipes import DEVICES

        for recipe_of in DEVICES.values():
            profile = recipe_of.profile
            typer.echo(
                f"{recipe_of.name:<16} {recipe_of.precision}, {recipe_of.target}, batches {profile.min},{profile.opt},"
                f"{profile.max}, opset {recipe_of.opset}: {recipe_of.why}"
            )
        return
    keras_model = one_model(model_path, model, DEFAULT_KERAS)
    try:
        from glomedge_export.quiet_tensorflow import start_tensorflow

        # First, because tf2onnx also loads TensorFlow.
        start_tensorflow(exact=True)
        import onnx  # noqa: F401
        import tf2onnx  # noqa: F401
    except ModuleNotFoundError as error:
        raise MissingExtraError("glomedge export", str(error.name), "export") from error
    if importlib.util.find_spec("onnxruntime") is None:
        # The extra `export` leaves the choice between the CPU and the GPU wheel to the user.
        raise MissingExtraError("glomedge export", "onnxruntime", "export,cpu")
    from glomedge_export.enhancement.files import Companions
    from glomedge_export.export import Request, Tell
    from glomedge_export.export import export as run
    from glomedge_export.export_source.source import Said
    from glomedge_export.graph.anatomy import GIVEN_SCALINGS, Choices

    chosen, layout, batches = _for_device(device, precision, target, batch_profile)
    request = Request(
        model=keras_model,
        output=output,
        precision=_choice("--precision", chosen, ("fp32", "fp16", "int8")),
        target=_choice("--target", layout, ("any", "onnxruntime", "tensorrt", "openvino")) if layout else None,
        said=Said(
            recipe=_choice("--recipe", recipe, ("seed", "published", "plain")) if recipe else None,
            choices=Choices(
                _choice("--input-scaling", input_scaling, GIVEN_SCALINGS) if input_scaling else None,
                logits,
                1 if positive_class == 1 else 0 if positive_class == 0 else None,
            ),
            side_px=input_side,
            threshold=threshold,
            data=calibration,
            case_pattern=case_pattern,
        ),
        calibration_crops=calibration_crops,
        calibration_method=_choice(
            "--calibration-method", calibration_method, ("auto", "minmax", "entropy", "percentile")
        ),
        batch_profile=_profile(batches),
        gate_overrides=_overrides(
            max_probability_difference=gate_probability,
            max_flip_fraction=gate_flips,
            max_auroc_loss=gate_auroc,
            max_grade_change_fraction=gate_grades,
            min_map_rank_correlation=gate_map,
        ),
        gate_crops=gate_crops,
        require_tensorrt_check=require_tensorrt_check,
        engine=engine,
        device=device,
        companions=Companions(with_preprocessing, merged),
    )
    with Progress() as progress:
        tell = Tell(
            found=lambda lines: progress.pause(lambda: _found(lines)),
            gates=lambda rows: progress.pause(lambda: _gate_table(rows)),
        )
        result = run(request, progress, Tell() if as_json else tell)
    if as_json:
        typer.echo(json.dumps(result.report, indent=1))
    else:
        _summary(result)


def _for_device(
    name: str | None, precision: str | None, target: str | None, batch_profile: str | None
) -> tuple[str, str | None, str]:
    """Precision, target and batch profile: as given, else from the device recipe, else float32."""
    if name is None:
        return precision or "fp32", target, batch_profile or "1,8,32"
    from glomedge_export.device_recipes import device

    recipe = device(name)
    profile = recipe.profile
    # A precision given explicitly may not fit the recipe's target; the precision's own default is then used.
    own_target = recipe.target if precision in (None, recipe.precision) else None
    return (
        precision or recipe.precision,
        target or own_target,
        batch_profile or f"{profile.min},{profile.opt},{profile.max}",
    )


def _choice(option: str, value: str, allowed: tuple[str, ...]) -> Any:
    if value not in allowed:
        raise UsageError(f"{option} {value!r} is not known. Choose {', '.join(allowed[:-1])} or {allowed[-1]}.")
    return value


def _found(lines: tuple[str, ...]) -> None:
    for line in lines:
        typer.echo(line)


def _profile(text: str) -> Any:
    from glomedge.model.spec import BatchProfile

    try:
        low, best, high = (int(part) for part in text.split(","))
    except ValueError:
        low = best = high = 0
    if not 1 <= low <= best <= high:
        raise UsageError(f"--batch-profile {text!r} is not three rising batch sizes. Write, for example, 1,8,32.")
    return BatchProfile(min=low, opt=best, max=high)


def _overrides(**given: str | None) -> dict[str, float | None]:
    values: dict[str, float | None] = {}
    for name, text in given.items():
        if text is None:
            continue
        try:
            values[name] = None if text == "off" else float(text)
        except ValueError:
            raise UsageError(
                f"The gate limit {text!r} is neither a number nor 'off'. Write, for example, 0.01."
            ) from None
    return values


def _gate_table(rows: list[GateRow]) -> None:
    typer.echo(f"{'gate':<52}{'measured':>12}{'limit':>10}  verdict")
    for row in rows:
        measured = "-" if row.measured is None else f"{row.measured:.3g}"
        limit = "-" if row.limit is None else f"{row.limit:g}"
        verdict = "pass" if row.passed else "REFUSED"
        typer.echo(f"{row.name:<52}{measured:>12}{limit:>10}  {verdict}{f'  ({row.note})' if row.note else ''}")


def _summary(result: Result) -> None:
    parity = result.spec.parity
    assert parity is not None
    typer.echo(
        f"Compared with {parity.reference} on {parity.crops} crops of {parity.cases} biopsies ({parity.source}; "
        f"probabilities spread over {parity.probability_spread:.2f}), judged on {result.report['judged_on']}."
    )
    for path in result.written:
        size_bytes = path.stat().st_size
        size = f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.1f} kB"
        typer.echo(f"wrote {path}  ({size})")
    typer.echo(f"Next: glomedge infer DIR --model {result.path}")
    typer.echo(RESEARCH_USE_NOTICE)
