"""One row of the results: what tables, cases and report contain for one input."""

from __future__ import annotations

from typing import NamedTuple


class Attachment(NamedTuple):
    """Location of a row's map and thumbnail in the thumbnails file (``thumbnails.py``)."""

    offset: int
    length: int
    crc32: int


class Row(NamedTuple):
    """One input in the results; a tuple, because millions are made.

    ``probability``, ``label`` and ``class_name`` are None if ``status`` begins with ``error:``. ``path`` is escaped
    (``files.names.escape_name``) and relative; ``sha256`` is of the bytes that were classified; ``review`` is 1 where
    the probability is in the review band, 0 if not, None for an error.
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
