"""The compressed bits of a JPEG scan, read code by code (ITU-T T.81, annex F)."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np

# Fill bits, and the odd encoder that adds a byte.
_MAX_LEFT_BITS = 24
_RESTART = re.compile(rb"\xff+[\xd0-\xd7]")

Lookup = list[int]
"""By the next 16 bits: length of the code << 8 | symbol; 0 where no code begins like that."""


class BadDataError(Exception):
    """A code that does not exist, or data that end too early or too late."""


def lookup(counts: bytes, symbols: bytes) -> Lookup:
    """The table of a Huffman code: how many codes there are of each length from 1 to 16, and what they stand for."""
    table = np.zeros(1 << 16, np.int64)
    code, used = 0, 0
    for length, count in enumerate(counts, 1):
        for symbol in symbols[used : used + count]:
            first = code << (16 - length)
            table[first : first + (1 << (16 - length))] = length << 8 | symbol
            code += 1
        used += count
        code <<= 1
    found: Lookup = table.tolist()
    return found


class Bits:
    """The bits between two restart marks.

    Args:
        piece: bytes, as they are in the file.
    """

    def __init__(self, piece: bytes) -> None:
        data = piece.replace(b"\xff\0", b"\xff")
        self.total = 8 * len(data)
        self.at = 0
        padded = np.frombuffer(data + b"\xff\xff\xff", np.uint8).astype(np.uint32)
        #: By byte, the 24 bits from there on.
        self.windows: list[int] = (padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]).tolist()

    def symbol(self, table: Lookup) -> int:
        """What the next code stands for. Raises BadDataError at the end, and where no code begins like that."""
        at = self.at
        if at >= self.total:
            raise BadDataError
        entry = table[self.windows[at >> 3] >> (8 - (at & 7)) & 0xFFFF]
        if not entry:
            raise BadDataError
        self.at = at + (entry >> 8)
        return entry & 255

    def read(self, count: int) -> int:
        """The next bits as a number; at most 16. Raises BadDataError at the end."""
        at = self.at
        self.skip(count)
        if not count:
            return 0
        return self.windows[at >> 3] >> (24 - (at & 7) - count) & ((1 << count) - 1)

    def skip(self, count: int) -> None:
        """Pass over bits. Raises BadDataError at the end."""
        self.at += count
        if self.at > self.total:
            raise BadDataError

    def end(self) -> None:
        """Raise BadDataError if more is left than fill bits."""
        if self.at > self.total or self.total - self.at >= _MAX_LEFT_BITS:
            raise BadDataError


def intervals(scan: bytes, units: int, interval: int) -> Iterator[tuple[Bits, int]]:
    """The pieces of a scan between restart marks, each with its number of units.

    Args:
        scan: compressed bytes.
        units: of the whole scan.
        interval: units between two restart marks; 0 for none.

    Raises:
        BadDataError: there are more or fewer pieces than units ask for.
    """
    for piece in _RESTART.split(scan):
        if units <= 0:
            raise BadDataError
        due = min(units, interval) if interval else units
        yield Bits(piece), due
        units -= due
    if units:
        raise BadDataError
