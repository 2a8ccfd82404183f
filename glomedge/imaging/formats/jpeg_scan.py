"""Whether the compressed pixels of a baseline JPEG are all there, followed code by code without decoding them.

libjpeg fills in what it cannot read and reports it on stderr only. Following every code in Python takes a tenth of a
second and more, so it is done only where a stretch of zero bytes makes a hole likely (docs/decoding.md).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

import numpy as np

# Shorter runs come up in flat areas all the time and are too short for a lost block of any disk or network.
_SUSPICIOUS = bytes(64)
# Fill bits, and the odd encoder that adds a byte.
_MAX_LEFT_BITS = 24
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_END_OF_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")
_RESTART = re.compile(rb"\xff+[\xd0-\xd7]")

#: By the next 16 bits: length of the code << 8 | symbol; 0 where no code begins like that.
_Table = list[int]


class _BadDataError(Exception):
    """A code that does not exist, or data that end too early or too late."""


@dataclass
class _State:
    #: (class, id) of a Huffman table to its 16 counts and its symbols (T.81, B.2.4.2).
    tables: dict[tuple[int, int], tuple[bytes, bytes]] = field(default_factory=dict)
    restart_interval: int = 0
    size_px: tuple[int, int] = (0, 0)
    #: Component id to horizontal and vertical sampling factors.
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    baseline: bool = False
    scans: int = 0


def ends(data: bytes) -> bool:
    """Whether a JPEG begins and ends with its marks; zero bytes after the end mark do not matter."""
    return data.startswith(b"\xff\xd8") and data.rstrip(b"\0").endswith(b"\xff\xd9")


def may_have_hole(data: bytes) -> bool:
    """Whether it is worth while to ask ``complete``; costs next to nothing."""
    return _SUSPICIOUS in data


def complete(data: bytes, tables: bytes = b"") -> bool | None:
    """Whether every scan holds exactly its pixels; None where that was not looked at or cannot be told.

    Args:
        data: one JPEG, its structure checked already.
        tables: a JPEG of tables only, read before (tag JPEGTables of a TIFF).
    """
    state = _State()
    try:
        if tables:
            _walk(tables, state)
        checked = _walk(data, state)
        return checked if state.scans else False
    except (_BadDataError, struct.error, IndexError, ZeroDivisionError):
        return False
    except KeyError:  # a table that is not in the file: libjpeg knows the usual ones
        return None


def _walk(data: bytes, state: _State) -> bool | None:
    at, checked = 2, None
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            return checked if state.scans else False
        code = data[at + 1]
        if code == 0xFF:
            at += 1
            continue
        if code in _STANDALONE:
            at += 2
            continue
        if code == 0xD9:
            return checked
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        if length < 2:
            raise _BadDataError
        body = data[at + 4 : at + 2 + length]
        at += 2 + length
        if code == 0xC4:
            _read_tables(body, state)
        elif code == 0xDD:
            state.restart_interval = int(struct.unpack_from(">H", body)[0])
        elif code in (0xC0, 0xC1, 0xC2, 0xC3) or 0xC5 <= code <= 0xCF:
            state.baseline = code in (0xC0, 0xC1)
            state.size_px = struct.unpack_from(">HH", body, 1)
            state.sampling = {body[i]: (body[i + 1] >> 4, body[i + 1] & 15) for i in range(6, 6 + 3 * body[5], 3)}
        elif code == 0xDA:
            end = _END_OF_SCAN.search(data, at)
            stop = end.start() if end else len(data)
            state.scans += 1
            if state.baseline and data.find(_SUSPICIOUS, at, stop) >= 0:
                _follow(data[at:stop], body, state)
                checked = True
            at = stop
    return checked


def _read_tables(body: bytes, state: _State) -> None:
    at = 0
    while at + 17 <= len(body):
        counts = body[at + 1 : at + 17]
        end = at + 17 + sum(counts)
        state.tables[body[at] >> 4, body[at] & 15] = (counts, body[at + 17 : end])
        at = end


def _lookup(counts: bytes, symbols: bytes) -> _Table:
    lookup = np.zeros(1 << 16, np.int64)
    code, used = 0, 0
    for length, count in enumerate(counts, 1):
        for symbol in symbols[used : used + count]:
            first = code << (16 - length)
            lookup[first : first + (1 << (16 - length))] = length << 8 | symbol
            code += 1
        used += count
        code <<= 1
    return lookup.tolist()


def _up(number: int, divisor: int) -> int:
    """The quotient, rounded up."""
    return -(-number // divisor)


def _follow(scan: bytes, header: bytes, state: _State) -> None:
    height_px, width_px = state.size_px
    ids = [(header[1 + 2 * i], header[2 + 2 * i]) for i in range(header[0])]
    widest = max(h for h, _ in state.sampling.values())
    tallest = max(v for _, v in state.sampling.values())
    if len(ids) == 1:
        h, v = state.sampling[ids[0][0]]
        units = _up(_up(width_px * h, widest), 8) * _up(_up(height_px * v, tallest), 8)
        repeats = [1]
    else:
        units = _up(width_px, 8 * widest) * _up(height_px, 8 * tallest)
        repeats = [state.sampling[i][0] * state.sampling[i][1] for i, _ in ids]
    lookups = {key: _lookup(*table) for key, table in state.tables.items()}
    blocks = [
        (lookups[0, selectors >> 4], lookups[1, selectors & 15])
        for (_, selectors), times in zip(ids, repeats, strict=True)
        for _ in range(times)
    ]
    for piece in _RESTART.split(scan):
        if units <= 0:
            raise _BadDataError
        due = min(units, state.restart_interval) if state.restart_interval else units
        _follow_interval(piece.replace(b"\xff\0", b"\xff"), due, blocks)
        units -= due
    if units:
        raise _BadDataError


def _follow_interval(piece: bytes, units: int, blocks: list[tuple[_Table, _Table]]) -> None:
    """Raise unless the bits hold exactly so many units, but for fill bits."""
    total_bits = 8 * len(piece)
    padded = np.frombuffer(piece + b"\xff\xff\xff", np.uint8).astype(np.uint32)
    windows = (padded[:-2] << 16 | padded[1:-1] << 8 | padded[2:]).tolist()
    at = 0
    for _ in range(units):
        for dc_table, ac_table in blocks:
            if at >= total_bits:
                raise _BadDataError
            entry = dc_table[windows[at >> 3] >> (8 - (at & 7)) & 0xFFFF]
            if not entry:
                raise _BadDataError
            at += (entry >> 8) + (entry & 255)
            filled = 1
            while filled < 64:
                if at >= total_bits:
                    raise _BadDataError
                entry = ac_table[windows[at >> 3] >> (8 - (at & 7)) & 0xFFFF]
                if not entry:
                    raise _BadDataError
                symbol = entry & 255
                at += (entry >> 8) + (symbol & 15)
                if symbol & 15:
                    filled += (symbol >> 4) + 1
                elif symbol == 0xF0:
                    filled += 16
                else:
                    break
            if filled > 64:
                raise _BadDataError
    if at > total_bits or total_bits - at >= _MAX_LEFT_BITS:
        raise _BadDataError
