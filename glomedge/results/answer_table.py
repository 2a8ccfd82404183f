"""The last answer of every input, as read from the journal: 89 bytes a row beside the names that the scan holds anyway.

A row is a record of fixed length at the place of its input, so that rows that lie in any order in the journal come out
in path order without sorting, and without reading the file again.
"""

from __future__ import annotations

import heapq
import struct
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from math import isnan, nan
from operator import itemgetter
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glomedge.files.names import unescape_name
from glomedge.pipeline.inputs import Found
from glomedge.results.rows import Attachment

# status, message, size, time, attachment (offset, length, CRC), probability, disagreement, sha256, what is known
_RECORD = struct.Struct("<IIQQQIIdd32sB")
_FIELDS = np.dtype(
    [
        ("status", "<u4"), ("message", "<u4"), ("size_bytes", "<u8"), ("mtime_ns", "<u8"),
        ("offset", "<u8"), ("length", "<u4"), ("crc32", "<u4"),
        ("probability", "<f8"), ("disagreement", "<f8"), ("sha256", "u1", 32), ("known", "u1"),
    ]
)  # fmt: skip
assert _FIELDS.itemsize == _RECORD.size

_HAS_SHA256, _HAS_SIZE, _HAS_TIME, _HAS_ATTACHMENT, _MAY_PASS = 1, 2, 4, 8, 16
# Sizes and times are kept and compared modulo 2**64: a damaged file system reports any time at all.
_LOW_64 = (1 << 64) - 1
_NO_SHA256 = bytes(32)
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
        return self.mtime_ns != mtime_ns & _LOW_64 or self.size_bytes not in (None, size_bytes & _LOW_64)


class AnswerTable:
    """Answers by input.

    Args:
        inputs: of the run, sorted by the bytes of their path. Rows of other files (gone since they were answered) are
            kept as well, at the cost of their names.
    """

    def __init__(self, inputs: Sequence[Found] = ()) -> None:
        self.inputs = inputs
        self._others: dict[bytes, int] = {}  # name -> number, from len(inputs) on
        self._other_names: list[bytes] = []
        self._records = bytearray()
        self._count = 0
        self._next = 0  # where the next row most likely belongs: batches are runs of inputs
        self._statuses, self._status_ids = [""], {"": 0}  # 0: no answer
        self._messages, self._message_ids = [""], {"": 0}

    def __len__(self) -> int:
        return self._count

    # Filling.

    def put(self, rows: Sequence[Any]) -> list[str]:
        """Take the rows of one journal line, all or none; returns their keys.

        Raises:
            TypeError, ValueError: one of them is no row.
        """
        packed = [self._packed(row) for row in rows]
        for name, record in packed:
            begin = self._place(name) * _RECORD.size
            self._count += not any(self._records[begin : begin + 4])  # no status yet
            self._records[begin : begin + _RECORD.size] = record
        return [row[0] for row in rows]

    def _packed(self, row: Any) -> tuple[bytes, bytes]:
        """Name and record of a row. Raises TypeError or ValueError where the list is not a row."""
        key, status, probability, sha256, size, mtime, message, disagreement, attachment = row
        if not (isinstance(key, str) and isinstance(status, str) and isinstance(message, str)):
            raise TypeError("a row without key, status or message")
        name = key.encode("utf-8")  # a lone surrogate is no name that ``escape_name`` gives
        if "\\" in key:
            name = unescape_name(key)
        kind = status.partition(":")[0]
        if kind not in ("ok", "flagged", "error") or (probability is None) != (kind == "error"):
            raise ValueError(f"status {status!r} with probability {probability!r}")
        known, digest = 0, _NO_SHA256
        if sha256 is not None:
            digest = _digest(sha256)
            known = _HAS_SHA256
        if size is not None:
            size = _integer(size)
            known |= _HAS_SIZE
        if mtime is not None:
            mtime = _integer(mtime)
            known |= _HAS_TIME
        # Given up before its bytes were there: the disk's fault, not the file's.
        if status in _RETRIED or (status == "error:decoder" and sha256 is None):
            known |= _MAY_PASS
        offset = length = crc32 = 0
        if attachment is not None:
            offset, length, crc32 = _attachment(attachment)
            known |= _HAS_ATTACHMENT
        record = _RECORD.pack(
            _interned(status, self._statuses, self._status_ids), _interned(message, self._messages, self._message_ids),
            size or 0, mtime or 0, offset, length, crc32, _fraction(probability), _fraction(disagreement), digest,
            known,
        )  # fmt: skip
        return name, record

    def _place(self, name: bytes) -> int:
        """Number of the row of that name; a new one where there is none yet."""
        if not self._records:
            # With room for some others: growing would cost an eighth of everything.
            self._records = bytearray((len(self.inputs) + len(self.inputs) // 256 + 16) * _RECORD.size)
        number = self.find(name)
        if number is None:
            number = self._others[name] = len(self.inputs) + len(self._other_names)
            self._other_names.append(name)
            if (number + 1) * _RECORD.size > len(self._records):
                self._records.extend(bytes(_RECORD.size))
        return number

    def drop_folders(self) -> None:
        """Forget folders that could not be listed and are no longer inputs: their files have rows now."""
        for name in [name for name in self._others if name.endswith(b"/")]:
            begin = self._others[name] * _RECORD.size
            if any(self._records[begin : begin + 4]):
                self._count -= 1
                self._records[begin : begin + _RECORD.size] = bytes(_RECORD.size)

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

    def fingerprint(self, name: bytes) -> Fingerprint | None:
        """Fingerprint of the file of that name when it was answered; None if it has no answer."""
        number = self.find(name) if self._records else None
        if number is None:
            return None
        status, _, size, mtime, _, _, _, _, _, _, known = _RECORD.unpack_from(self._records, number * _RECORD.size)
        if not status:
            return None
        return Fingerprint(
            size if known & _HAS_SIZE else None, mtime if known & _HAS_TIME else None, bool(known & _MAY_PASS)
        )

    def missing(self) -> int:
        """How many inputs have no answer."""
        if not self._records:
            return len(self.inputs)
        return int(np.count_nonzero(self._column("status")[: len(self.inputs)] == 0))

    def numbers(self) -> Iterator[int]:
        """Of all rows, sorted by the bytes of their names."""
        every: Iterator[int] = iter(range(len(self.inputs) if self._records else 0))
        if self._count == len(self.inputs) and not self._others:
            return every
        if self._others:
            others = sorted(self._others.values(), key=self.name)
            every = heapq.merge(every, others, key=self.name)
        records, size = self._records, _RECORD.size
        return (number for number in every if any(records[number * size : number * size + 4]))

    def probability(self, number: int) -> float | None:
        """Of one row."""
        probability: float = _RECORD.unpack_from(self._records, number * _RECORD.size)[7]
        return None if isnan(probability) else probability

    def stored(self, number: int) -> Stored:
        """One row."""
        status, message, _, _, offset, length, crc32, probability, disagreement, digest, known = _RECORD.unpack_from(
            self._records, number * _RECORD.size
        )
        return Stored(
            self._statuses[status],
            None if isnan(probability) else probability,
            digest.hex() if known & _HAS_SHA256 else None,
            None if isnan(disagreement) else disagreement,
            self._messages[message],
            Attachment(offset, length, crc32) if known & _HAS_ATTACHMENT else None,
        )

    def copies(self) -> int | None:
        """How many rows are byte for byte copies of the file of another row, which is not counted.

        None if no row has a SHA-256.
        """
        if not self._records:
            return None
        # In 64 parts by the first six bits: a set of all digests would take more than everything else together.
        digests, part_of = self._column("sha256"), self._column("sha256")[:, 0] >> 2
        part_of[self._column("known") & _HAS_SHA256 == 0] = 64
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

    def _column(self, name: str) -> npt.NDArray[Any]:
        column: npt.NDArray[Any] = np.frombuffer(self._records, _FIELDS)[name]
        return column


def _interned(text: str, texts: list[str], numbers: dict[str, int]) -> int:
    number = numbers.get(text)
    if number is None:
        number = numbers[text] = len(texts)
        texts.append(text)
    return number


def _fraction(value: Any) -> float:
    if value is None:
        return nan
    if not isinstance(value, float):
        raise TypeError(f"{value!r} is no float")
    if not 0.0 <= value <= 1.0:
        raise ValueError(f"{value!r} is no fraction")
    return value


def _integer(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{value!r} is no int")
    return value & _LOW_64


def _digest(sha256: Any) -> bytes:
    if not isinstance(sha256, str):
        raise TypeError(f"{sha256!r} is no str")
    digest = bytes.fromhex(sha256)
    if len(digest) != 32 or digest.hex() != sha256:
        raise ValueError(f"{sha256!r} is no SHA-256")
    return digest


def _attachment(attachment: Any) -> tuple[int, int, int]:
    offset, length, crc32 = attachment
    if not (isinstance(offset, int) and isinstance(length, int) and isinstance(crc32, int)):
        raise TypeError("attachment")
    if not (0 <= offset < 1 << 64 and 0 <= length < 1 << 32 and 0 <= crc32 < 1 << 32):
        raise ValueError("attachment")
    return offset, length, crc32
