"""``glomedge train``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli.options import CasePattern, json_option
from glomedge.cli.progress import TrainingProgress
from glomedge.cli.shell_patterns import require_one_data_set
from glomedge.errors import MissingExtraError


def train(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(help="Folder with public.csv and the two folders of crops.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for model, record and report.")] = Path(
        "artifacts"
    ),
    weights: Annotated[
        str, typer.Option(help="imagenet (downloaded), none, or a file: Keras' ResNet50V2 .h5, .keras, .weights.h5.")
    ] = "imagenet",
    epochs: Annotated[
        int, typer.Option(min=0, help="Epochs; the best by validation loss is kept. 0: --pretrain-epochs alone.")
    ] = 7,
    batch_size: Annotated[int, typer.Option(min=1, help="Crops per step.")] = 32,
    pretrain_epochs: Annotated[
        int, typer.Option(min=0, help="With --weights none: train all layers first, for this many epochs, such as 33.")
    ] = 0,
    pretrain_window: Annotated[
        int | None,
        typer.Option(
            help="With --pretrain-epochs: train on windows of this many pixels, such as 112, of the full-size crops: "
            "for runs of minutes. Default: whole crops, small ones first.",
            show_default=False,
        ),
    ] = None,
    augment: Annotated[
        Literal["standard", "stain"] | None,
        typer.Option(
            help="standard: flips and rotation; stain: colour, focus, resampling and JPEG as well, for slides of other "
            "laboratories. Default: stain with --pretrain-epochs, else standard.",
            show_default=False,
        ),
    ] = None,
    optimizer: Annotated[Literal["sgd", "adam"], typer.Option(help="Optimizer.")] = "sgd",
    learning_rate: Annotated[float, typer.Option(help="Learning rate.")] = 0.001,
    class_weight: Annotated[
        Literal["none", "balanced"], typer.Option(help="balanced: both classes have the same weight in the loss.")
    ] = "none",
    seed: Annotated[int, typer.Option(min=0, help="Seed of split, initial weights, order and augmentation.")] = 42,
    early_stopping: Annotated[
        int, typer.Option(min=0, help="Stop after this many epochs without a lower validation loss; 0: never.")
    ] = 0,
    compute_dtype: Annotated[
        Literal["float32", "bfloat16"],
        typer.Option(help="Data type of training convolutions; bfloat16 is faster on processors that support it."),
    ] = "float32",
    recipe: Annotated[Literal["seed", "published", "plain"], typer.Option(help="Colour enhancement.")] = "seed",
    saturation: Annotated[
        float | None, typer.Option(help="Saturation factor. Default: the recipe's.", show_default=False)
    ] = None,
    hue_degrees: Annotated[
        float | None, typer.Option(help="Hue shift. Default: the recipe's.", show_default=False)
    ] = None,
    equalise: Annotated[
        bool | None, typer.Option("--equalise/--no-equalise", help="Equalise the histogram of Y.", show_default=False)
    ] = None,
    input_scaling: Annotated[
        Literal["resnet", "resnet_v2"] | None,
        typer.Option(help="Scaling inside the network. Default: the recipe's (resnet; plain, published: resnet_v2)."),
    ] = None,
    split: Annotated[
        Literal["case", "random"], typer.Option(help="case: by biopsy; random: the published split of crops.")
    ] = "case",
    split_file: Annotated[Path | None, typer.Option(help="Use this split.csv instead.")] = None,
    case_pattern: CasePattern = None,
    site: Annotated[
        str | None,
        typer.Option(
            help="Laboratory of these slides: infer --site gives corrected percentages there.", show_default=False
        ),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(
            help="Microns per pixel of the crops: infer flags slides whose own differ by more than a fifth.",
            show_default=False,
        ),
    ] = None,
    threshold: Annotated[
        str, typer.Option(help="A number, or a rule for validation crops: youden, sensitivity=0.95.")
    ] = "0.5",
    calibrate: Annotated[
        bool, typer.Option("--calibrate/--no-calibrate", help="Fit a temperature on validation crops.")
    ] = True,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue after the last complete epoch in --output.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace the finished model or the stopped run in --output.")
    ] = False,
    tensorboard: Annotated[Path | None, typer.Option(help="Folder for TensorBoard logs.")] = None,
    cache_dir: Annotated[
        Path | None,
        typer.Option(help="Folder for the enhanced crops. Default: cache/ in --output.", show_default=False),
    ] = None,
    as_json: Annotated[bool, json_option("Print metrics.json instead of the table.")] = False,
) -> None:
    """Train on labelled crops: check the data, split by biopsy, fit, and report held-out metrics with intervals.

    Writes model.keras with its record, split.csv, history.csv, curves.png, metrics.json and training-report.html.
    """
    require_one_data_set("train", [data, *map(Path, context.args)])
    try:
        from glomedge_export.training.options import FitOptions, TrainOptions
        from glomedge_export.training.recipes import recipe_of, scaling_of
        from glomedge_export.training.run import train as run

        options = TrainOptions(
            data=data,
            output=output,
            fit=FitOptions(
                weights=weights,
                input_scaling=input_scaling or scaling_of(recipe),
                optimizer=optimizer,
                learning_rate=learning_rate,
                epochs=epochs,
                batch_size=batch_size,
                class_weight=class_weight,
                seed=seed,
                early_stopping=early_stopping,
                compute_dtype=compute_dtype,
                pretrain_epochs=pretrain_epochs,
                pretrain_window_px=pretrain_window,
                augment=augment,
            ),
            recipe=recipe_of(recipe, saturation_factor=saturation, hue_degrees=hue_degrees, equalise=equalise),
            case_pattern=case_pattern,
            site=site,
            mpp=mpp,
            split=split,
            split_file=split_file,
            threshold=threshold,
            calibrate=calibrate,
            resume=resume,
            overwrite=overwrite,
            tensorboard_dir=tensorboard,
            cache_dir=cache_dir,
        )
        with TrainingProgress(epochs) as progress:
            result = run(options, progress)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in ("tensorflow", "keras", "h5py", "matplotlib"):
            raise MissingExtraError("Training", str(error.name), "export") from error
        raise
    if as_json:
        typer.echo(json.dumps(result.summary, indent=1))
    else:
        _print_summary(result.summary, output)


def _print_summary(summary: dict[str, Any], output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    kept = f"kept: epoch {summary['best_epoch']} of {summary['epochs']}" if summary["epochs"] else "all layers trained"
    table = Table(title=f"Held-out test crops ({kept})")
    for column in ("figure", "value", "95% interval"):
        table.add_column(column, justify="left" if column == "figure" else "right")
    for name, interval in summary["test"].items():
        bounds = "" if interval["low"] is None else f"{interval['low']:.3f} to {interval['high']:.3f}"
        table.add_row(name, f"{interval['value']:.3f}", bounds)
    console = Console(highlight=False)
    console.print(table)
    for side, counts in summary["splits"].items():
        console.print(f"{side}: {counts['crops']} crops, {counts['positive']} positive, {counts['cases']} biopsies")
    console.print(f"threshold {summary['threshold']:.4f}, temperature {summary['temperature']:.4f}")
    console.print(f"wrote {output / 'model.keras'}, {output / 'training-report.html'}", markup=False, soft_wrap=True)
    console.print(f"Next: glomedge export {output / 'model.keras'}", markup=False, soft_wrap=True)
    console.print(RESEARCH_USE_NOTICE)
