"""From the parts of a run to what a person opens: ``cases.parquet``, ``report.html`` and ``run.json``.

The parts are read once, in the order of the inputs, and each is held against the list of inputs: a row that is missing,
there twice or of another input is an error, not a result.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cases.names import CaseName
from glomedge.cases.summary import CaseSummary
from glomedge.cases.text import counted, some
from glomedge.cluster.beginning import note_again
from glomedge.cluster.plan import PREDICTIONS, Plan, is_part
from glomedge.cluster.store import Store, parquet_bytes
from glomedge.cluster.worker import read_inputs
from glomedge.engine.views import shortest
from glomedge.errors import OutputError
from glomedge.files.writing import Staged
from glomedge.reports.run_page_data import RunPageSelection
from glomedge.results.published_rows import PublishedRows
from glomedge.results.rows import Attachment, RowBlock, Verdict
from glomedge.results.thumbnails import ThumbnailFile
from glomedge.runs.outcome import Outcome
from glomedge.runs.publish import Collected, Publication
from glomedge.runs.site_scores import NightScores
from glomedge.system.stopping import unless_stopped

PASSING = frozenset({"error:permission", "error:vanished", "error:io", "error:not_regular"})
"""Errors of the storage rather than of the crop: a resumed run asks again."""


class DamagedPartError(OutputError):
    """A part's file is not what its worker wrote; ``part`` is its number."""

    def __init__(self, message: str, part: int) -> None:
        super().__init__(message)
        self.part = part


@dataclass(frozen=True, kw_only=True)
class PartRows(PublishedRows):
    """Every row of a run, in order, read from its parts.

    Attributes:
        store, plan: where they are.
        thumbnails: gets the pictures that the workers kept; None without a report.
        again: filled with the parts that have an error that may pass.
    """

    store: Store
    plan: Plan
    thumbnails: ThumbnailFile | None = None
    again: list[int] = field(default_factory=list)

    def __len__(self) -> int:
        return self.plan.total

    def blocks(self) -> Iterator[RowBlock]:
        """All rows, a part at a time.

        Raises:
            DamagedPartError: a part is gone, unreadable, or not of its inputs.
            OutputError: the list of inputs is, or the storage fails.
        """
        for part in range(self.plan.parts):
            block = self._part(part)
            if any(verdict.status in PASSING for verdict in block.verdicts):
                self.again.append(part)
            yield block

    def _part(self, part: int) -> RowBlock:
        import pyarrow
        import pyarrow.parquet

        name = self.plan.part_file(part)
        damaged = f"{self.store.where.rstrip('/')}/{name} is not what its worker wrote. Run again with --resume, which "
        damaged += "answers that part again."
        data = self.store.read(name)
        try:
            if data is None:
                raise OSError("gone")
            columns = pyarrow.parquet.read_table(io.BytesIO(data)).to_pydict()
        except (pyarrow.ArrowException, OSError):
            raise DamagedPartError(damaged, part) from None
        paths, _ = read_inputs(self.store, self.plan.inputs_file, part)
        if columns["path"] != paths:
            raise DamagedPartError(damaged, part)
        attachments = self._attachments(part)
        shared: dict[tuple[object, ...], Verdict] = {}
        names = [each.name for each in fields(Verdict)]
        verdicts = [
            shared.setdefault(said, Verdict(*said)) for said in zip(*(columns[name] for name in names), strict=True)
        ]
        return RowBlock(
            paths,
            [CaseName(*both) for both in zip(columns["case"], columns["slide"], strict=True)],
            _shortest(columns["probability"]),
            verdicts,
            columns["sha256"],
            _shortest(columns.get("tta_disagreement", [None] * len(paths))),
            lambda place: attachments.get(paths[place]),
        )

    def _attachments(self, part: int) -> dict[str, Attachment]:
        """The pictures of a part, by path; without them the report has fewer, and its rows are the same."""
        import pyarrow
        import pyarrow.parquet

        data = None if self.thumbnails is None else self.store.read(self.plan.pictures_file(part))
        if data is None or self.thumbnails is None:
            return {}
        try:
            rows = pyarrow.parquet.read_table(io.BytesIO(data)).to_pylist()
        except (pyarrow.ArrowException, OSError):
            return {}
        return {
            row["path"]: self.thumbnails.append(
                None if row["map"] is None else np.frombuffer(row["map"], "<f4"), row["jpeg"]
            )
            for row in rows
        }


def _shortest(values: list[float | None]) -> list[float | None]:
    """As the network gave them: Parquet has float32, the rows the shortest decimal of it."""
    return [None if value is None else shortest(np.float32(value)) for value in values]


@dataclass(frozen=True)
class CohortPublication(Publication):
    """What a run on many machines publishes beside its parts."""

    rows: PartRows

    def owned(self) -> tuple[str, ...]:
        """Its files."""
        return ("cases.parquet", "report.html", "run.json")

    def _tables(self, staged: Staged) -> Collected:
        """The workers have written the rows; they are counted, and held against the inputs."""
        collected, digests = Collected(self.options, None), Digests()
        collected.night = NightScores.of(self.model.spec, self.options)
        if collected.report is not None:
            collected.report = RunPageSelection(only_kept=True)
        for block in unless_stopped(self.rows.blocks(), self.stop):
            collected.add(block)
            digests.add(block.sha256)
        collected.copies = digests.copies()
        return collected

    def _fill(self, outcome: Outcome, collected: Collected) -> None:
        """Before ``run.json``, which says that the run is complete, it is kept what ``--resume`` is to ask again."""
        super()._fill(outcome, collected)
        if again := self.rows.again:
            note_again(self.rows.store, self.rows.plan, again)
            outcome.notes.append(
                f"Errors of the storage, which may pass, are in {counted(len(again), 'part')}: run again with --resume "
                "to ask for them once more."
            )

    def _cases(self, staged: Staged, outcome: Outcome) -> None:
        with staged.open("cases.parquet") as handle:
            handle.write(cases_parquet(outcome.cases))


class Digests:
    """SHA-256 of many files, 32 bytes each; counts those that are there before."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def add(self, sha256: Any) -> None:
        """Hexadecimal; None where a file could not be read."""
        self._parts.append(bytes.fromhex("".join(each for each in sha256 if each is not None)))

    def copies(self) -> int | None:
        """How many are those of a file before them; None where there are none at all."""
        digests = np.frombuffer(b"".join(self._parts), np.dtype((np.void, 32)))
        self._parts.clear()
        return len(digests) - len(np.unique(digests)) if len(digests) else None


def cases_parquet(cases: list[CaseSummary]) -> bytes:
    """The biopsies, with the columns of ``cases.csv`` as numbers."""
    import pyarrow

    kinds = {"case": pyarrow.string(), "band": pyarrow.string()}
    whole = ("slides", "crops", "classified", "flagged", "errors", "globally_sclerotic", "remuzzi_glomerular_score")
    kinds |= dict.fromkeys(whole, pyarrow.int64())
    kinds |= dict.fromkeys(("adequate", "adequate_banff"), pyarrow.bool_())
    names = [each.name for each in fields(CaseSummary)]
    columns = {
        name: pyarrow.array([getattr(case, name) for case in cases], kinds.get(name, pyarrow.float64()))
        for name in names
    }
    columns["notice"] = pyarrow.array([RESEARCH_USE_NOTICE] * len(cases), pyarrow.string())
    return parquet_bytes(pyarrow.table(columns))


def clear_foreign(store: Store, plan: Plan) -> None:
    """Leave the parts of this run alone: a reader of the folder takes all that is there.

    Raises:
        OutputError: this run was replaced by another one, or files of someone else are between its parts.
    """
    plan.require_current(store)
    foreign = plan.foreign(store)
    if unknown := [name for name in foreign if not is_part(name)]:
        raise OutputError(
            f"{store.where.rstrip('/')}/{PREDICTIONS} holds {some(unknown, 3)}, which is not of glomedge infer-ray. "
            "Whoever reads the folder would take it for rows of this run. Move it away, then run again with --resume."
        )
    # Late writes of a run that was replaced.
    for name in foreign:
        store.remove(f"{PREDICTIONS}/{name}")
