"""Batches depend on the list of inputs alone, and a resumed run makes those that are missing."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from glomedge.pipeline.batching import batches, sizes
from glomedge.pipeline.inputs import Found

COUNTS = st.integers(0, 400)
SIZES = st.integers(1, 64)


def crops(count: int) -> list[Found]:
    return [Found(f"{number:04}.png".encode()) for number in range(count)]


@given(COUNTS, SIZES)
def test_sizes_add_up_and_never_grow(total: int, batch_size: int) -> None:
    dealt = list(sizes(total, batch_size))
    assert sum(dealt) == total
    assert all(1 <= size <= batch_size for size in dealt)
    assert dealt == sorted(dealt, reverse=True)


def test_the_end_is_dealt_out_in_small_batches_and_the_bulk_in_full_ones() -> None:
    assert list(sizes(72, 4)) == [4] * 15 + [3, 3, 2, 1, 1, 1, 1]
    assert list(sizes(72, 4, taper=False)) == [4] * 18
    assert list(sizes(3, 4)) == [1, 1, 1]
    assert list(sizes(0, 4)) == []


@given(COUNTS, SIZES)
def test_without_taper_only_the_last_batch_is_smaller(total: int, batch_size: int) -> None:
    dealt = list(sizes(total, batch_size, taper=False))
    assert all(size == batch_size for size in dealt[:-1])
    assert sum(dealt) == total


@given(COUNTS, SIZES, st.booleans(), st.randoms(use_true_random=False))
def test_a_resumed_run_makes_the_very_batches_that_are_missing(
    total: int, batch_size: int, taper: bool, chance: random.Random
) -> None:
    inputs = crops(total)
    whole = [list(batch) for batch in batches(inputs, inputs, (), batch_size, taper=taper)]
    assert [found for batch in whole for found in batch] == inputs
    missing = [batch for batch in whole if chance.random() < 0.4]
    new = [found for batch in missing for found in batch]
    assert [list(batch) for batch in batches(inputs, new, (), batch_size, taper=taper)] == missing


@given(COUNTS, SIZES, st.randoms(use_true_random=False))
def test_changed_crops_are_answered_once_each_in_batches_of_the_usual_size(
    total: int, batch_size: int, chance: random.Random
) -> None:
    inputs = crops(total)
    new = [found for found in inputs if chance.random() < 0.5]
    again = [found for found in inputs if found not in new][:5]
    dealt = [list(batch) for batch in batches(inputs, new, again, batch_size)]
    assert sorted(found for batch in dealt for found in batch) == sorted([*new, *again])
    assert all(1 <= len(batch) <= batch_size for batch in dealt)
    # Crops whose fault may have passed never share a batch with others.
    assert all(set(batch) <= set(again) or not set(batch) & set(again) for batch in dealt)


def test_an_input_that_ended_its_decoder_keeps_its_place() -> None:
    inputs = crops(8)
    marked = [*inputs[:2], Found(inputs[2].relative, "decoder"), *inputs[3:]]
    dealt = [list(batch) for batch in batches(inputs, marked, (), 4, taper=False)]
    assert dealt == [marked[:4], marked[4:]]
