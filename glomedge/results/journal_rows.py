"""The rows of one journal line as columns, checked: what any file may hold comes in, what the answers hold goes out.

By columns, because a million rows are read: each check is one call for a whole line, not one for every value.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glomedge.files.names import unescape_name

HAS_SHA256, HAS_SIZE, HAS_TIME, HAS_ATTACHMENT, HAS_DISAGREEMENT = 1, 2, 4, 8, 16

# Sizes and times are kept and compared modulo 2**64: a damaged file system reports any time at all.
LOW_64 = (1 << 64) - 1

Numbers = npt.NDArray[Any]
_NONE = type(None)


class JournalRows(NamedTuple):
    """Columns of N rows; those that are None are missing in all of them, and zero where a row has none.

    Attributes:
        names: their paths relative to the folder.
        said: status and message of each.
        known: uint8 ``[N]``, which of the columns below the row has (``HAS_...``).
        probability: float64 ``[N]``, NaN for an error.
        disagreement: float64 ``[N]``.
        sha256: uint8 ``[N, 32]``.
        size_bytes: uint64 ``[N]``.
        mtime_ns: uint64 ``[N]``.
        attachment: uint64 ``[N]`` three times: offset, length and CRC-32 in the thumbnails file.
    """

    names: list[bytes]
    said: list[tuple[str, str]]
    known: Numbers
    probability: Numbers
    disagreement: Numbers | None
    sha256: Numbers | None
    size_bytes: Numbers | None
    mtime_ns: Numbers | None
    attachment: tuple[Numbers, Numbers, Numbers] | None


def journal_rows(rows: Sequence[Any]) -> JournalRows:
    """The columns of those rows; at least one. Status and probability are not compared.

    Raises:
        TypeError, ValueError: one of them is no row.
    """
    keys, statuses, probabilities, digests, sizes, times, messages, disagreements, attachments = zip(*rows, strict=True)
    for texts in (keys, statuses, messages):
        if set(map(type, texts)) != {str}:
            raise TypeError("a row without key, status or message")
    known = np.zeros(len(keys), np.uint8)
    return JournalRows(
        # A lone surrogate is no name that ``escape_name`` gives: encoding it fails.
        [unescape_name(key) if "\\" in key else key.encode("utf-8") for key in keys],
        list(zip(statuses, messages, strict=True)),
        known,
        _fractions(probabilities, np.nan, known, 0),
        None if _absent(disagreements) else _fractions(disagreements, 0.0, known, HAS_DISAGREEMENT),
        None if _absent(digests) else _digests(digests, known),
        None if _absent(sizes) else _integers(sizes, known, HAS_SIZE),
        None if _absent(times) else _integers(times, known, HAS_TIME),
        None if _absent(attachments) else _attachments(attachments, known),
    )


def _absent(values: Sequence[Any]) -> bool:
    return values.count(None) == len(values)


def _present(values: Sequence[Any], kind: type, known: Numbers, bit: int) -> tuple[list[Any], Numbers | slice]:
    """Those that are not None and where they stand, which is noted as known. Raises TypeError for another type."""
    kinds = set(map(type, values))
    if kinds == {kind}:
        known |= bit
        return list(values), slice(None)
    if not kinds <= {kind, _NONE}:
        raise TypeError(f"a value that is no {kind.__name__}")
    where = np.array([value is not None for value in values])
    known[where] |= bit
    return [value for value in values if value is not None], where


def _fractions(values: Sequence[Any], missing: float, known: Numbers, bit: int) -> Numbers:
    found, where = _present(values, float, known, bit)
    fractions = np.array(found, np.float64)
    if not ((fractions >= 0.0) & (fractions <= 1.0)).all():
        raise ValueError("a value that is no fraction")
    if isinstance(where, slice):
        return fractions
    column = np.full(len(values), missing)
    column[where] = fractions
    return column


def _integers(values: Sequence[Any], known: Numbers, bit: int) -> Numbers:
    found, where = _present(values, int, known, bit)
    column = np.zeros(len(values), np.uint64)
    column[where] = [value & LOW_64 for value in found]
    return column


def _digests(values: Sequence[Any], known: Numbers) -> Numbers:
    found, where = _present(values, str, known, HAS_SHA256)
    text = "".join(found)
    digests = bytes.fromhex(text)
    if set(map(len, found)) != {64} or digests.hex() != text:
        raise ValueError("a value that is no SHA-256")
    column = np.zeros((len(values), 32), np.uint8)
    column[where] = np.frombuffer(digests, np.uint8).reshape(-1, 32)
    return column


def _attachments(values: Sequence[Any], known: Numbers) -> tuple[Numbers, Numbers, Numbers]:
    found, where = _present(values, list, known, HAS_ATTACHMENT)
    offsets, lengths, checksums = zip(*found, strict=True)
    return (
        _in_range(offsets, 1 << 64, len(values), where),
        _in_range(lengths, 1 << 32, len(values), where),
        _in_range(checksums, 1 << 32, len(values), where),
    )


def _in_range(numbers: Sequence[Any], end: int, rows: int, where: Numbers | slice) -> Numbers:
    if set(map(type, numbers)) != {int}:
        raise TypeError("an attachment that is not of integers")
    if min(numbers) < 0 or max(numbers) >= end:
        raise ValueError("an attachment out of range")
    column = np.zeros(rows, np.uint64)
    column[where] = numbers
    return column
