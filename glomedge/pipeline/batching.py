"""Which crops share a batch.

The last bits of an answer depend on how many crops the network is given at once (float32 sums are taken in another
order), so the batches depend on the list of inputs alone, not on timing or on the number of cores, and a
resumed run makes exactly the batches that were still missing. On the CPU they also depend on a crop's place in its
batch, but not on the crops at the other places: so a process that answers a share of the inputs gives the same bits
when each of them has the batch size and the place that it has among all inputs (``placed_batches``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest

from glomedge.pipeline.inputs import Found

_TAPER = 4
"""The rest is divided by this number for each next batch; twice the run threads of a two-core machine."""


@dataclass(frozen=True)
class PlacedBatch:
    """Inputs and their places in one batch, of which some may be empty.

    Attributes:
        inputs: the crops, in the order of their places.
        places: of each in the batch.
        size: how many pictures the network is given.
    """

    inputs: Sequence[Found]
    places: Sequence[int]
    size: int


def sizes(total: int, batch_size: int, *, taper: bool = True) -> Iterator[int]:
    """Sizes of the batches of ``total`` crops: full ones, then smaller and smaller ones.

    With batches of one size the run threads end up to one batch apart, and a small folder waits for the slower one: at
    72 crops a core is idle for a thirtieth of the run. Guided self-scheduling (Polychronopoulos & Kuck, IEEE
    Transactions on Computers C-36, 1987): each batch is a share of what is left, at least one crop, at most
    ``batch_size``. Without ``taper`` only the last one is smaller (a GPU pads to its few shapes anyway).
    """
    while total > 0:
        size = min(batch_size, -(-total // _TAPER) if taper else total)
        yield size
        total -= size


def batches(
    inputs: Sequence[Found],
    new: Sequence[Found],
    again: Sequence[Found],
    batch_size: int,
    *,
    taper: bool = True,
) -> Iterator[Sequence[Found]]:
    """The batches still to be answered.

    Args:
        inputs: everything that was found.
        new: those of ``inputs``, in their order, that have no answer yet.
        again: those whose error may have been temporary; batched separately.
        batch_size: crops in a full batch.
        taper: see ``sizes``.

    Yields:
        First the batches of an uninterrupted run that ``new`` contains completely; then the rest, in full batches.
        After a crash there is no rest; after a change of the folder it is the changed crops.
    """
    left, begin, position = list[Found](), 0, 0
    for size in sizes(len(inputs), batch_size, taper=taper):
        members = list[Found]()
        for found in inputs[begin : begin + size]:
            # Only the path: an input that ended its decoder is marked as such in ``new``.
            if position < len(new) and new[position].relative == found.relative:
                members.append(new[position])
                position += 1
        begin += size
        if len(members) == size:
            yield members
        else:
            left += members
    for rest in (left, again):
        for first in range(0, len(rest), batch_size):
            yield rest[first : first + batch_size]


def placed_batches(
    inputs: Sequence[Found], wanted: Sequence[Found], batch_size: int, *, taper: bool = True
) -> Iterator[PlacedBatch]:
    """Batches of a share of the inputs, each crop in a batch of the size and at the place that it has among all.

    Crops of several batches of the whole run are put together, the first of each place, then the second, and so on;
    places for which no crop is left stay empty. With N wanted crops, picked at random, some ``sqrt(N * batch_size)``
    places are empty: 6% of 1,000 crops in batches of 4, 0.6% of 100,000.

    Args:
        inputs: all of the run, of every process.
        wanted: some of ``inputs``, in their order.
        batch_size: crops in a full batch.
        taper: see ``sizes``.
    """
    queues: dict[int, list[list[Found]]] = {}
    begin = position = 0
    for size in sizes(len(inputs), batch_size, taper=taper):
        for place, found in enumerate(inputs[begin : begin + size]):
            if position < len(wanted) and wanted[position].relative == found.relative:
                queues.setdefault(size, [[] for _ in range(size)])[place].append(wanted[position])
                position += 1
        begin += size
    for size, by_place in queues.items():
        for members in zip_longest(*by_place):
            filled = [(place, found) for place, found in enumerate(members) if found is not None]
            yield PlacedBatch([found for _, found in filled], [place for place, _ in filled], size)
