"""Whether the disk that takes the page's slides is one, and has room for them."""

from __future__ import annotations

import shutil
from pathlib import Path

_MOUNTS = Path("/proc/self/mounts")
_IN_MEMORY = frozenset({"tmpfs", "ramfs"})


def disk_warnings(folder: Path, slides_bytes: int, mounts: Path = _MOUNTS) -> list[str]:
    """What is wrong with a temporary folder for so many bytes of slides, in words; empty where nothing is.

    Args:
        folder: which takes them.
        slides_bytes: how many the server takes at most.
        mounts: the table of file systems (proc(5)); no system but Linux has one.
    """
    found = []
    if _kind_of(folder, mounts) in _IN_MEMORY:
        found.append(
            f"{folder} lies in memory (tmpfs), and slides of the page would fill it. Set TMPDIR to a folder on a disk, "
            "or give --max-slides 0."
        )
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError:
        return found
    if free_bytes < slides_bytes:
        found.append(
            f"{folder} has {free_bytes // 1_000_000} MB free, less than the {slides_bytes // 1_000_000} MB of "
            "--max-slides. Set TMPDIR to a larger disk, or give a smaller --max-slides."
        )
    return found


def _kind_of(folder: Path, mounts: Path) -> str:
    """The file system of a folder; empty where it is not told."""
    try:
        lines = mounts.read_text("utf-8", "surrogateescape").splitlines()
    except OSError:
        return ""
    kinds = {}
    for line in lines:
        _, _, rest = line.partition(" ")
        where, _, rest = rest.partition(" ")
        kinds[where.replace("\\040", " ")] = rest.partition(" ")[0]  # the last one mounted there counts
    resolved = folder.resolve()
    return next((kinds[name] for path in (resolved, *resolved.parents) if (name := str(path)) in kinds), "")
