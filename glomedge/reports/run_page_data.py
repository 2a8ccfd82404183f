"""The rows shown in the run report, chosen in one pass over all rows.

Only the rows that are shown are kept in memory, however many there are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from glomedge.reports.slide_overview import Overview
from glomedge.results.rows import Row, RowBlock, Verdict
from glomedge.results.thumbnails import Thumbnails, shared_limits

MAX_THUMBNAILS = 2000
MAX_LISTED = 500
MAX_REVIEWED = 60


@dataclass(frozen=True)
class RunPageData:
    """The rows that the run report shows.

    Attributes:
        pictured: rows of the galleries, in order of importance (``importance``).
        to_review: rows to be reviewed first, nearest to the threshold first.
        errors: rows without an answer, sorted by path.
        limits: least and greatest activation of the colour scale that all maps share.
        thumbnails: holds the pictures and maps of these rows (``Row.attachment``).
        overview: makes the overview of a slide, by its path as the rows have it; None in a run without slides.
    """

    pictured: list[Row]
    to_review: list[Row]
    errors: list[Row]
    limits: tuple[float, float]
    thumbnails: Thumbnails
    overview: Callable[[str], Overview | None] | None = None


def importance(row: Row) -> tuple[int, float, str]:
    """Smallest first: uncertain, flagged, positive, the rest; among equals the nearest to the threshold."""
    assert row.probability is not None
    return _kind(row), abs(row.probability - row.threshold), row.path


def _kind(shared: Row | Verdict) -> int:
    return 0 if shared.review else 1 if shared.status.startswith("flagged:") else 2 if shared.label else 3


class _Kinds(dict[Verdict, int]):
    def __missing__(self, verdict: Verdict) -> int:
        if len(self) >= 4096:
            self.clear()
        self[verdict] = kind = _kind(verdict)
        return kind


class RunPageSelection:
    """Takes every row once (``add``) and keeps those that the report shows.

    Args:
        max_thumbnails: pictures to show at most.
        only_kept: of crops that no picture was kept of, none is shown; else all rows have one.
    """

    def __init__(self, max_thumbnails: int = MAX_THUMBNAILS, *, only_kept: bool = False) -> None:
        self._only_kept = only_kept
        self._pictured = _Smallest(max_thumbnails)
        self._to_review = _Smallest(MAX_LISTED)
        self._errors = _Smallest(MAX_LISTED)
        self._kinds = _Kinds()

    def add(self, block: RowBlock) -> None:
        """Take rows, in any order."""
        for place, probability in enumerate(block.probabilities):
            if probability is None:
                self._errors.add(block.paths[place], block, place)
                continue
            verdict = block.verdicts[place]
            rank = self._kinds[verdict], abs(probability - verdict.threshold), block.paths[place]
            if not self._only_kept or block.attachment(place) is not None:
                self._pictured.add(rank, block, place)
            if verdict.review:
                self._to_review.add(rank, block, place)

    def data(self, thumbnails: Thumbnails) -> RunPageData:
        """What was kept; the maps are read once for the scale that they share."""
        pictured = self._pictured.rows()
        return RunPageData(
            pictured=pictured,
            to_review=self._to_review.rows(),
            errors=self._errors.rows(),
            limits=shared_limits((row.attachment for row in pictured), thumbnails) or (0.0, 1.0),
            thumbnails=thumbnails,
        )


class _Smallest:
    """The ``limit`` rows with the smallest keys among all that were added; ``heapq.nsmallest``, fed bit by bit."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._kept: list[tuple[Any, Row]] = []
        self._bound: Any = None  # once so many are kept, larger keys are of no use

    def add(self, key: Any, block: RowBlock, place: int) -> None:
        if self._bound is not None and key >= self._bound:
            return
        self._kept.append((key, block.row(place)))
        if len(self._kept) >= self._limit + self._limit // 8 + 64:
            self._shorten()

    def _shorten(self) -> None:
        self._kept.sort(key=_KEY)  # stable: of equal keys the first one stays
        del self._kept[self._limit :]
        if self._kept and len(self._kept) == self._limit:
            self._bound = self._kept[-1][0]

    def rows(self) -> list[Row]:
        """In ascending order of their keys."""
        self._shorten()
        return [row for _, row in self._kept]


_KEY: Callable[[tuple[Any, Row]], Any] = itemgetter(0)
