"""Runs of ``glomedge infer-ray`` without Ray, and what they publish."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glomedge.cluster.options import CohortOptions
from glomedge.cluster.worker import Done, Job, Worker
from glomedge.runs.folder import infer_folder


@dataclass
class Here:
    """Answers parts in this process, as one worker would.

    Attributes:
        most: stop after so many parts, as a driver that is killed would.
        child_command: starts a decode process.
        answered: the parts that it answered.
    """

    most: int | None = None
    child_command: Sequence[str] | None = None

    def __post_init__(self) -> None:
        self.answered: list[int] = []

    def __call__(
        self,
        job: Job,
        model: bytes,
        parts: Sequence[int],
        done: Callable[[Done], None],
        stop: Callable[[], bool],
    ) -> bool:
        worker = Worker(job, model, self.child_command)
        try:
            for part in parts:
                if stop() or len(self.answered) == self.most:
                    return False
                done(worker.answer(part))
                self.answered.append(part)
        finally:
            worker.close()
        return True


COMPARED = ("path", "case", "slide", "label", "class_name", "threshold", "review", "status", "sha256", "message")


def published(folder: str | Path) -> list[dict[str, Any]]:
    """The rows of all parts in a folder of results, in the order of their files."""
    import pyarrow.parquet

    found: list[dict[str, Any]] = []
    for path in sorted((Path(folder) / "predictions").glob("part-*.parquet")):
        found += pyarrow.parquet.read_table(path).to_pylist()
    return found


def plainly(options: CohortOptions, folder: Path) -> list[dict[str, Any]]:
    """The rows of ``glomedge infer`` over the same manifest."""
    import pyarrow.parquet

    infer_folder(replace(options.run, output=folder, formats=("parquet",)))
    rows: list[dict[str, Any]] = pyarrow.parquet.read_table(folder / "predictions.parquet").to_pylist()
    return rows


def require_same(rows: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """Each input once, in order, with the same answer within 1e-6."""
    assert [row["path"] for row in rows] == [row["path"] for row in expected]
    assert [[row[name] for name in COMPARED] for row in rows] == [[row[name] for name in COMPARED] for row in expected]
    for row, other in zip(rows, expected, strict=True):
        one, two = row["probability"], other["probability"]
        assert one == two or abs(one - two) <= 1e-6
