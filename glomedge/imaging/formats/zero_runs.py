"""The hole that an interrupted copy leaves in uncompressed pixels, told from an area that was painted black.

A hole runs in the order of the file: it begins within a row of pixels, with picture to its left and above it, and
covers everything from there on. A mask follows an outline: next to any row it blackens fully lies one that it blackens
in part. So what stands next to the run decides. A run over whole rows could also be padding of a picture cut at
the edge of a slide; it counts as a hole only where it begins with a strip of its own and the picture's top is not
padded likewise.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Flags = npt.NDArray[np.bool_]

# Tissue and glass seldom hold an exact zero; a masked crop's neighbouring row is mostly zero.
_MAX_ZERO_BESIDE = 0.05
# Of a tile at the edge: where less is to be seen the edge of a mask looks straight.
_LEAST_VISIBLE_PX = 8
# A tile shows little of a mask's edge, so fewer neighbours say nothing.
_LEAST_BESIDE_PX = 8


def hole_in_strips(zero: Sequence[Flags], least_px: int) -> bool:
    """Whether the rows of one plane have a hole of at least ``least_px`` or a row.

    Args:
        zero: per strip bool [rows, W], True where a pixel is zero.
        least_px: in pixels, in file order.
    """
    # With a row per strip every row begins one, which tells nothing.
    ends = np.cumsum([len(strip) for strip in zero]) if len(zero[0]) > 1 else np.zeros(0)
    starts = {int(end) for end in ends}
    plane = np.concatenate(zero) if len(zero) > 1 else zero[0]
    height_px, width_px = plane.shape
    for begin, end in _runs(plane.ravel(), min(width_px, least_px)):
        if _cut_within_rows(plane, begin, end, 1):
            return True
        whole_rows = begin % width_px == 0 and end % width_px == 0
        above = begin // width_px - 1
        if whole_rows and begin // width_px in starts and not plane[0].all() and _picture(plane[above]):
            below = end // width_px
            if below == height_px or (below in starts and _picture(plane[below])):
                return True
    return False


def hole_in_tiles(zero: Sequence[Flags], across: int, size_px: tuple[int, int], least_px: int) -> bool:
    """As ``hole_in_strips`` for tiles, bool [tile height, tile width], ``across`` in a row; ``size_px``: (W, H)."""
    width_px, height_px = size_px
    tile_height_px, tile_width_px = zero[0].shape
    for number, tile in enumerate(zero):
        row, column = divmod(number, across)
        visible = tile[: height_px - row * tile_height_px, : width_px - column * tile_width_px]
        if visible.all():
            begins = number == 0 or not zero[number - 1].all()
            if begins and _missing_tiles(zero, number, across, visible):
                return True
        else:
            # What lies beyond the picture is padding, often zero, and tells nothing.
            for begin, end in _runs(visible.ravel(), min(visible.shape[1], least_px)):
                if _goes_on(zero, number, begin, visible.size - end) and _cut_within_rows(
                    visible, begin, end, _LEAST_BESIDE_PX
                ):
                    return True
    return False


def _runs(flat: Flags, least: int) -> list[tuple[int, int]]:
    """(begin, end) of every run of True of at least that length."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], flat, [False]]).view(np.int8)))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2) if end - begin >= least]


def _picture(pixels: Flags) -> bool:
    return pixels.size > 0 and float(pixels.mean()) <= _MAX_ZERO_BESIDE


def _cut_within_rows(plane: Flags, begin: int, end: int, least_beside_px: int) -> bool:
    """Whether a run begins or ends within a row, against picture on every side.

    At one end at least there must be so much picture beside it in its row and in the next one; where it reaches an
    edge of the plane nothing stands beside it, which does not speak against a hole.
    """
    width_px = plane.shape[1]
    top, left = divmod(begin, width_px)
    bottom, right = divmod(end - 1, width_px)
    right += 1
    # A run within one row has as many neighbours above and below as it is long, another one whole rows of them.
    start, stop = (left, right) if top == bottom else (0, width_px)
    before, above = plane[top, :left], plane[top - 1, left:stop] if top else plane[0, :0]
    after, below = plane[bottom, right:], plane[bottom + 1 : bottom + 2, start:right]
    if max(min(before.size, above.size), min(after.size, below.size)) < least_beside_px:
        return False
    return all(_picture(pixels) for pixels in (before, above, after, below) if pixels.size)


def _goes_on(zero: Sequence[Flags], number: int, left_before: int, left_after: int) -> bool:
    """Whether a run that reaches the beginning or end of its tile goes on in the tile before or after it.

    A hole does, in file order; the edge of a mask that happens to run along a row of the tile does not.
    """
    before = left_before > 0 or number == 0 or bool(zero[number - 1][-1, -1])
    after = left_after > 0 or number + 1 == len(zero) or bool(zero[number + 1][0, 0])
    return before and after


def _missing_tiles(zero: Sequence[Flags], first: int, across: int, visible: Flags) -> bool:
    """Whether a run of tiles that are zero throughout begins, and ends, sharply against picture."""
    height_px, width_px = visible.shape
    if min(height_px, width_px) < _LEAST_VISIBLE_PX:
        return False
    row, column = divmod(first, across)
    beside = []
    # Where the hole began within the tile before, that one's edge is partly zero for this reason.
    if column and not zero[first - 1][-1, -1]:
        beside.append(zero[first - 1][:height_px, -1])
    if row:
        beside.append(zero[first - across][-1, :width_px])
    after = next((number for number in range(first, len(zero)) if not zero[number].all()), None)
    if after is not None and after % across:
        beside.append(zero[after][:height_px, 0])
    return bool(beside) and all(_picture(line) for line in beside)
