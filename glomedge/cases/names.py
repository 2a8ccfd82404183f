"""Which biopsy (case) and which slide a crop belongs to, read from its file name.

Training splits, parity gates and the answer per biopsy all ask this one function, so a crop can never count for one
biopsy in training and for another in the results. docs/cases.md shows the rules with examples.
"""

from __future__ import annotations

import functools
import posixpath
import re
from typing import NamedTuple

from glomedge.errors import UsageError

UNKNOWN_CASE = "unknown"
"""The case of a crop whose name and folders say nothing about it."""

CLASS_FOLDERS = frozenset({"globally_sclerotic_glomeruli", "non_globally_sclerotic_glomeruli"})
"""Folders that say what a crop shows, not whose it is: never taken for a case."""

DEFAULT_PATTERNS = (
    # <biopsy>_<stain>_<i>of<n>_<id>: the biopsy may hold hyphens and underscores, the stain no underscore.
    r"(?P<slide>(?P<case>.+?)_[^_]+_[0-9]+of[0-9]+)_.+",
    # <slide>-<k>: everything before the last hyphen, when digits follow it.
    r"(?P<slide>(?P<case>.+))-[0-9]+",
)
"""Tried in this order against the whole base name without its suffix; the first that fits decides."""


class CaseName(NamedTuple):
    """Where a crop comes from: the biopsy, and the slide of that biopsy."""

    case: str
    slide: str


def case_of(name: str, pattern: str | None = None) -> CaseName:
    """The biopsy and the slide of a crop.

    Args:
        name: file name, or path relative to the folder that was read, with ``/`` between folders.
        pattern: regular expression (Python's ``re``) with a named group ``case`` and optionally ``slide``, searched
            for in the base name with its suffix, or in the whole ``name`` when the pattern holds a ``/``. Replaces
            the default patterns. Without a ``slide`` group the slide is the case.

    Returns:
        The case and slide. Where no pattern fits, both are the nearest parent folder that is not a class folder
        (``CLASS_FOLDERS``); where there is none either, both are ``unknown``.

    Raises:
        UsageError: the pattern is no regular expression, or has no group named ``case``.
    """
    base = name.rpartition("/")[2]
    if pattern is None:
        stem = posixpath.splitext(base)[0]
        for default in _defaults():
            if match := default.fullmatch(stem):
                return CaseName(match["case"], match["slide"])
    else:
        compiled = compile_case_pattern(pattern)
        match = compiled.search(name if "/" in pattern else base)
        if match and match["case"]:
            slide = match["slide"] if "slide" in compiled.groupindex else None
            return CaseName(match["case"], slide or match["case"])
    parents = reversed(name.split("/")[:-1])
    folder = next((part for part in parents if part not in CLASS_FOLDERS and part not in _NO_FOLDERS), UNKNOWN_CASE)
    return CaseName(folder, folder)


_NO_FOLDERS = frozenset({"", ".", ".."})


@functools.lru_cache(maxsize=1)
def _defaults() -> tuple[re.Pattern[str], ...]:
    # DOTALL: a file name may hold a newline, and it belongs to the name like any other character.
    return tuple(re.compile(pattern, re.DOTALL) for pattern in DEFAULT_PATTERNS)


@functools.lru_cache(maxsize=16)
def compile_case_pattern(pattern: str) -> re.Pattern[str]:
    """A user's ``--case-pattern``, checked; commands call it before any work begins.

    Raises:
        UsageError: it is no regular expression, or has no group named ``case``.
    """
    example = "for example: --case-pattern '^(?P<case>[^_]+)_'"
    try:
        compiled = re.compile(pattern, re.DOTALL)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(
            f"The case pattern {pattern!r} is not a regular expression: {error}. Correct it, {example}"
        ) from None
    if "case" not in compiled.groupindex:
        raise UsageError(
            f"The case pattern {pattern!r} has no group named 'case', so it cannot say which part of a file name is "
            f"the biopsy. Put that part in (?P<case>...), {example}"
        )
    return compiled
