"""The rows that a finished run publishes: what the journal says, and what follows from this run's options."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
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
        return self._rows(self.answers.numbers())

    def where(self, wanted: Callable[[float | None], bool]) -> Iterator[Row]:
        """Only the rows whose probability is wanted, in order; no others are made."""
        probability = self.answers.probability
        return self._rows(number for number in self.answers.numbers() if wanted(probability(number)))

    def _rows(self, numbers: Iterable[int]) -> Iterator[Row]:
        # Names are looked up once, not for each of a million rows.
        stored, name, case_of = self.answers.stored, self.answers.name, self.cases.case_of
        threshold, provider, class_names = self.threshold, self.provider, self.class_names
        low, high = self.review_band
        for number in numbers:
            status, probability, sha256, disagreement, message, attachment = stored(number)
            path = escape_name(name(number))
            case, slide = case_of(path)
            label = class_name = review = None
            if probability is not None:
                label = int(probability >= threshold)
                class_name = class_names[label]
                review = int(low <= probability <= high)
            yield Row(
                path, case, slide, probability, label, class_name, threshold, status, provider, sha256, disagreement,
                message, attachment, review,
            )  # fmt: skip
