"""The rows that a finished run publishes: what the journal says, and what follows from this run's options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from glomedge.cases.names import CaseFinder
from glomedge.files.names import escape_names
from glomedge.results.answer_table import AnswerTable
from glomedge.results.rows import OutlineFacts, Row, RowBlock, Verdict

BLOCK_ROWS = 1024
"""Rows per block: few enough to hold in memory, enough to amortise the calls per block."""

_MOST_VERDICTS = 4096


@dataclass(frozen=True)
class PublishedRows:
    """Every row, sorted by the bytes of its path, made on demand; only the answers are in memory.

    Attributes:
        answers: as the journal has them.
        threshold: from which on a crop is called globally sclerotic.
        class_names: of label 0 and label 1.
        provider: that gave the answers.
        review_band: least and greatest probability to be reviewed.
        cases: knows the biopsy of each crop, having seen all names.
        outline: what is known of an outline, by its number in the run (``Found.part``); None in a run without slides.
    """

    answers: AnswerTable
    threshold: float
    class_names: tuple[str, str]
    provider: str
    review_band: tuple[float, float]
    cases: CaseFinder
    outline: Callable[[int], OutlineFacts] | None = None

    def __len__(self) -> int:
        return len(self.answers)

    def blocks(self) -> Iterator[RowBlock]:
        """All rows, in order, ``BLOCK_ROWS`` at a time."""
        return self._blocks(self.answers.numbers())

    def where(self, wanted: Callable[[float | None], bool]) -> Iterator[Row]:
        """Only the rows whose probability is wanted, in order; no others are made."""
        probability = self.answers.probability
        for block in self._blocks(number for number in self.answers.numbers() if wanted(probability(number))):
            for place in range(len(block)):
                yield block.row(place)

    def _blocks(self, numbers: Iterable[int]) -> Iterator[RowBlock]:
        verdicts = _Verdicts(self)
        iterator = iter(numbers)
        while part := list(islice(iterator, BLOCK_ROWS)):
            if len(verdicts) > _MOST_VERDICTS:  # a message for each file
                verdicts = _Verdicts(self)
            yield self._block(part, verdicts)

    def _block(self, numbers: list[int], verdicts: _Verdicts) -> RowBlock:
        said, probability, sha256, disagreement = self.answers.columns(numbers)
        paths = escape_names(self.answers.names(numbers))
        # For an error (NaN) both are false.
        low, high = self.review_band
        kinds = 2 * (probability >= self.threshold) + ((low <= probability) & (probability <= high))
        probabilities = probability.tolist()
        if np.isnan(probability).any():
            probabilities = [None if value != value else value for value in probabilities]
        return RowBlock(
            paths,
            self.cases.cases_of(paths),
            probabilities,
            [verdicts[key] for key in zip(said, kinds.tolist(), strict=True)],
            sha256,
            disagreement,
            lambda place: self.answers.attachment(numbers[place]),
            () if self.outline is None else [self._outline(number, self.outline) for number in numbers],
        )

    def _outline(self, number: int, outline: Callable[[int], OutlineFacts]) -> OutlineFacts | None:
        inputs = self.answers.inputs
        # Rows of files that are gone come after all inputs.
        part = inputs[number].part if number < len(inputs) else None
        return None if part is None else outline(part)


class _Verdicts(dict[tuple[int, int], Verdict]):
    """Number of status and message, and twice the label plus the review -> what rows of that kind share."""

    def __init__(self, rows: PublishedRows) -> None:
        super().__init__()
        self._rows = rows

    def __missing__(self, key: tuple[int, int]) -> Verdict:
        rows, (said, kind) = self._rows, key
        status, message = rows.answers.said[said]
        label: int | None = kind >> 1
        review: int | None = kind & 1
        if status.startswith("error"):
            label = review = None
        class_name = None if label is None else rows.class_names[label]
        self[key] = verdict = Verdict(label, class_name, rows.threshold, review, status, rows.provider, message)
        return verdict
