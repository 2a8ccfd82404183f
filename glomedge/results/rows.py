"""One row of the results: what tables, cases and report contain for one input; and many, by columns."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from glomedge.cases.names import CaseName


class Attachment(NamedTuple):
    """Location of a row's map and thumbnail in the thumbnails file (``thumbnails.py``)."""

    offset: int
    length: int
    crc32: int


class OutlineFacts(NamedTuple):
    """What a row says of its outline on a slide.

    Attributes:
        number: ``Found.part``.
        annotation_id, annotation_class: as the file of outlines has them; empty where it has none.
        x, y, width, height: what was read, in level-0 pixels; None where the outline has no box on the slide.
        mpp: microns per pixel of the slide at level 0; None where it is not known.
    """

    number: int
    annotation_id: str = ""
    annotation_class: str = ""
    x: int | None = None
    y: int | None = None
    width: int | None = None
    height: int | None = None
    mpp: float | None = None


class Row(NamedTuple):
    """One input in the results; a tuple, because millions are made.

    ``probability``, ``label`` and ``class_name`` are None if ``status`` begins with ``error:``. ``path`` is escaped
    (``files.names.escape_name``) and relative; ``sha256`` is of the bytes that were classified; ``review`` is 1 where
    the probability is in the review band, 0 if not, None for an error. ``outline`` is None for a crop. Of an outline
    ``path`` is the slide's with ``#`` and the outline's place and id after it, and ``sha256`` is of its pixels.
    """

    path: str
    case: str
    slide: str
    probability: float | None
    label: int | None
    class_name: str | None
    threshold: float
    status: str
    provider: str
    sha256: str | None
    tta_disagreement: float | None
    message: str
    attachment: Attachment | None = None
    review: int | None = None
    outline: OutlineFacts | None = None

    @property
    def name(self) -> str:
        """The path, under the name by which the cases ask for it (``cases.summary.CropResult``)."""
        return self.path

    @property
    def failed(self) -> bool:
        """Whether there is no prediction."""
        return self.status.startswith("error:")

    @property
    def flags(self) -> tuple[str, ...]:
        """The quality flags, such as ``("blurred",)``."""
        return tuple(self.status.removeprefix("flagged:").split("+")) if self.status.startswith("flagged:") else ()


@dataclass(frozen=True, eq=False, slots=True)
class Verdict:
    """The fields of a row that many rows share; rows with the same values share one object, told by its identity.

    What is made of it (a part of a line of CSV, a count) is made once and kept by it as a key.
    """

    label: int | None
    class_name: str | None
    threshold: float
    review: int | None
    status: str
    provider: str
    message: str


@dataclass(frozen=True, slots=True)
class RowBlock:
    """Consecutive rows by columns, all of one length: a million rows are made 1,024 at a time.

    Attributes:
        paths: ``Row.path``.
        cases: ``Row.case`` and ``Row.slide``.
        probabilities: ``Row.probability``.
        verdicts: the fields that many rows share.
        sha256: ``Row.sha256``.
        disagreements: ``Row.tta_disagreement``.
        attachment: gives ``Row.attachment`` of the row at a place; few are asked for.
        outlines: ``Row.outline``; empty in a run without slides.
    """

    paths: Sequence[str]
    cases: Sequence[CaseName]
    probabilities: Sequence[float | None]
    verdicts: Sequence[Verdict]
    sha256: Sequence[str | None]
    disagreements: Sequence[float | None]
    attachment: Callable[[int], Attachment | None]
    outlines: Sequence[OutlineFacts | None] = ()

    @classmethod
    def of(cls, rows: Iterable[Row]) -> RowBlock:
        """The block of those rows."""
        rows = list(rows)
        shared: dict[tuple[object, ...], Verdict] = {}

        def verdict(row: Row) -> Verdict:
            fields = (row.label, row.class_name, row.threshold, row.review, row.status, row.provider, row.message)
            return shared.setdefault(fields, Verdict(*fields))

        return cls(
            [row.path for row in rows],
            [CaseName(row.case, row.slide) for row in rows],
            [row.probability for row in rows],
            [verdict(row) for row in rows],
            [row.sha256 for row in rows],
            [row.tta_disagreement for row in rows],
            lambda place: rows[place].attachment,
            [row.outline for row in rows] if any(row.outline for row in rows) else (),
        )

    def __len__(self) -> int:
        return len(self.paths)

    def row(self, place: int) -> Row:
        """One of the rows."""
        case, slide = self.cases[place]
        verdict = self.verdicts[place]
        return Row(
            self.paths[place], case, slide, self.probabilities[place], verdict.label, verdict.class_name,
            verdict.threshold, verdict.status, verdict.provider, self.sha256[place], self.disagreements[place],
            verdict.message, self.attachment(place), verdict.review, self.outlines[place] if self.outlines else None,
        )  # fmt: skip
