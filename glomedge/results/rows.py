"""The rows of the results, and the CSV, JSON Lines and Parquet files made from them.

Every file is written under a temporary name, put on disk, and only then given its name: whoever looks sees the earlier
result or the new one, whole. The bytes depend on the rows alone.
"""

from __future__ import annotations

from dataclasses import dataclass

from glomedge.results.journal import Attachment


@dataclass(frozen=True, slots=True)
class Row:
    """One input in the results.

    ``probability``, ``label`` and ``class_name`` are None where ``status`` begins with ``error:``. ``path`` is escaped
    (``escape.escape_name``) and relative; ``sha256`` is of the bytes predicted on; ``review`` is 1 where the
    probability lies in the review band, 0 where not, None for an error.
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
    def failed(self) -> bool:
        """Whether there is no prediction."""
        return self.status.startswith("error:")

    @property
    def flags(self) -> tuple[str, ...]:
        """The quality flags, such as ``("blurred",)``."""
        return tuple(self.status.removeprefix("flagged:").split("+")) if self.status.startswith("flagged:") else ()
