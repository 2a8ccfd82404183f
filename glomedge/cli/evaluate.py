"""``glomedge evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glomedge.about import RESEARCH_USE_NOTICE

if TYPE_CHECKING:
    from glomedge.runs.evaluate import Evaluation


def evaluate(
    data: Annotated[Path, typer.Argument(help="Data set: public.csv (name, ground truth) and the crops.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="The exported model.")] = Path("artifacts/model.onnx"),
    provider: Annotated[str, typer.Option(help="auto, cpu, cuda, tensorrt, tensorrt-rtx or openvino.")] = "auto",
    allow_fallback: Annotated[bool, typer.Option("--allow-fallback", help="Take another provider if need be.")] = False,
    strict_placement: Annotated[
        bool, typer.Option("--strict-placement", help="Refuse when part of the model runs on another provider.")
    ] = False,
    labels: Annotated[Path | None, typer.Option(help="Labels elsewhere than DATA/public.csv.")] = None,
    split_file: Annotated[Path | None, typer.Option(help="split.csv of a training run.")] = None,
    split: Annotated[str | None, typer.Option(help="Which side of it: train, validation or test.")] = None,
    threshold: Annotated[float | None, typer.Option(help="Default: the model's.")] = None,
    case_pattern: Annotated[str | None, typer.Option(help="Regular expression with a group (?P<case>...).")] = None,
    batch_size: Annotated[int | None, typer.Option(min=1, max=1024, help="Crops per call of the model.")] = None,
    workers: Annotated[int | None, typer.Option(min=1, max=512, help="Decode threads.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
) -> None:
    """Compare predictions with labels: confusion matrix, accuracy, AUROC, sensitivity, specificity, %GS per case.

    Exit code 0: all labelled crops answered; 2: some had errors (they are in no figure); 1: could not run.
    """
    from glomedge.cli.progress import progress_bar
    from glomedge.runs.evaluate import evaluate_folder
    from glomedge.system.stopping import StopOnSignals

    with StopOnSignals() as stop, progress_bar() as progress:
        found = evaluate_folder(
            data,
            model,
            provider=provider,
            allow_fallback=allow_fallback,
            strict_placement=strict_placement,
            labels_file=labels,
            split_file=split_file,
            split=split,
            threshold=threshold,
            case_pattern=case_pattern,
            batch_size=batch_size,
            workers=workers,
            stop=stop,
            progress=progress,
        )
    if found is None:
        raise typer.Exit(stop.exit_code)
    if as_json:
        typer.echo(json.dumps(found.as_json(), indent=2))
    else:
        print_evaluation(found)
    raise typer.Exit(2 if found.errors else 0)


def print_evaluation(found: Evaluation) -> None:
    """The figures as lines, intervals in brackets."""
    confusion = found.confusion
    side = f", split {found.split}" if found.split else ""
    typer.echo(
        f"{found.answered} of {found.crops} labelled crops{side}; {found.provider}; threshold {found.threshold:g}"
    )
    typer.echo("")
    typer.echo("                               called globally sclerotic   called not")
    typer.echo(f"labelled globally sclerotic    {confusion.true_positive:>25}   {confusion.false_negative:>10}")
    typer.echo(f"labelled not                   {confusion.false_positive:>25}   {confusion.true_negative:>10}")
    typer.echo("")
    typer.echo(f"accuracy      {confusion.accuracy}")
    typer.echo(f"sensitivity   {confusion.sensitivity}")
    typer.echo(f"specificity   {confusion.specificity}")
    typer.echo(f"AUROC         {_number(found.auroc)}")
    typer.echo(f"AUPRC         {_number(found.average_precision)}  (average precision)")
    mean, largest = found.mean_case_error(), found.max_case_error()
    if mean is not None and largest is not None:
        typer.echo(
            f"%GS per case  mean error {mean:.1f}, largest {largest:.1f} percentage points, {len(found.cases)} cases"
        )
    for path, code in found.errors.items():
        typer.echo(f"error:{code}  {path}")
    for note in found.notes:
        typer.echo(f"Note: {note}")
    typer.echo(RESEARCH_USE_NOTICE)


def _number(value: float | None) -> str:
    return "undefined (one class only)" if value is None else f"{value:.4f}"
