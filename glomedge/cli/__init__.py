"""The command line. One file per command: it parses, calls one library function and prints.

Nothing heavy is imported at the top of these files, so that ``--help`` answers at once and ``infer`` never
sees TensorFlow.
"""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from glomedge.about import RESEARCH_USE_NOTICE, __version__
from glomedge.cli.bench import bench
from glomedge.cli.demo import demo
from glomedge.cli.doctor import doctor
from glomedge.cli.evaluate import evaluate
from glomedge.cli.export import export
from glomedge.cli.infer import infer
from glomedge.cli.info import info
from glomedge.cli.synth import synth
from glomedge.cli.train import train
from glomedge.cli.warm import warm
from glomedge.errors import GlomedgeError

app = typer.Typer(
    name="glomedge",
    help=f"Call kidney glomeruli globally sclerotic or not, at the edge. {RESEARCH_USE_NOTICE}",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"glomedge {__version__}. {RESEARCH_USE_NOTICE}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# Commands, in the order in which a user meets them.
app.command("train")(train)
app.command("export")(export)
app.command("infer")(infer)
app.command("evaluate")(evaluate)
app.command("bench")(bench)
app.command("info")(info)
app.command("doctor")(doctor)
app.command("warm")(warm)
app.command("synth")(synth)
app.command("demo")(demo)


def main() -> None:
    """Entry point of the ``glomedge`` command: a GlomedgeError becomes one message and its exit code."""
    try:
        app()
    except GlomedgeError as error:
        typer.echo(f"glomedge: {error}", err=True)
        sys.exit(error.exit_code)
    except SystemExit as end:
        # A wrong command line ends with 2 by click's custom, which here says that some inputs have errors: only a
        # command itself may say that, and does so by typer.Exit.
        if end.code == 2 and not isinstance(end.__context__, typer.Exit):
            sys.exit(1)
        raise
