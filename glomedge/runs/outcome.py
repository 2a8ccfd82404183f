"""What came of a run of a folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glomedge.pipeline.pipeline import StageTimes

if TYPE_CHECKING:
    from glomedge.cases.summary import CaseSummary


OWNED = ("predictions.csv", "predictions.jsonl", "predictions.parquet", "cases.csv", "report.html", "run.json")


THUMBNAIL_PX = 112


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        complete: False when it was stopped; then there are no files but the journal, for ``--resume``.
        inputs: how many were found (where it was stopped while it still searched: those that have a row from before);
            ``answered`` of them have a row by now, ``predicted`` more than when it began.
        counts: rows by kind (``ok``, ``flagged``, ``error``, ``positive``, ``negative``, ``uncertain``).
        errors: rows by error code.
        cases: the summaries of the biopsies.
        files: what was written.
        record: the content of ``run.json``.
        decoding: how many workers decoded, and in what; empty where nothing was left to decode.
        biopsies_found: how each crop's biopsy was found: ``counts`` by rule, ``summary``, ``warnings``.
        hung: threads that sit in a library and do not come back.
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

    @property
    def exit_code(self) -> int:
        """0 all predicted on, 2 some errors (FAULTS)."""
        return 2 if self.errors else 0
