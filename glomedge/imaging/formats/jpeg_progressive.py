"""The scans of a progressive JPEG, followed code by code without decoding them (ITU-T T.81, annex G).

A scan that corrects coefficients has one more bit for each that is not zero by then, so which are is kept; their values
are not.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from glomedge.imaging.formats.jpeg_bits import BadDataError, Bits, Lookup, intervals

# Coefficients of a block, 64; Python takes about a microsecond a code.
_BLOCK = 64
MAX_BLOCKS = 150_000
"""Larger pictures are not looked at: it would take seconds."""


_FRAME, _SCAN = b"\xff\xc2", re.compile(rb"\xff\xda\0[\x08\x0a\x0c\x0e]")


@dataclass
class Component:
    """One colour component.

    Attributes:
        blocks: in a scan of this component alone.
        non_zero: a byte for each coefficient, 1 where it is not zero.
        low_bit: for each of the 64 coefficients, the lowest bit that was sent (0: all were); None before the first.
    """

    blocks: int
    non_zero: bytearray = field(init=False)
    low_bit: list[int | None] = field(default_factory=lambda: [None] * _BLOCK)

    def __post_init__(self) -> None:
        self.non_zero = bytearray(_BLOCK * self.blocks)


@dataclass(frozen=True)
class Band:
    """What one scan sends: coefficients ``first`` to ``last``, down to bit ``low``, after those down to ``high``."""

    first: int
    last: int
    high: int
    low: int

    def check(self, component: Component) -> None:
        """Note what the scan adds (T.81, G.1.1.1). Raises BadDataError if the scans before do not lead up to it."""
        for index in range(self.first, self.last + 1):
            before = component.low_bit[index]
            if before != (self.high if self.high else None):
                raise BadDataError
            component.low_bit[index] = self.low
        if self.high and self.low != self.high - 1:
            raise BadDataError
        if self.first and component.low_bit[0] is None:
            raise BadDataError


def may_be_cut(data: bytes) -> bool:
    """Whether the scans of a progressive JPEG, by their headers alone, are not all that a whole one has; 0.2 ms.

    Some encoders leave the last bits out, which is allowed (T.81 asks for mean values only); but so does a file that
    was cut and given an end mark, and then its last scan is likely to end early.
    """
    begin = data.find(_FRAME)
    if begin < 0:
        return False
    components = {id_: Component(0) for id_ in data[begin + 10 : begin + 10 + 3 * data[begin + 9] : 3]}
    try:
        for match in _SCAN.finditer(data, begin):
            at, count = match.end() + 1, data[match.end()]
            band = Band(data[at + 2 * count], data[at + 2 * count + 1], *divmod(data[at + 2 * count + 2], 16))
            for id_ in data[at : at + 2 * count : 2]:
                band.check(components[id_])
    except (BadDataError, IndexError, KeyError):
        return True
    return any(any(component.low_bit) or None in component.low_bit for component in components.values())


def follow_dc(scan: bytes, units: int, interval: int, tables: list[Lookup], *, refines: bool) -> None:
    """A scan of the mean values, of one component or several.

    Args:
        scan: its compressed bytes.
        units: how many minimum coded units it has.
        interval: units between two restart marks; 0 for none.
        tables: one for each block of a unit.
        refines: whether it sends one more bit of each.

    Raises:
        BadDataError: the codes are not those of so many units.
    """
    for bits, due in intervals(scan, units, interval):
        if refines:
            bits.skip(due * len(tables))
        else:
            for _ in range(due):
                for table in tables:
                    bits.skip(bits.symbol(table))
        bits.end()


def follow_ac(scan: bytes, component: Component, band: Band, interval: int, table: Lookup) -> None:
    """A scan of other coefficients, of one component. Raises BadDataError; arguments as for ``follow_dc``."""
    step = _refine if band.high else _first
    number = 0
    for bits, due in intervals(scan, component.blocks, interval):
        run = 0  # blocks without a further code, this one included
        for _ in range(due):
            run = step(bits, component.non_zero, number * _BLOCK, band, run, table)
            number += 1
        if run:
            raise BadDataError
        bits.end()


def _first(bits: Bits, non_zero: bytearray, block: int, band: Band, run: int, table: Lookup) -> int:
    """The first scan of a band in one block (T.81, G.1.2.2); returns the run that is left."""
    if run:
        return run - 1
    index = band.first
    while index <= band.last:
        symbol = bits.symbol(table)
        zeros, size = symbol >> 4, symbol & 15
        if size:
            index += zeros
            if index > band.last:
                raise BadDataError
            bits.skip(size)
            non_zero[block + index] = 1
            index += 1
        elif zeros == 15:
            index += 16
        else:
            return (1 << zeros) + bits.read(zeros) - 1
    if index > band.last + 1:
        raise BadDataError
    return 0


def _refine(bits: Bits, non_zero: bytearray, block: int, band: Band, run: int, table: Lookup) -> int:
    """A later scan of a band in one block (T.81, G.1.2.3); returns the run that is left."""
    index = band.first
    while not run and index <= band.last:
        symbol = bits.symbol(table)
        zeros, size = symbol >> 4, symbol & 15
        if size > 1:
            raise BadDataError
        if not size and zeros < 15:
            run = (1 << zeros) + bits.read(zeros)
            break
        bits.skip(size)
        # Past so many coefficients that stay zero; each that was not zero on the way has its correction.
        corrections = 0
        while index <= band.last:
            if non_zero[block + index]:
                corrections += 1
            elif zeros:
                zeros -= 1
            else:
                break
            index += 1
        bits.skip(corrections)
        if size:
            if index > band.last:
                raise BadDataError
            non_zero[block + index] = 1
        index += 1
    if not run:
        return 0
    bits.skip(sum(non_zero[block + index : block + band.last + 1]))
    return run - 1
