"""The result per biopsy: glomeruli, globally sclerotic glomeruli, percentage and interval.

Counts and intervals only. Nothing here says, or may ever say, what to do with an organ.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from itertools import groupby
from typing import Literal, Protocol

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cases.names import CaseFinder, CaseName, case_of, compile_case_pattern
from glomedge.cases.prevalence import (
    ADEQUATE_GLOMERULI,
    BANFF_GLOMERULI,
    Band,
    RemuzziScore,
    remuzzi_grade,
    rogan_gladen,
    settled_band,
    wilson_interval,
)
from glomedge.model.spec import OperatingPoint

__all__ = [
    "CASE_COLUMNS",
    "CaseName",
    "CaseSummary",
    "CaseTally",
    "CropCall",
    "CropResult",
    "called",
    "case_of",
    "compile_case_pattern",
    "remuzzi_grade",
    "rogan_gladen",
    "summarise",
    "to_row",
    "wilson_interval",
]


@dataclass(frozen=True)
class CropCall:
    """The result of one crop.

    Attributes:
        name: path relative to the folder that was read, ``/`` between folders.
        probability: chance of globally sclerotic, 0 to 1; None if there is no answer.
        label: 1 globally sclerotic, 0 not; None if there is no answer.
        status: ``ok``, ``flagged:<why>`` or ``error:<code>``.
    """

    name: str
    probability: float | None
    label: int | None
    status: str

    def __post_init__(self) -> None:
        kind = self.status.partition(":")[0]
        if kind not in ("ok", "flagged", "error"):
            raise ValueError(f"{self.name!r}: unknown status {self.status!r}")
        if kind == "error":
            if self.label is not None:
                raise ValueError(f"{self.name!r} has an error and a label")
        elif self.label not in (0, 1) or self.probability is None or not 0.0 <= self.probability <= 1.0:
            raise ValueError(f"{self.name!r}: label {self.label} with probability {self.probability} is no answer")


class CropResult(Protocol):
    """What is counted: a ``CropCall``, a row of the results, or whatever else has these; see ``CropCall``."""

    @property
    def name(self) -> str: ...
    @property
    def probability(self) -> float | None: ...
    @property
    def label(self) -> int | None: ...
    @property
    def status(self) -> str: ...


class Call(Protocol):
    """What of a crop's result is counted; see ``CropCall``."""

    @property
    def label(self) -> int | None: ...
    @property
    def status(self) -> str: ...


@dataclass(frozen=True, slots=True)
class CaseSummary:
    """One biopsy. All percentages run from 0 to 100; intervals are 95%.

    Attributes:
        case: the biopsy's id (``cases.names.case_of``).
        slides: how many slides its crops come from.
        crops: every file found, whatever became of it.
        classified: crops counted in the percentage: neither an error, nor excluded for a flag.
        flagged: crops with a quality flag; part of ``classified`` unless flagged crops are excluded.
        errors: files without an answer.
        globally_sclerotic: of ``classified``, those called globally sclerotic.
        percent_gs: 100 x globally_sclerotic / classified; None if nothing was classified.
        interval_low: Wilson interval of ``percent_gs``.
        interval_high: its upper end.
        corrected_percent_gs: corrected for the classifier's sensitivity and specificity (Rogan-Gladen); None if the
            model has no operating point for this site or the correction is undefined.
        corrected_low: its interval, which also carries the uncertainty of sensitivity and specificity (Lang-Reiczigel).
        corrected_high: its upper end.
        expected_count: sum of the probabilities of the classified crops.
        band: the band that holds the whole corrected interval, ``undetermined`` where it straddles a limit or the
            correction is undefined: the classifier's errors are then known to matter, but not how much. None if nothing
            was classified, or without an operating point: what the calls alone say has no band.
        remuzzi_glomerular_score: 0 to 3, of the counts as classified; None if nothing was classified.
        adequate: at least 25 classified glomeruli (Wang 1998).
        adequate_banff: at least 10 classified glomeruli (Banff, glomerular criterion only).
    """

    case: str
    slides: int
    crops: int
    classified: int
    flagged: int
    errors: int
    globally_sclerotic: int
    percent_gs: float | None
    interval_low: float | None
    interval_high: float | None
    corrected_percent_gs: float | None
    corrected_low: float | None
    corrected_high: float | None
    expected_count: float
    band: Band | Literal["undetermined"] | None
    remuzzi_glomerular_score: RemuzziScore | None
    adequate: bool
    adequate_banff: bool


@dataclass(frozen=True, slots=True)
class _Counted:
    """What is counted of one item of ``summarise``."""

    label: int | None
    status: str


def summarise(
    items: Iterable[CropResult],
    operating_point: OperatingPoint | None,
    exclude_flagged: bool = False,
    *,
    case_pattern: str | None = None,
    finder: CaseFinder | None = None,
) -> list[CaseSummary]:
    """Count crops by biopsy.

    Args:
        items: one per file found, in any order; the result does not depend on it.
        operating_point: the model's confusion counts at the site of the crops (``spec.operating_point``), for the
            corrected figures; None where they were counted elsewhere.
        exclude_flagged: leave flagged crops out of ``classified`` and everything computed from it.
        case_pattern: as for ``case_of``.
        finder: one that has seen all names of the run; without it, one is made of the names of ``items``.

    Returns:
        One summary per biopsy, sorted by its id.

    Raises:
        UsageError: ``case_pattern`` is not usable, or fits no name.
    """
    if finder is None:
        items = list(items)
        finder = CaseFinder([item.name for item in items], case_pattern)
    tally = CaseTally(exclude_flagged=exclude_flagged)
    for item in items:
        # Without both there is no answer. A value of our own: what a user gives need not have a hash.
        probability = item.probability if item.label is not None else None
        call = _Counted(item.label if probability is not None else None, item.status)
        tally.add_many([finder.case_of(item.name)], [call], [probability])
    return tally.summaries(operating_point)


class CaseTally:
    """Running counts of every biopsy; a crop costs 8 bytes.

    Args:
        exclude_flagged: leave flagged crops out of ``classified`` and everything computed from it.
    """

    def __init__(self, *, exclude_flagged: bool = False) -> None:
        self._exclude_flagged = exclude_flagged
        self._cases: dict[str, _Tally] = {}

    def add_many(self, names: Sequence[CaseName], calls: Sequence[Call], probabilities: Sequence[float | None]) -> None:
        """Count many crops; quicker where those of one slide follow each other and calls are the same objects."""
        begin = 0
        for name, run in groupby(names):
            end = begin + sum(1 for _ in run)
            tally = self._cases.get(name.case)
            if tally is None:
                tally = self._cases[name.case] = _Tally()
            tally.add_many(name.slide, calls[begin:end], probabilities[begin:end], self._exclude_flagged)
            begin = end

    def summaries(self, operating_point: OperatingPoint | None) -> list[CaseSummary]:
        """One per biopsy, sorted by its id; ``operating_point`` is the model's, for the corrected figures."""
        return [self._cases[case].summary(case, operating_point) for case in sorted(self._cases)]


def called(cases: Iterable[CaseSummary]) -> tuple[int, int]:
    """Crops counted as globally sclerotic, and crops counted at all, over all biopsies."""
    pairs = [(case.globally_sclerotic, case.classified) for case in cases]
    return sum(positive for positive, _ in pairs), sum(classified for _, classified in pairs)


class _Tally:
    """Running counts of one biopsy."""

    __slots__ = ("crops", "errors", "flagged", "positive", "probabilities", "slides")

    def __init__(self) -> None:
        self.slides: set[str] = set()
        self.crops = self.flagged = self.errors = self.positive = 0
        self.probabilities = array("d")

    def add_many(
        self, slide: str, calls: Sequence[Call], probabilities: Sequence[float | None], exclude_flagged: bool
    ) -> None:
        self.slides.add(slide)
        self.crops += len(calls)
        left_out = False
        for call, number in Counter(calls).items():
            flagged = call.status.startswith("flagged")
            self.flagged += number * flagged
            if call.label is None:
                self.errors += number
            elif flagged and exclude_flagged:
                left_out = True
            else:
                self.positive += number * call.label
        if left_out:
            pairs = zip(calls, probabilities, strict=True)
            probabilities = [value for call, value in pairs if not call.status.startswith("flagged")]
        self.probabilities.extend(value for value in probabilities if value is not None)

    def summary(self, case: str, operating_point: OperatingPoint | None) -> CaseSummary:
        total = len(self.probabilities)
        interval = wilson_interval(self.positive, total) if total else None
        corrected = rogan_gladen(self.positive, total, operating_point) if operating_point else None
        band: Band | Literal["undetermined"] | None = None
        if corrected:
            band = settled_band(corrected.low, corrected.high)
        elif interval and operating_point:
            band = "undetermined"
        return CaseSummary(
            case=case,
            slides=len(self.slides),
            crops=self.crops,
            classified=total,
            flagged=self.flagged,
            errors=self.errors,
            globally_sclerotic=self.positive,
            percent_gs=100 * self.positive / total if total else None,
            interval_low=100 * interval[0] if interval else None,
            interval_high=100 * interval[1] if interval else None,
            corrected_percent_gs=100 * corrected.value if corrected else None,
            corrected_low=100 * corrected.low if corrected else None,
            corrected_high=100 * corrected.high if corrected else None,
            expected_count=math.fsum(self.probabilities),  # exact, so the order of the crops cannot show
            band=band,
            remuzzi_glomerular_score=remuzzi_grade(self.positive, total) if total else None,
            adequate=total >= ADEQUATE_GLOMERULI,
            adequate_banff=total >= BANFF_GLOMERULI,
        )


CASE_COLUMNS: tuple[str, ...] = (*(field.name for field in fields(CaseSummary)), "notice")
"""Columns of cases.csv, in order."""


def to_row(summary: CaseSummary) -> dict[str, str]:
    """One row of cases.csv as plain text, in the order of ``CASE_COLUMNS``.

    Percentages and ``expected_count`` have two decimals, booleans are ``yes`` and ``no``, what is not known is empty.
    The case is not escaped: the writer neutralises spreadsheet formulas.
    """
    row = {field.name: _text(getattr(summary, field.name)) for field in fields(summary)}
    return {**row, "notice": RESEARCH_USE_NOTICE}


def _text(value: str | float | None) -> str:
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case float():
            return f"{value:.2f}"
    return str(value)
