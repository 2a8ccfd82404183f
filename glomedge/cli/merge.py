"""``glomedge merge``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from glomedge.cli.options import RESULTS, json_option


def merge(
    shards: Annotated[
        list[Path],
        typer.Argument(
            metavar="SHARD...",
            help="The folders that glomedge infer --shard wrote, or the folder that they lie in.",
            show_default=False,
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.", rich_help_panel=RESULTS)],
    *,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace results that are in --output.", rich_help_panel=RESULTS)
    ] = False,
    as_json: Annotated[bool, json_option("Print run.json instead of the summary.")] = False,
) -> None:
    """Join the shards of a run into the results that one process would have written.

    Formats, report, heatmaps and the rules for biopsies are those that the shards were run with. Shards that are
    missing, there twice, not finished, or of another run (model, recipe, threshold, inputs ...) are refused by name.
    Exit code 0: every image was classified; 2: some inputs have an error row; 1: nothing was written; 130 or 143:
    stopped, nothing was written.
    """
    from glomedge.cli.infer import print_summary
    from glomedge.runs.merge import MergeOptions, merge_shards
    from glomedge.system.stopping import StopOnSignals, StoppedError

    with StopOnSignals() as stop:
        try:
            outcome = merge_shards(MergeOptions(tuple(shards), output, overwrite), stop=stop)
        except StoppedError:
            typer.echo("Stopped. Nothing was written. Run again to merge.", err=True)
            raise typer.Exit(stop.exit_code) from None
    if as_json:
        typer.echo(json.dumps(outcome.record, indent=2, ensure_ascii=False))
    else:
        print_summary(outcome, output)
    raise typer.Exit(outcome.exit_code)
