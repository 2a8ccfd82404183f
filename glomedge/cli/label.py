"""``glomedge label``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli.options import LABELS, RESULTS, CasePattern, Model, Workers, json_option, takes_engine_options
from glomedge.cli.progress import Progress
from glomedge.cli.shell_patterns import typed
from glomedge.engine.options import DEFAULT_MODEL, EngineOptions
from glomedge.errors import UsageError

if TYPE_CHECKING:
    from glomedge.runs.label import TwoReaders


@takes_engine_options()
def label(
    folder: Annotated[
        Path | None, typer.Argument(metavar="DIR", help="Crops of your laboratory.", show_default=False)
    ] = None,
    *,
    model: Model = DEFAULT_MODEL,
    count: Annotated[int, typer.Option("-n", "--count", help="Crops to label.", rich_help_panel=LABELS)] = 30,
    seed: Annotated[int, typer.Option(help="Seed of the choice.", rich_help_panel=LABELS)] = 0,
    two_readers: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            "--two-readers",
            help="Instead: merge the labels.csv of two readers, and report how far they agree.",
            show_default=False,
            rich_help_panel=LABELS,
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the page and the tables.", rich_help_panel=RESULTS)
    ] = Path("labelling"),
    engine: EngineOptions,
    case_pattern: CasePattern = None,
    workers: Workers = None,
    as_json: Annotated[bool, json_option("Print JSON instead of text.")] = False,
) -> None:
    """Choose the crops whose labels say most about the model at your laboratory, and make a page to label them on.

    The page works offline in any browser, also on a tablet; it saves labels.csv for glomedge recalibrate.

    Writes label.html and chosen.csv (name, weight, case) into --output.
    """
    from glomedge.runs.label import LabelOptions, merge_readers, prepare_labelling
    from glomedge.system.stopping import StopOnSignals

    if two_readers is not None:
        if folder is not None:
            raise UsageError("--two-readers merges two tables and takes no folder of crops. Leave one of them out.")
        _print_two(merge_readers(*two_readers, output), as_json)
        return
    if folder is None:
        raise UsageError("Give the folder of crops to label: glomedge label DIR --model MODEL")
    options = LabelOptions(
        folder=folder,
        model=model,
        output=output,
        count=count,
        seed=seed,
        engine=engine,
        case_pattern=case_pattern,
        workers=workers,
    )
    with StopOnSignals() as stop, Progress() as progress:
        made = prepare_labelling(options, stop=stop, progress=progress.stage("crops"))
    if made is None:
        raise typer.Exit(stop.exit_code)
    if as_json:
        from dataclasses import asdict

        typer.echo(json.dumps({**asdict(made), "notice": RESEARCH_USE_NOTICE}, indent=2, default=str))
        return
    typer.echo(
        f"{made.chosen} of {made.crops} crops chosen, of {made.cases} of {made.all_cases} biopsies; {made.provider}"
    )
    for note in made.notes:
        typer.echo(f"Note: {note}")
    typer.echo(f"Open {made.page} in a browser, label the crops and save labels.csv. Then:")
    typer.echo(
        f"  glomedge recalibrate {typed(model)} labels.csv --images {typed(folder)} --site 'YOUR LAB' -o site.onnx"
    )
    typer.echo(RESEARCH_USE_NOTICE)


def _print_two(found: TwoReaders, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({**found.as_json(), "notice": RESEARCH_USE_NOTICE}, indent=2, ensure_ascii=False))
        return
    agreement, kappa = found.agreement, found.agreement.kappa()
    typer.echo(f"{agreement.agreed} of {agreement.crops} crops have the same label from both readers")
    if kappa is None:
        typer.echo("Cohen's kappa is undefined: chance alone explains the agreement")
    else:
        typer.echo(f"Cohen's kappa {kappa[0]:.2f} (95% interval {kappa[1]:.2f} to {kappa[2]:.2f})")
    for name in found.disagreed:
        typer.echo(f"disagreed: {name}")
    if found.alone:
        typer.echo(f"Note: {len(found.alone)} crops were labelled by one reader only and are left out.")
    typer.echo(
        f"Written to {found.path}; crops on which they disagree are 'unsure' there: settle them and edit the file, or "
        "leave them out."
    )
    typer.echo(RESEARCH_USE_NOTICE)
