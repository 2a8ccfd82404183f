"""Runs of ``glomedge infer-ray`` without Ray, and what they publish."""

from __future__ import annotations

import hashlib
import os
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
        answered: the parts that it answered.
    """

    most: int | None = None

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
        worker = Worker(job, model)
        try:
            for part in parts:
                if stop() or len(self.answered) == self.most:
                    return False
                done(worker.answer(part))
                self.answered.append(part)
        finally:
            worker.close()
        return True


# No core file, whatever the shell allows: it would lie in the checkout.
_POISON = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
if "glomedge.pipeline.decode_process" in sys.orig_argv:
    written = os.pwrite
    def pwrite(descriptor, data, offset):
        done = written(descriptor, data, offset)  # which file is about to be decoded
        if {sha256!r} in data:
            os.abort()
        return done
    os.pwrite = pwrite
"""


def poison(folder: Path, crop: Path) -> str:
    """A ``PYTHONPATH`` under which every decode process dies of that crop, as of a defect in a decoder."""
    sha256 = hashlib.sha256(crop.read_bytes()).hexdigest().encode()
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(_POISON.format(sha256=sha256))
    return os.pathsep.join(filter(None, (str(folder), os.environ.get("PYTHONPATH"))))


def require_poisoned(rows: list[dict[str, Any]], expected: list[dict[str, Any]], name: str) -> None:
    """That crop has a row of its own that says so, and all others are as they should be."""
    (row,) = (row for row in rows if row["path"] == name)
    assert row["status"] == "error:decoder"
    assert row["sha256"]
    assert "ended the process" in row["message"]
    require_same([row for row in rows if row["path"] != name], [row for row in expected if row["path"] != name])


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
