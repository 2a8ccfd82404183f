"""``glomedge manifest``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli.options import DECODING, RESULTS


def manifest(
    folder: Annotated[
        str,
        typer.Argument(
            help="Folder of crops or slides (searched recursively); or crops in storage: s3://bucket/folder, gs://, "
            "az://, abfss://."
        ),
    ],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="File to write: .csv or .parquet.", rich_help_panel=RESULTS)
    ] = Path("manifest.csv"),
    follow_symlinks: Annotated[
        bool, typer.Option("--follow-symlinks", help="Follow symbolic links.", rich_help_panel=DECODING)
    ] = False,
) -> None:
    """List the inputs of a folder once, so that many runs or shards need not search it.

    The table has a row for each crop or slide: its path, and the biopsy and slide as the name tells them, which may be
    corrected. Give it to glomedge infer FOLDER --inputs. Of storage it has whole addresses, and FOLDER may be omitted.
    Exit code 2: some folders could not be listed.
    """
    from glomedge.files.addresses import place_of
    from glomedge.files.names import escape_name
    from glomedge.runs.manifest import write_manifest
    from glomedge.system.stopping import StopOnSignals, StoppedError

    with StopOnSignals() as stop:
        try:
            written = write_manifest(place_of(folder), output, follow_symlinks=follow_symlinks, stop=stop)
        except StoppedError:
            typer.echo("Stopped. Nothing was written.", err=True)
            raise typer.Exit(stop.exit_code) from None
    typer.echo(f"{escape_name(bytes(output))}: {written.rows} inputs.")
    for note in written.notes:
        typer.echo(f"Note: {note}")
    for name in written.unlisted:
        typer.echo(f"Note: the folder {name} cannot be listed; what it contains is missing.")
    typer.echo(RESEARCH_USE_NOTICE)
    raise typer.Exit(2 if written.unlisted else 0)
