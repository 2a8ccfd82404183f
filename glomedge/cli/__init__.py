"""The command line. One file per command: it parses, calls one library function and prints.

Nothing heavy is imported at the top of these files, so that ``--help`` answers at once and ``infer`` never
sees TensorFlow.
"""

from __future__ import annotations

import errno
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
from glomedge.cli.label import label
from glomedge.cli.recalibrate import recalibrate
from glomedge.cli.streams import lossy_output
from glomedge.cli.synth import synth
from glomedge.cli.train import train
from glomedge.cli.warm import warm
from glomedge.errors import GlomedgeError, UsageError
from glomedge.system.memory import (
    NEEDED_ADDRESS_SPACE_BYTES,
    address_space_limit_bytes,
    is_memory_error,
    out_of_memory,
)

app = typer.Typer(
    name="glomedge",
    help=f"Classify crops of kidney glomeruli as globally sclerotic or not, offline. {RESEARCH_USE_NOTICE}",
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
# Further arguments are what a shell makes of night/*.png; infer says what to type instead.
app.command("infer", context_settings={"allow_extra_args": True})(infer)
app.command("evaluate")(evaluate)
app.command("label")(label)
app.command("recalibrate")(recalibrate)
app.command("bench")(bench)
app.command("info")(info)
app.command("doctor")(doctor)
app.command("warm")(warm)
app.command("synth")(synth)
app.command("demo")(demo)


# The printed output is the only result of these commands: when it is lost, the command has failed.
_PRINTS_ITS_RESULT = ("info", "doctor", "evaluate")


def main() -> None:
    """Entry point of the ``glomedge`` command: a GlomedgeError becomes one message and its exit code."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    with lossy_output() as output:
        code = _exit_code(command)
        output.flush()
        if output.lost is not None and command in _PRINTS_ITS_RESULT and code in (0, 2):
            code = 1
            if output.lost.errno != errno.EPIPE:  # a pipe closed by its reader, such as head, needs no message
                reason = output.lost.strerror or str(output.lost)
                typer.echo(f"glomedge: the result could not be printed: standard output: {reason}.", err=True)
    sys.exit(code)


def _exit_code(command: str) -> int:
    try:
        _check_address_space(command)
        app()
    except GlomedgeError as error:
        return _failed(str(error), error.exit_code)
    except SystemExit as end:
        # click exits with 2 on a usage error, but here 2 means that some inputs have errors: only a command itself
        # may report that, and it does so by typer.Exit.
        if end.code == 2 and not isinstance(end.__context__, typer.Exit):
            return 1
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except Exception as error:
        if not is_memory_error(error):
            raise
        return _failed(out_of_memory(), 1)
    return 0


def _failed(message: str, code: int) -> int:
    typer.echo(f"glomedge: {message}", err=True)
    return code


def _check_address_space(command: str) -> None:
    """Refuse a limit on address space under which the libraries would abort the process without a message."""
    limit = address_space_limit_bytes()
    wants_help = any(argument in ("-h", "--help") for argument in sys.argv)
    if command in ("", "info", "--version") or wants_help or limit is None or limit >= NEEDED_ADDRESS_SPACE_BYTES:
        return
    raise UsageError(
        f"There is not enough memory: this process may use {limit // 1_000_000} MB of address space (ulimit -v), and "
        f"glomedge needs {NEEDED_ADDRESS_SPACE_BYTES // 1_000_000} MB or more. Raise the limit: ulimit -v unlimited"
    )
