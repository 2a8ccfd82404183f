"""The rows that a finished run publishes: what the journal says, and what follows from this run's options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from glomedge.cases.names import CaseFinder
from glomedge.files.names import escape_name
from glomedge.results.answer_table import AnswerTable
from glomedge.results.rows import Row


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
    """

    answers: AnswerTable
    threshold: float
    class_names: tuple[str, str]
    provider: str
    review_band: tuple[float, float]
    cases: CaseFinder

    def __len__(self) -> int:
        return len(self.answers)

    def __iter__(self) -> Iterator[Row]:
        return map(self._row, self.answers.numbers())

    def where(self, wanted: Callable[[float | None], bool]) -> Iterator[Row]:
        """Only the rows whose probability is wanted, in order; no others are made."""
        probability = self.answers.probability
        return (self._row(number) for number in self.answers.numbers() if wanted(probability(number)))

    def _row(self, number: int) -> Row:
        stored = self.answers.stored(number)
        path = escape_name(self.answers.name(number))
        case, slide = self.cases.case_of(path)
        label = class_name = review = None
        if stored.probability is not None:
            label = int(stored.probability >= self.threshold)
            class_name = self.class_names[label]
            review = int(self.review_band[0] <= stored.probability <= self.review_band[1])
        return Row(
            path,
            case,
            slide,
            stored.probability,
            label,
            class_name,
            self.threshold,
            stored.status,
            self.provider,
            stored.sha256,
            stored.disagreement,
            stored.message,
            stored.attachment,
            review,
        )
