"""The last answer of every input, as read from the journal: 47 to 77 bytes a row beside the names that the scan holds.

Each field is a column, with the value of an input at the input's place, so that rows that lie in any order in the
journal come out in path order without sorting, and without reading the file again.
"""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from math import isnan
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glomedge.pipeline.inputs import PART_MARK, Found
from glomedge.results.column import Column
from glomedge.results.journal_rows import (
    HAS_ATTACHMENT,
    HAS_DISAGREEMENT,
    HAS_SHA256,
    HAS_SIZE,
    HAS_TIME,
    LOW_64,
    Numbers,
    journal_rows,
)
from glomedge.results.rows import Attachment

_STEP = 1 << 16  # rows that are looked at together

_RETRIED = frozenset({"error:permission", "error:vanished", "error:io", "error:not_regular"})
_RELATIVE = itemgetter(0)  # Found.relative


class Stored(NamedTuple):
    """What the journal says of one input; the fields of ``Row`` that do not depend on how it is published."""

    status: str
    probability: float | None
    sha256: str | None
    disagreement: float | None
    message: str
    attachment: Attachment | None


class StoredColumns(NamedTuple):
    """What the journal says of N inputs.

    Attributes:
        said: numbers of status and message (``AnswerTable.said``).
        probability: float64 ``[N]``, NaN for an error.
        sha256: None where the file could not be read.
        disagreement: None without ``--tta``.
    """

    said: list[int]
    probability: npt.NDArray[np.float64]
    sha256: Sequence[str | None]
    disagreement: Sequence[float | None]


class Fingerprint(NamedTuple):
    """What tells whether an answered file is to be read again; size and time modulo 2**64.

    Attributes:
        size_bytes: None if the file was not read to its end (too large, the decoder hung).
        mtime_ns: when the file was last written to; None if that is not known.
        may_pass: whether the input has an error that may be gone next time.
    """

    size_bytes: int | None
    mtime_ns: int | None
    may_pass: bool

    def differs(self, size_bytes: int, mtime_ns: int) -> bool:
        """Whether a file of that size and time is a different one; without a size the time decides."""
        return self.mtime_ns != mtime_ns & LOW_64 or self.size_bytes not in (None, size_bytes & LOW_64)


class AnswerTable:
    """Answers by input.

    Args:
        inputs: of the run, sorted by the bytes of their path. Rows of other files (gone since they were answered) are
            kept as well, at the cost of their names.

    Attributes:
        said: pairs of status and message that occur; the first stands for no answer.
    """

    def __init__(self, inputs: Sequence[Found] = ()) -> None:
        self.inputs = inputs
        self.said = [("", "")]
        self._numbers_said = {("", ""): 0}
        self._failed = [False]  # of each of ``said``
        self._others: dict[bytes, int] = {}  # name -> number, from len(inputs) on
        self._other_names: list[bytes] = []
        self._count = self._room = 0
        self._next = 0  # where the next row most likely belongs: batches are runs of inputs
        self._said = Column("<u2", "<u4")
        self._known = Column("u1")
        self._probability, self._disagreement = Column("<f8"), Column("<f8")
        self._sha256 = Column("u1", width=32)
        self._size, self._time = Column("<u4", "<u8"), Column("<u8")
        self._offset, self._length, self._crc32 = Column("<u4", "<u8"), Column("<u2", "<u4"), Column("<u4")

    def __len__(self) -> int:
        return self._count

    # Filling.

    def put(self, rows: Sequence[Any]) -> None:
        """Take the rows of one journal line, all or none.

        Raises:
            TypeError, ValueError: one of them is no row.
        """
        if not rows:
            return
        taken = journal_rows(rows)
        said = self._said_numbers(taken.said)
        if [self._failed[number] for number in said] != np.isnan(taken.probability).tolist():
            raise ValueError("a status that does not go with the probability")
        where, kept = self._places(taken.names)
        room = self._room
        self._said.put(where, np.array(said)[kept], room)
        for column, values in (
            (self._known, taken.known),
            (self._probability, taken.probability),
            (self._disagreement, taken.disagreement),
            (self._sha256, taken.sha256),
            (self._size, taken.size_bytes),
            (self._time, taken.mtime_ns),
            *zip((self._offset, self._length, self._crc32), taken.attachment or (), strict=False),
        ):
            if values is not None:
                column.put(where, values[kept], room)

    def _said_numbers(self, said: list[tuple[str, str]]) -> list[int]:
        """Numbers of status and message. Raises ValueError where that is no status."""
        numbers = self._numbers_said
        try:
            return [numbers[pair] for pair in said]
        except KeyError:
            for pair in dict.fromkeys(said):
                if pair[0].partition(":")[0] not in ("ok", "flagged", "error"):
                    raise ValueError(f"status {pair[0]!r}") from None
                if pair not in numbers:
                    numbers[pair] = len(self.said)
                    self.said.append(pair)
                    self._failed.append(pair[0].startswith("error"))
            return [numbers[pair] for pair in said]

    def _places(self, names: list[bytes]) -> tuple[slice | Numbers, slice | Numbers]:
        """Numbers of the rows of those names, new ones where there are none yet; and which of the names they are of:
        all, or the last ones where a name is there twice."""
        if not self._room:
            # With room for some others: growing needs twice a column's memory.
            self._room = len(self.inputs) + len(self.inputs) // 256 + 16
        begin, end = self._next, self._next + len(names)
        where: slice | Numbers = slice(begin, end)
        kept: slice | Numbers = slice(None)
        if list(map(_RELATIVE, self.inputs[begin:end])) == names:
            self._next = end
        else:
            last = {self._place(name): place for place, name in enumerate(names)}
            where, kept = np.array(list(last)), np.array(list(last.values()))
        self._said.fit(self._room)
        answered = self._said.data[where]
        self._count += len(answered) - int(np.count_nonzero(answered))
        return where, kept

    def _place(self, name: bytes) -> int:
        number = self.find(name)
        if number is None:
            number = self._others[name] = len(self.inputs) + len(self._other_names)
            self._other_names.append(name)
            if number >= self._room:
                self._room += self._room // 8 + 16
        return number

    def take(self, other: AnswerTable, places: npt.NDArray[np.intp], shift_bytes: int = 0) -> None:
        """Take the answers of another table's inputs, which are inputs of this one and have no answers here.

        Its rows of other files, gone since, are left out.

        Args:
            other: the table.
            places: of its inputs among the inputs of this one.
            shift_bytes: what is added to the offsets of its attachments.
        """
        has = np.flatnonzero(other._said.data[: len(other.inputs)])
        if not len(has):
            return
        self._room = self._room or len(self.inputs)
        where, room = places[has], self._room
        said = np.array([0, *self._said_numbers(other.said[1:])])
        self._said.put(where, said[other._said.data[has]], room)
        self._count += len(has)
        for name in ("_known", "_probability", "_disagreement", "_sha256", "_size", "_time", "_length", "_crc32"):
            values = getattr(other, name).data
            if len(values):
                getattr(self, name).put(where, values[has], room)
        if len(other._offset.data):
            self._offset.put(where, other._offset.data[has].astype(np.uint64) + np.uint64(shift_bytes), room)

    def drop_replaced(self) -> None:
        """Forget folders that could not be listed, slides that could not be used and crops that are slides by now.

        Their files and outlines have rows now.
        """
        for name, number in self._others.items():
            replaced = name.endswith((b"/", PART_MARK)) or self._has_parts(name)
            if replaced and self._said.data[number]:
                self._count -= 1
                self._said.data[number] = self._known.data[number] = 0

    def drop_unpictured(self, size_bytes: int) -> int:
        """Forget rows whose map or thumbnail would end beyond that size of their file; returns how many."""
        rows = len(self._offset.data)
        has = self._known.data[:rows] & HAS_ATTACHMENT != 0
        ends = self._offset.data.astype(np.uint64) + self._length.data[:rows]
        lost = np.flatnonzero(has & (ends > size_bytes) & (self._said.data[:rows] != 0))
        self._said.data[lost] = self._known.data[lost] = 0
        self._count -= len(lost)
        return len(lost)

    def _has_parts(self, name: bytes) -> bool:
        """Whether outlines on the file of that name are inputs."""
        first = bisect_left(self.inputs, name + PART_MARK, key=_RELATIVE)
        if first == len(self.inputs):
            return False
        found = self.inputs[first]
        return found.part is not None and found.file == name

    # Asking.

    def find(self, name: bytes) -> int | None:
        """Number of the input or row of that name; None if there is none."""
        number, inputs = self._next, self.inputs
        if number >= len(inputs) or inputs[number].relative != name:
            number = bisect_left(inputs, name, key=_RELATIVE)
            if number >= len(inputs) or inputs[number].relative != name:
                return self._others.get(name)
        self._next = number + 1
        return number

    def name(self, number: int) -> bytes:
        """The file's path relative to the folder."""
        inputs = self.inputs
        return inputs[number].relative if number < len(inputs) else self._other_names[number - len(inputs)]

    def names(self, numbers: Sequence[int]) -> list[bytes]:
        """The same of many rows; ``numbers`` as ``numbers()`` gives them."""
        if _consecutive(numbers) and numbers[-1] < len(self.inputs):
            return list(map(_RELATIVE, self.inputs[numbers[0] : numbers[-1] + 1]))
        return [self.name(number) for number in numbers]

    def fingerprint(self, name: bytes) -> Fingerprint | None:
        """Fingerprint of the file of that name when it was answered; None if it has no answer."""
        number = self.find(name) if self._room else None
        if number is None or not self._said.data[number]:
            return None
        known = int(self._known.data[number])
        status = self.said[self._said.data[number]][0]
        return Fingerprint(
            int(self._size.data[number]) if known & HAS_SIZE else None,
            int(self._time.data[number]) if known & HAS_TIME else None,
            # Given up before its bytes were there: the disk's fault, not the file's. A whole slide is asked again;
            # and an outline on a damaged part of one, whose pixels may lie in other files than the stamped one.
            status in _RETRIED
            or (status == "error:decoder" and not known & HAS_SHA256)
            or name.endswith(PART_MARK)
            or (status == "error:corrupt" and number < len(self.inputs) and self.inputs[number].part is not None),
        )

    def settled(self) -> npt.NDArray[np.bool_]:
        """For each input, whether its answer stays whatever has become of its file: no error, and no time known."""
        count = len(self.inputs)
        if not self._room:
            return np.zeros(count, np.bool_)
        fine = ~np.array(self._failed)
        fine[0] = False
        settled: npt.NDArray[np.bool_] = fine[self._said.data[:count]] & (self._known.data[:count] & HAS_TIME == 0)
        return settled

    def missing(self) -> int:
        """How many inputs have no answer."""
        if not self._room:
            return len(self.inputs)
        return int(np.count_nonzero(self._said.data[: len(self.inputs)] == 0))

    def numbers(self) -> Iterator[int]:
        """Of all rows, sorted by the bytes of their names."""
        every: Iterator[int] = iter(range(len(self.inputs) if self._room else 0))
        if self._count == len(self.inputs) and not self._others:
            return every
        if self._others:
            others = sorted(self._others.values(), key=self.name)
            every = heapq.merge(every, others, key=self.name)
        said = self._said.data
        return (number for number in every if said[number])

    def probability(self, number: int) -> float | None:
        """Of one row."""
        probability = float(self._probability.data[number])
        return None if isnan(probability) else probability

    def columns(self, numbers: Sequence[int]) -> StoredColumns:
        """Many rows; ``numbers`` as ``numbers()`` gives them, at least one."""
        where = slice(numbers[0], numbers[-1] + 1) if _consecutive(numbers) else np.array(numbers)
        known = self._known.data[where]
        disagreement: Sequence[float | None] = [None] * len(numbers)
        if (has := known & HAS_DISAGREEMENT).any():
            self._disagreement.fit(self._room)
            disagreement = _where(has, self._disagreement.data[where].tolist())
        sha256: Sequence[str | None] = [None] * len(numbers)
        if (has := known & HAS_SHA256).any():
            self._sha256.fit(self._room)
            text = self._sha256.data[where].tobytes().hex()
            sha256 = _where(has, [text[at : at + 64] for at in range(0, len(text), 64)])
        return StoredColumns(self._said.data[where].tolist(), self._probability.data[where], sha256, disagreement)

    def stored(self, number: int) -> Stored:
        """One row."""
        (said,), _, (sha256,), (disagreement,) = self.columns([number])
        status, message = self.said[said]
        return Stored(status, self.probability(number), sha256, disagreement, message, self.attachment(number))

    def attachment(self, number: int) -> Attachment | None:
        """Place of the map and the thumbnail of one row."""
        if not self._known.data[number] & HAS_ATTACHMENT:
            return None
        return Attachment(*(int(column.data[number]) for column in (self._offset, self._length, self._crc32)))

    def attachments_end_bytes(self) -> int:
        """Where the last map or thumbnail of the rows ends in their file; 0 where no row has one."""
        if not len(self._offset.data):
            return 0
        rows = len(self._offset.data)
        has = self._known.data[:rows] & HAS_ATTACHMENT != 0
        ends = self._offset.data[has].astype(np.uint64) + self._length.data[:rows][has]
        return int(ends.max(initial=0))

    def copies(self) -> int | None:
        """How many rows are byte for byte copies of the file of another row, which is not counted.

        None if no row has a SHA-256.
        """
        if not len(self._sha256.data):
            return None
        # In 64 parts by the first six bits: a set of all digests would take more than everything else together.
        digests, part_of = self._sha256.data, self._sha256.data[:, 0] >> 2
        part_of[self._known.data[: len(part_of)] & HAS_SHA256 == 0] = 64
        if not np.any(part_of < 64):
            return None
        copies = 0
        for part in range(64):
            seen = set[bytes]()
            for begin in range(0, len(part_of), _STEP):
                step = slice(begin, begin + _STEP)
                data = digests[step][part_of[step] == part].tobytes()
                copies += len(data) // 32 + len(seen)
                seen.update(data[at : at + 32] for at in range(0, len(data), 32))
                copies -= len(seen)
        return copies


def _consecutive(numbers: Sequence[int]) -> bool:
    """Whether they are a slice. The ends alone do not tell: rows of files that are gone have later numbers."""
    return list(numbers) == list(range(numbers[0], numbers[0] + len(numbers)))


def _where(has: Numbers, values: list[Any]) -> Sequence[Any]:
    """The values, None for rows that have none."""
    return values if has.all() else [value if there else None for value, there in zip(values, has, strict=True)]
