"""What a shell makes of a pattern such as ``night/*.png``: many names where a command takes one folder.

Commands that use this accept further arguments (``allow_extra_args``), to say what to type instead of only refusing.
"""

from __future__ import annotations

import shlex
from pathlib import Path

from glomedge.errors import UsageError
from glomedge.files.names import escape_name


def require_one_folder(named: list[Path]) -> None:
    """For ``infer``. Raises UsageError on several names."""
    if len(named) == 1:
        return
    parent = _only_parent(named)
    cure = "Give the folder that holds them all; it is searched at any depth"
    if parent is not None:
        cure = f"Give the folder: glomedge infer {typed(parent)}"
    raise UsageError(f"infer reads one folder or one image, and {_listed(named)}. {cure}")


def require_one_data_set(command: str, named: list[Path]) -> None:
    """For ``evaluate`` and ``train``. Raises UsageError on several names."""
    if len(named) == 1:
        return
    from glomedge.cases.labels import LABELS_NAME

    folder = _only_parent(named)
    # The crops of a data set may be in the folder of the labels, or one below, in a folder for each class.
    if folder is not None and not (folder / LABELS_NAME).is_file() and (folder.parent / LABELS_NAME).is_file():
        folder = folder.parent
    example = "DATA" if folder is None else typed(folder)
    raise UsageError(
        f"{command} reads one data set, and {_listed(named)}. Give the folder with {LABELS_NAME}: glomedge {command} "
        f"{example}"
    )


def require_only_options(named: list[Path]) -> None:
    """For ``bench``, whose folder and models are options. Raises UsageError on any name."""
    if not named:
        return
    if all(path.suffix == ".onnx" for path in named):
        cure = "Write --model before each model"
    else:
        parent = _only_parent(named)
        cure = f"Give the folder of the crops: glomedge bench --images {'DIR' if parent is None else typed(parent)}"
    raise UsageError(f"bench takes one name after each option, and {_listed(named)} besides. {cure}")


def _only_parent(named: list[Path]) -> Path | None:
    """The folder that holds all of these files; None where they lie in several, or are folders."""
    parents = {path.parent for path in named}
    return parents.pop() if len(parents) == 1 and not any(path.is_dir() for path in named) else None


def typed(path: Path) -> str:
    """A path as a shell takes it in a command that is pasted."""
    return shlex.quote(escape_name(bytes(path)))


def _listed(named: list[Path]) -> str:
    some = ", ".join(escape_name(bytes(path)) for path in named[:2])
    many = "1 name was given" if len(named) == 1 else f"{len(named)} names were given"
    return f"{many} ({some}{', ...' if len(named) > 2 else ''})"
