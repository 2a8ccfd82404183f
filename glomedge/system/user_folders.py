"""Where this user's files belong; a service or a container may have no home at all."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def home() -> Path | None:
    """The user's home; None without HOME and without an entry in the password database, or where HOME is relative."""
    try:
        found = Path.home()
    except RuntimeError:
        return None
    return found if found.is_absolute() else None


def cache_folder() -> Path | None:
    """The user's cache folder for glomedge by the platform's custom (XDG on Linux); it need not exist yet.

    None where the user has no home. A relative ``XDG_CACHE_HOME`` is ignored, as the XDG Base Directory Specification
    asks; followed, it would put a cache into whatever folder the command is started in.
    """
    if sys.platform == "win32":
        variable, below_home = "LOCALAPPDATA", ("AppData", "Local")
    elif sys.platform == "darwin":
        variable, below_home = "", ("Library", "Caches")
    else:
        variable, below_home = "XDG_CACHE_HOME", (".cache",)
    named = os.environ.get(variable, "") if variable else ""
    if named and Path(named).is_absolute():
        return Path(named) / "glomedge"
    at_home = home()
    return at_home.joinpath(*below_home, "glomedge") if at_home is not None else None
