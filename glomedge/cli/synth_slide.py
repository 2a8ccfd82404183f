"""``glomedge synth-slide``: draw whole slides with outlines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli.options import json_option
from glomedge.cli.progress import Progress


def synth_slide(
    directory: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to draw into; created when missing.")],
    glomeruli: Annotated[int, typer.Option(min=1, help="Number of outlined glomeruli.")] = 24,
    cases: Annotated[int, typer.Option(min=1, help="Number of biopsies, each of one to six slides.")] = 3,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same slides.")] = 0,
    positive_fraction: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Share of globally sclerotic glomeruli.")
    ] = 0.35,
    as_json: Annotated[bool, json_option("Print the summary as JSON.")] = False,
) -> None:
    """Draw whole slides (no patient data) with their outlines in every format that glomedge reads."""
    from glomedge_export.synthetic.slide import write_slides

    with Progress() as progress:
        drawn = write_slides(
            directory,
            glomeruli=glomeruli,
            cases=cases,
            seed=seed,
            positive_fraction=positive_fraction,
            progress=progress.stage("Drawing"),
        )
    if as_json:
        summary = {
            "notice": RESEARCH_USE_NOTICE,
            "directory": str(drawn.directory),
            "slides": drawn.slides,
            "glomeruli": drawn.glomeruli,
            "positive": drawn.positive,
            "cases": drawn.cases,
            "seed": seed,
        }
        typer.echo(json.dumps(summary, indent=1))
        return
    slides = _counted(len(drawn.slides), "slide")
    outlined = "1 outlined glomerulus" if drawn.glomeruli == 1 else f"{drawn.glomeruli} outlined glomeruli"
    typer.echo(
        f"Drew {slides} of {_counted(drawn.cases, 'case')} with {outlined} ({drawn.positive} globally sclerotic) "
        f"into {drawn.directory}. {RESEARCH_USE_NOTICE}"
    )
    typer.echo(
        f"Next: glomedge infer {drawn.directory} --format geojson, or glomedge crop {drawn.directory} --output crops"
    )


def _counted(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
