"""``glomedge synth``: draw a labelled data set."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli.options import json_option
from glomedge.cli.progress import Progress


def synth(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder to draw into; created when missing.")],
    crops: Annotated[int, typer.Option(min=1, help="Number of crops.")] = 240,
    cases: Annotated[int, typer.Option(min=1, help="Number of biopsies.")] = 12,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same pictures.")] = 0,
    positive_fraction: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of globally sclerotic crops.")
    ] = 0.35,
    laboratory: Annotated[int, typer.Option(help="1, or 2: another laboratory, which stains and scans otherwise.")] = 1,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Drawing threads; does not change the pictures.", show_default="all")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Draw into a folder that contains other files.")] = False,
    as_json: Annotated[bool, json_option("Print the summary as JSON.")] = False,
) -> None:
    """Draw labelled glomerulus crops (no patient data) in the layout that train, infer and evaluate read."""
    from glomedge_export.synthetic.dataset import write_dataset

    with Progress() as progress:
        drawn = write_dataset(
            directory,
            crops=crops,
            cases=cases,
            seed=seed,
            positive_fraction=positive_fraction,
            laboratory=laboratory,
            workers=workers,
            force=force,
            progress=progress.stage("Drawing"),
        )
    if as_json:
        summary = {
            "notice": RESEARCH_USE_NOTICE,
            "directory": str(drawn.directory),
            "crops": drawn.crops,
            "positive": drawn.positive,
            "cases": len(drawn.percent_gs),
            "percent_gs": drawn.percent_gs,
            "seed": seed,
        }
        typer.echo(json.dumps(summary, indent=1))
        return
    percents = sorted(drawn.percent_gs.values())
    typer.echo(
        f"Drew {drawn.crops} crops ({drawn.positive} globally sclerotic, {drawn.crops - drawn.positive} not) "
        f"of {len(percents)} biopsies ({percents[0]:.0f}% to {percents[-1]:.0f}% globally sclerotic) "
        f"into {drawn.directory}. {RESEARCH_USE_NOTICE}"
    )
    typer.echo(f"Next: glomedge train {drawn.directory}")
