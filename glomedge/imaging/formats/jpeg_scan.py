"""Whether the compressed pixels of a JPEG are all there, followed code by code without decoding them.

libjpeg fills in what it cannot read and reports it on stderr only. Following every code in Python takes a tenth of a
second and more, so it is done only where a stretch of zero bytes makes a hole likely (docs/decoding.md).
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field

from glomedge.imaging.formats import jpeg_progressive
from glomedge.imaging.formats.jpeg_bits import BadDataError, Bits, Lookup, intervals, lookup

# Shorter runs come up in flat areas all the time and are too short for a lost block of any disk or network.
_SUSPICIOUS = bytes(64)
_STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))
_END_OF_SCAN = re.compile(rb"\xff+[^\x00\xd0-\xd7\xff]")


@dataclass
class _State:
    #: (class, id) of a Huffman table to its 16 counts and its symbols (T.81, B.2.4.2).
    tables: dict[tuple[int, int], tuple[bytes, bytes]] = field(default_factory=dict)
    restart_interval: int = 0
    size_px: tuple[int, int] = (0, 0)
    #: Component id to horizontal and vertical sampling factors.
    sampling: dict[int, tuple[int, int]] = field(default_factory=dict)
    baseline: bool = False
    #: Component id to what its scans have sent; of a progressive JPEG that is looked at.
    progressive: dict[int, jpeg_progressive.Component] = field(default_factory=dict)
    scans: int = 0


def ends(data: bytes) -> bool:
    """Whether a JPEG begins and ends with its marks; zero bytes after the end mark do not matter."""
    return data.startswith(b"\xff\xd8") and data.rstrip(b"\0").endswith(b"\xff\xd9")


def may_have_hole(data: bytes) -> bool:
    """Whether it is worth while to ask ``complete``; costs next to nothing."""
    return _SUSPICIOUS in data or jpeg_progressive.may_be_cut(data)


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
        if any(component.low_bit[0] is None for component in state.progressive.values()):
            return False  # without its mean values
        return checked if state.scans else False
    except (BadDataError, struct.error, IndexError, ZeroDivisionError):
        return False
    except KeyError:  # a table that is not in the file: libjpeg knows the usual ones
        return None


def _walk(data: bytes, state: _State) -> bool | None:
    at, checked = 2, None
    while at + 4 <= len(data):
        if data[at] != 0xFF:
            if state.progressive:
                raise BadDataError  # more scans may have stood here
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
            raise BadDataError
        body = data[at + 4 : at + 2 + length]
        at += 2 + length
        if code == 0xC4:
            _read_tables(body, state)
        elif code == 0xDD:
            state.restart_interval = int(struct.unpack_from(">H", body)[0])
        elif code in (0xC0, 0xC1, 0xC2, 0xC3) or 0xC5 <= code <= 0xCF:
            state.baseline, is_progressive = code in (0xC0, 0xC1), code == 0xC2
            state.size_px = struct.unpack_from(">HH", body, 1)
            state.sampling = {body[i]: (body[i + 1] >> 4, body[i + 1] & 15) for i in range(6, 6 + 3 * body[5], 3)}
            has_zeros = data.find(_SUSPICIOUS, at, data.rfind(b"\xff\xd9")) >= 0
            if is_progressive and (has_zeros or jpeg_progressive.may_be_cut(data)):
                state.progressive = _components(state)
        elif code == 0xDA:
            end = _END_OF_SCAN.search(data, at)
            stop = end.start() if end else len(data)
            state.scans += 1
            if state.progressive or (state.baseline and data.find(_SUSPICIOUS, at, stop) >= 0):
                (_follow_progressive if state.progressive else _follow)(data[at:stop], body, state)
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


def _up(number: int, divisor: int) -> int:
    """The quotient, rounded up."""
    return -(-number // divisor)


def _blocks_of(component: int, state: _State) -> int:
    """Blocks in a scan of one component alone."""
    (height_px, width_px), (h, v) = state.size_px, state.sampling[component]
    widest, tallest = _most(state)
    return _up(_up(width_px * h, widest), 8) * _up(_up(height_px * v, tallest), 8)


def _most(state: _State) -> tuple[int, int]:
    return max(h for h, _ in state.sampling.values()), max(v for _, v in state.sampling.values())


def _units(ids: list[int], state: _State) -> tuple[int, list[int]]:
    """Minimum coded units of a scan, and how many blocks of each of its components one has."""
    if len(ids) == 1:
        return _blocks_of(ids[0], state), [1]
    (height_px, width_px), (widest, tallest) = state.size_px, _most(state)
    units = _up(width_px, 8 * widest) * _up(height_px, 8 * tallest)
    return units, [state.sampling[id_][0] * state.sampling[id_][1] for id_ in ids]


def _components(state: _State) -> dict[int, jpeg_progressive.Component]:
    """Empty where there is too much of it to be looked at."""
    blocks = {component: _blocks_of(component, state) for component in state.sampling}
    if sum(blocks.values()) > jpeg_progressive.MAX_BLOCKS:
        return {}
    return {component: jpeg_progressive.Component(count) for component, count in blocks.items()}


def _selectors(header: bytes) -> list[tuple[int, int]]:
    """Component ids of a scan, and their tables: that of mean values << 4 | that of the others."""
    return [(header[1 + 2 * i], header[2 + 2 * i]) for i in range(header[0])]


def _follow_progressive(scan: bytes, header: bytes, state: _State) -> None:
    selectors = _selectors(header)
    first, last, bits = header[1 + 2 * len(selectors) :][:3]
    band = jpeg_progressive.Band(first, last, bits >> 4, bits & 15)
    if last > 63 or first > last or (last if not first else len(selectors) > 1):
        raise BadDataError
    for id_, _ in selectors:
        band.check(state.progressive[id_])
    units, repeats = _units([id_ for id_, _ in selectors], state)
    if first:
        id_, tables = selectors[0]
        table = lookup(*state.tables[1, tables & 15])
        jpeg_progressive.follow_ac(scan, state.progressive[id_], band, state.restart_interval, table)
        return
    lookups: list[Lookup] = []
    for (_, tables), times in zip(selectors, repeats, strict=True):
        lookups += [[] if band.high else lookup(*state.tables[0, tables >> 4])] * times
    jpeg_progressive.follow_dc(scan, units, state.restart_interval, lookups, refines=band.high > 0)


def _follow(scan: bytes, header: bytes, state: _State) -> None:
    selectors = _selectors(header)
    units, repeats = _units([id_ for id_, _ in selectors], state)
    lookups = {key: lookup(*table) for key, table in state.tables.items()}
    blocks = [
        (lookups[0, tables >> 4], lookups[1, tables & 15])
        for (_, tables), times in zip(selectors, repeats, strict=True)
        for _ in range(times)
    ]
    for bits, due in intervals(scan, units, state.restart_interval):
        _follow_interval(bits, due, blocks)


def _follow_interval(bits: Bits, units: int, blocks: list[tuple[Lookup, Lookup]]) -> None:
    """Raise unless the bits hold exactly so many units, but for fill bits."""
    total_bits, windows = bits.total, bits.windows
    at = 0
    for _ in range(units):
        for dc_table, ac_table in blocks:
            if at >= total_bits:
                raise BadDataError
            entry = dc_table[windows[at >> 3] >> (8 - (at & 7)) & 0xFFFF]
            if not entry:
                raise BadDataError
            at += (entry >> 8) + (entry & 255)
            filled = 1
            while filled < 64:
                if at >= total_bits:
                    raise BadDataError
                entry = ac_table[windows[at >> 3] >> (8 - (at & 7)) & 0xFFFF]
                if not entry:
                    raise BadDataError
                symbol = entry & 255
                at += (entry >> 8) + (symbol & 15)
                if symbol & 15:
                    filled += (symbol >> 4) + 1
                elif symbol == 0xF0:
                    filled += 16
                else:
                    break
            if filled > 64:
                raise BadDataError
    bits.at = at
    bits.end()
