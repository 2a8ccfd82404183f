"""The parts of a run: which inputs each has, what its file is called, and what all of them depend on.

A part is a stretch of the sorted inputs. Its file's name follows from the run and its number alone, so whoever answers
it, however often, writes the same file: an input has one row, whatever dies on the way. What is there is done.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from glomedge.cluster.store import Store
from glomedge.errors import OutputError
from glomedge.pipeline.batching import sizes
from glomedge.results.folder import WORK_FOLDER

SCHEMA = 1
PREDICTIONS = "predictions"
"""Folder of the published parts."""
RESULTS = ("run.json", "cases.parquet", "report.html")
"""What is made of the parts; the record, which says that all is there, comes first here and is written last."""
PLAN_FILE = f"{WORK_FOLDER}/ray.json"
AGAIN_FILE = f"{WORK_FOLDER}/again.json"
"""Parts with errors that may pass, as the last publication found them."""
ATTEMPTS = f"{WORK_FOLDER}/attempts"
"""Folder of the parts that are being answered."""
_LEAST_ROWS, _MOST_ROWS = 128, 4096
"""Ray takes a while to hand out a part, which counts where a part is answered in a second, as 32 crops are."""
_PART_NAME = re.compile(r"part-\d{5,}-of-\d+\.[0-9a-f]{12}\.parquet")
_PARTS, _PARTS_ON_GPUS = 512, 64
"""At least so many, where there are inputs enough: many for each of 32 workers, so that all end together."""
_TAPERED = 4
"""Full batches at the end of which some are smaller (``batching.sizes``); they lie in the last part."""


@dataclass(frozen=True)
class Plan:
    """Attributes:
    total: number of inputs.
    part_rows: inputs a part, a multiple of the batch; the last part also has the rest.
    batch_size: crops a call of the engine.
    identity: what the rows depend on.
    """

    total: int
    part_rows: int
    batch_size: int
    identity: dict[str, Any]

    @property
    def parts(self) -> int:
        """How many there are."""
        return max(1, self.total // self.part_rows)

    @property
    def run_id(self) -> str:
        """Short name of this run, by what its files depend on."""
        said = json.dumps([self.identity, self.part_rows, self.total], sort_keys=True, ensure_ascii=True)
        return hashlib.sha256(said.encode()).hexdigest()[:12]

    def bounds(self, part: int) -> tuple[int, int]:
        """Places of its first input and behind its last one."""
        begin = part * self.part_rows
        return begin, self.total if part == self.parts - 1 else begin + self.part_rows

    def part_file(self, part: int) -> str:
        """Name of its rows; in the order of the inputs when sorted."""
        width = max(5, len(str(self.parts)))
        return f"{PREDICTIONS}/part-{part:0{width}d}-of-{self.parts}.{self.run_id}.parquet"

    def pictures_file(self, part: int) -> str:
        """Name of the pictures that the report may show of it."""
        return f"{WORK_FOLDER}/pictures/{part}.{self.run_id}.parquet"

    def stamps_file(self, part: int) -> str:
        """Name of the sizes and times of its inputs when they were answered."""
        return f"{WORK_FOLDER}/stamps/{part}.{self.run_id}.parquet"

    def attempts_file(self, part: int) -> str:
        """Name of the count of workers that have begun it, while it is not done."""
        return f"{ATTEMPTS}/{part}.{self.run_id}"

    @property
    def inputs_file(self) -> str:
        """Name of the list of inputs: path, case and slide, a row group for each part."""
        return f"{WORK_FOLDER}/inputs.{self.run_id}.parquet"

    def done(self, store: Store) -> set[int]:
        """The parts whose file is there."""
        names = set(store.names(PREDICTIONS))
        return {part for part in range(self.parts) if self.part_file(part).rpartition("/")[2] in names}

    def foreign(self, store: Store) -> list[str]:
        """Names of the tables in ``PREDICTIONS`` that are not parts of this run."""
        own = {self.part_file(part).rpartition("/")[2] for part in range(self.parts)}
        return [
            name
            for name in store.names(PREDICTIONS)
            if name.endswith(".parquet") and not name.startswith(".") and name not in own
        ]

    def require_current(self, store: Store) -> None:
        """Raise OutputError where the plan of another run has taken this one's place (``--overwrite``).

        Asked before anything is written that a reader would take for this run's: a worker can outlive its driver.
        """
        data = store.read(PLAN_FILE)
        there = None if data is None else Plan.read(data)
        if there is None or there.run_id != self.run_id:
            raise OutputError(
                f"This run in {store.where} was replaced by another one, and ends. Use another --output if both are "
                "wanted."
            )

    def as_json(self) -> bytes:
        """For ``PLAN_FILE``."""
        said = {"schema": SCHEMA, "part_rows": self.part_rows, "total": self.total, "identity": self.identity}
        return json.dumps({**said, "batch_size": self.batch_size}, indent=2).encode() + b"\n"

    @classmethod
    def read(cls, data: bytes) -> Plan | None:
        """Of the bytes of ``PLAN_FILE``; None where they are damaged or of another version."""
        try:
            said = json.loads(data)
            if said["schema"] != SCHEMA:
                return None
            plan = cls(int(said["total"]), int(said["part_rows"]), int(said["batch_size"]), dict(said["identity"]))
        except (ValueError, KeyError, TypeError, RecursionError):
            return None
        return plan if plan.total > 0 and plan.part_rows > 0 and plan.batch_size > 0 else None


def is_part(name: str) -> bool:
    """Whether a file in ``PREDICTIONS`` is called like a part of a run, whichever."""
    return _PART_NAME.fullmatch(name) is not None


def part_rows_for(total: int, batch_size: int, *, gpu: bool, wanted: int | None = None) -> int:
    """Inputs a part: small enough that a worker lost costs little and none waits long for the last one, else large.

    It depends on the inputs alone, not on the machine or the cluster: two drivers of the same run have the same parts.

    A multiple of the batch, and at least as much as the smaller batches at the end of a run take, so that every batch
    of the run lies within one part.
    """
    rows = wanted or min(_MOST_ROWS, max(_LEAST_ROWS, total // (_PARTS_ON_GPUS if gpu else _PARTS)))
    rows = -(-rows // batch_size) * batch_size
    return max(rows, _TAPERED * batch_size)


def part_batches(plan: Plan, part: int, *, taper: bool) -> Iterator[tuple[int, int]]:
    """Begin and end of each batch, from the part's first input on, as one process over all inputs would make them.

    Sizes depend on what is left alone (``batching.sizes``), and parts begin where a batch does.
    """
    begin, end = plan.bounds(part)
    place = 0
    for size in sizes(plan.total - begin, plan.batch_size, taper=taper):
        if place >= end - begin:
            return
        yield place, place + size
        place += size


def differences(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """In what two runs differ, in words."""

    def short(value: object) -> str:
        text = str(value)
        return text if len(text) <= 40 else f"{text[:12]}..."

    names = [name for name in (*one, *(each for each in other if each not in one)) if one.get(name) != other.get(name)]
    return [
        f"{name.replace('_sha256', '')} {short(one.get(name))} and {short(other.get(name))}"
        for name in islice(names, 4)
    ]


def inputs_sha256(columns: Sequence[Sequence[str]]) -> str:
    """SHA-256 of paths, cases and slides: each cell followed by NUL."""
    digest = hashlib.sha256()
    for row in zip(*columns, strict=True):
        digest.update(("\0".join(row) + "\0").encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
