"""Starting this program's own modules in processes of their own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from glomedge.system.telemetry import PLUGIN_OPT_OUTS

# The child's standard library and packages come first, so that no folder of the parent's can stand in for one.
_START = (
    "import runpy, sys; module, extra = sys.argv[1:3]; del sys.argv[1:3]; "
    f"sys.path += [folder for folder in extra.split({os.pathsep!r}) if folder and folder not in sys.path]; "
    "runpy.run_module(module, run_name='__main__', alter_sys=True)"
)


def python_command(module: str, *arguments: str) -> list[str]:
    """The command that runs a module with this interpreter, as ``python -m`` does, wherever it was imported from.

    ``python -m`` would put the current folder first: a ``random.py`` of the user's in it would be run in place of the
    library's. ``-P`` prevents that. The folders that this process imports from come last, and of the current folder's
    only glomedge itself, where it is a checkout that is not installed.
    """
    here, checkout = Path.cwd(), Path(__file__).resolve().parents[2]
    folders = [folder for folder in sys.path if folder and (Path(folder) != here or checkout == here)]
    return [sys.executable, "-P", "-c", _START, module, os.pathsep.join(folders), *arguments]


def child_environment() -> dict[str, str]:
    """This process's environment, for a child and for what the child starts in turn."""
    return {**PLUGIN_OPT_OUTS, **os.environ, "PYTHONSAFEPATH": "1"}
