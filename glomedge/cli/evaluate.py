"""``glomedge evaluate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli.options import (
    LABELS,
    RESULTS,
    CasePattern,
    Model,
    Threshold,
    Workers,
    json_option,
    takes_engine_options,
)
from glomedge.cli.progress import Progress
from glomedge.cli.shell_patterns import require_one_data_set
from glomedge.engine.options import DEFAULT_MODEL, EngineOptions

if TYPE_CHECKING:
    from glomedge.runs.evaluate import Evaluation
    from glomedge.runs.validation import Validation


@takes_engine_options()
def evaluate(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(help="Data set: public.csv (name, ground truth) and the crops.")],
    *,
    model: Model = DEFAULT_MODEL,
    threshold: Threshold = None,
    engine: EngineOptions,
    labels: Annotated[
        Path | None,
        typer.Option(help="Label file, if not DATA/public.csv.", show_default=False, rich_help_panel=LABELS),
    ] = None,
    split_file: Annotated[
        Path | None, typer.Option(help="split.csv of a training run.", show_default=False, rich_help_panel=LABELS)
    ] = None,
    split: Annotated[
        str | None,
        typer.Option(
            help="Which side of --split-file: train, validation or test.", show_default=False, rich_help_panel=LABELS
        ),
    ] = None,
    case_pattern: CasePattern = None,
    workers: Workers = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Write a validation report (HTML) to file.", show_default=False, rich_help_panel=RESULTS),
    ] = None,
    require: Annotated[
        str | None,
        typer.Option(
            help="Exit with 1 if a figure misses: sensitivity=0.9,specificity=0.9,auroc=0.95.",
            show_default=False,
            rich_help_panel=RESULTS,
        ),
    ] = None,
    as_json: Annotated[bool, json_option("Print JSON instead of the table.")] = False,
) -> None:
    """Compare predictions with labels: confusion matrix, accuracy, AUROC, sensitivity, specificity, %GS per case.

    Exit code 0: every labelled crop was classified; 2: some had errors (excluded from all figures); 1: failed, or a
    figure of --require was missed.
    """
    from glomedge.cases.acceptance import parse_requirements
    from glomedge.model.file import read_model_file
    from glomedge.runs.evaluate import evaluate_folder
    from glomedge.runs.options import EvaluateOptions
    from glomedge.system.stopping import StopOnSignals

    require_one_data_set("evaluate", [data, *map(Path, context.args)])
    requirements = tuple(parse_requirements(require)) if require is not None else ()
    options = EvaluateOptions(
        data=data,
        model=model,
        engine=engine,
        labels_file=labels,
        split_file=split_file,
        split=split,
        threshold=threshold,
        case_pattern=case_pattern,
        workers=workers,
    )
    if report is not None:
        from glomedge.runs.validation import check_report

        options.check()
        check_report(report, options)
    with StopOnSignals() as stop, Progress() as progress:
        found = evaluate_folder(options, stop=stop, progress=progress.stage("crops"))
    if found is None:
        raise typer.Exit(stop.exit_code)
    validation = None
    if report is not None or requirements:
        from glomedge.runs.validation import Validation, write_validation

        validation = Validation(found, read_model_file(model).spec, requirements)
    if as_json:
        typer.echo(json.dumps({**found.as_json(), **(validation.as_json() if validation else {})}, indent=2))
    else:
        print_evaluation(found, validation)
    # After the figures: whatever happens to the report, they were measured.
    if report is not None and validation is not None:
        write_validation(report, options, validation)
        if not as_json:
            typer.echo(f"Written to {report}")
    if validation is not None and validation.missed:
        raise typer.Exit(1)
    raise typer.Exit(2 if found.errors else 0)


def print_evaluation(found: Evaluation, validation: Validation | None = None) -> None:
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
    for one in validation.requirements if validation is not None else ():
        assert validation is not None
        figure = validation.figures.get(one.name)
        measured = "undefined" if figure is None else f"{figure.value:.4f}"
        typer.echo(
            f"required      {one.name} {'<=' if one.at_most else '>='} {one.limit:g}: "
            f"{'met' if one.met(validation.figures) else 'MISSED'} ({measured})"
        )
    for path, code in found.errors.items():
        typer.echo(f"error:{code}  {path}")
    for note in found.notes:
        typer.echo(f"Note: {note}")
    typer.echo(RESEARCH_USE_NOTICE)


def _number(value: float | None) -> str:
    return "undefined (one class only)" if value is None else f"{value:.4f}"
