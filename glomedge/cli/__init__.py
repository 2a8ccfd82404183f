"""The command line. One file per command: it parses, calls one library function and prints.

A command's parameters are its options: typer reads them off the signature. So these functions are as long as their
lists of options, whatever the limit elsewhere.

Nothing heavy is imported at the top of these files, so that ``--help`` answers at once and ``infer`` never
sees TensorFlow.
"""

from __future__ import annotations

import errno
import gc
import importlib
import sys
from collections.abc import Iterable
from types import MappingProxyType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glomedge.about import RESEARCH_USE_NOTICE, __version__
from glomedge.cli.streams import lossy_output
from glomedge.errors import GlomedgeError, UsageError
from glomedge.system.memory import (
    NEEDED_ADDRESS_SPACE_BYTES,
    address_space_limit_bytes,
    is_memory_error,
    out_of_memory,
)
from glomedge.system.telemetry import silence_plugins

# Further arguments are what a shell makes of night/*.png; these commands say what to type instead (shell_patterns.py).
_SEVERAL_NAMES = {"context_settings": {"allow_extra_args": True}}

# Commands, in the order in which a user meets them: each is the function of that name in the file of that name, with
# ``_`` for ``-``. What is beside it goes to typer.
COMMANDS: MappingProxyType[str, dict[str, Any]] = MappingProxyType(
    {
        "train": _SEVERAL_NAMES,
        "export": {},
        "export-triton": {},
        "export-page": {},
        "infer": _SEVERAL_NAMES,
        "infer-ray": {},
        "merge": {},
        "manifest": {},
        "evaluate": _SEVERAL_NAMES,
        "label": {},
        "recalibrate": {},
        "bench": _SEVERAL_NAMES,
        "info": {},
        "doctor": {},
        "warm": {},
        "serve": {},
        "crop": {},
        "synth": {},
        "synth-slide": {},
        "demo": {},
    }
)

if TYPE_CHECKING:
    app: typer.Typer


def __getattr__(name: str) -> Any:
    """``glomedge.cli.app`` with every command, made when it is asked for."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()["app"] = made = build(COMMANDS)
    return made


def build(names: Iterable[str]) -> typer.Typer:
    """The application with these commands; the files of the others are not imported, which a start would wait for."""
    made = typer.Typer(
        name="glomedge",
        help=f"Classify crops of kidney glomeruli as globally sclerotic or not, offline. {RESEARCH_USE_NOTICE}",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode="rich",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    made.callback()(_root)
    for name in names:
        word = name.replace("-", "_")
        function = getattr(importlib.import_module(f"{__name__}.{word}"), word)
        made.command(name, **COMMANDS[name])(function)
    return made


def _version(value: bool) -> None:
    if value:
        typer.echo(f"glomedge {__version__}. {RESEARCH_USE_NOTICE}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# Python looks for unreachable cycles after 700 new objects. Imports make a hundred times as many, which all stay:
# looking so often costs 30 ms of a start.
_COLLECT_AFTER = 20_000

# The printed output is the only result of these commands: when it is lost, the command has failed.
_PRINTS_ITS_RESULT = ("info", "doctor", "evaluate")


def main() -> None:
    """Entry point of the ``glomedge`` command: a GlomedgeError becomes one message and its exit code."""
    command = sys.argv[1] if len(sys.argv) > 1 else ""
    gc.set_threshold(_COLLECT_AFTER)
    silence_plugins()
    with lossy_output() as output:
        code = _exit_code(command)
        output.flush()
        if output.lost is not None and command in _PRINTS_ITS_RESULT and code in (0, 2):
            code = 1
            if output.lost.errno != errno.EPIPE:  # a pipe closed by its reader, such as head, needs no message
                reason = output.lost.strerror or str(output.lost)
                typer.echo(f"glomedge: the result could not be printed: standard output: {reason}.", err=True)
    sys.exit(code)


def _needed(command: str) -> Iterable[str]:
    """The commands that this start needs: its own, or all for the help and for a word that is none of them."""
    if command == "--version":
        return ()
    return (command,) if command in COMMANDS else COMMANDS


def _exit_code(command: str) -> int:
    try:
        _check_address_space(command)
        build(_needed(command))()
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
