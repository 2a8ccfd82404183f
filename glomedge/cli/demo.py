"""``glomedge demo``: the whole workflow on drawn crops."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, TextIO

import typer

from glomedge.about import RESEARCH_USE_NOTICE


def demo(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="Folder for the demo.")] = Path("glomedge-demo"),
    fresh: Annotated[bool, typer.Option("--fresh", help="Start over instead of continuing an earlier demo.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON; everything else to stderr.")
    ] = False,
) -> None:
    """Draw crops and slides, train, export, infer, recalibrate for another laboratory, serve: each command printed.

    demo.html in the new folder leads through the results. Some minutes; a demo that was stopped continues where it was.
    """
    from glomedge_export.demo.run import places, run_demo

    result_stream: TextIO = sys.stdout
    if as_json:
        # The commands write to our standard output: hand them standard error and keep the original for the result.
        result_stream = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    # SIGTERM becomes an exception, so that the command that is running is stopped with us.
    # A shell starts background commands with SIGINT ignored; handle it anyway if it is sent, as infer does.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        result = run_demo(directory, fresh=fresh, say=lambda line: print(line, flush=True))
    except KeyboardInterrupt:
        typer.echo("glomedge: stopped. Run the same command again to continue.", err=True)
        raise typer.Exit(130) from None
    if as_json:
        summary = {
            "notice": RESEARCH_USE_NOTICE,
            "directory": str(result.directory),
            "night": result.night.as_json(),
            "other_laboratory": {"before": result.before.as_json(), "after": result.after.as_json()},
            "seconds": {command: spent.seconds for command, spent in result.spent.items()},
            "processor_seconds": {command: spent.processor_seconds for command, spent in result.spent.items()},
            "total_seconds": round(result.total_seconds, 2),
        }
        print(json.dumps(summary, indent=1), file=result_stream, flush=True)
        return
    typer.echo(f"\nDone in {result.total_seconds:.0f} s.")
    for sentence in result.sentences():
        typer.echo(sentence)
    typer.echo("Where to look:")
    for path, what in places(result.directory):
        typer.echo(f"  {path}  {what}")
    typer.echo(RESEARCH_USE_NOTICE)
