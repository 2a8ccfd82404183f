"""The outcome of a run over a folder."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from glomedge.pipeline.pipeline import StageTimes

if TYPE_CHECKING:
    from glomedge.cases.summary import CaseSummary


OWNED = ("predictions.csv", "predictions.jsonl", "predictions.parquet", "cases.csv", "report.html", "run.json")


THUMBNAIL_PX = 112


ANNOTATIONS = "annotations"
"""Folder in the output of the answers of slides."""


def annotations_of(output: Path) -> list[str]:
    """The files of slides that the run before wrote, by its ``run.json``; they go unless it writes them again."""
    try:
        names = json.loads((output / "run.json").read_bytes())["files_sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    names = [str(name) for name in names] if isinstance(names, dict) else []
    return [name for name in names if name.startswith(f"{ANNOTATIONS}/") and ".." not in PurePosixPath(name).parts]


@dataclass
class Outcome:
    """The outcome of a run.

    Attributes:
        complete: False if the run was stopped; only the journal exists then, for ``--resume``.
        inputs: number of inputs found (if stopped during the search: those with a row from an earlier run);
            ``answered`` of them have a row now, ``predicted`` of these are new.
        counts: rows by kind (``ok``, ``flagged``, ``error``, ``positive``, ``negative``, ``uncertain``).
        errors: rows by error code.
        cases: the summaries of the biopsies.
        files: the files written.
        record: the content of ``run.json``.
        decoding: the number of decode workers and their kind; empty if nothing was left to decode.
        biopsies_found: how each crop's biopsy was found: ``counts`` by rule, ``summary``, ``warnings``.
        drift: comparison with the scores of the site (``runs.site_scores``); None where none was asked for.
        hung: threads that are blocked in a library and do not return.
    """

    complete: bool
    inputs: int
    answered: int
    predicted: int
    provider: str
    counts: dict[str, int] = field(default_factory=dict)
    errors: dict[str, int] = field(default_factory=dict)
    cases: list[CaseSummary] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    record: dict[str, Any] = field(default_factory=dict)
    decoding: dict[str, Any] = field(default_factory=dict)
    times: StageTimes = field(default_factory=StageTimes)
    wall_s: float = 0.0
    hung: int = 0
    biopsies_found: dict[str, Any] = field(default_factory=dict)
    drift: dict[str, Any] | None = None

    @property
    def exit_code(self) -> int:
        """0: every image was classified; 2: some inputs have an error row."""
        return 2 if self.errors else 0
