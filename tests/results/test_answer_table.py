"""The table of answers against a plain dictionary."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomedge.files.names import escape_name
from glomedge.pipeline.inputs import Found
from glomedge.results.answer_table import AnswerTable

_NAMES = [b"a/1.png", b"a/2.png", b"a-3.png", b"\xff.png", b"back\\slash.png", b"locked/", b"z.png"]
_SHA256 = [None, *(hashlib.sha256(bytes([k])).hexdigest() for k in range(3))]
_FRACTION = st.floats(0.0, 1.0)
_ROW = st.tuples(
    st.sampled_from(_NAMES),
    st.one_of(
        st.tuples(st.sampled_from(["ok", "flagged:blurred"]), _FRACTION),
        st.tuples(st.sampled_from(["error:io", "error:decoder", "error:truncated"]), st.none()),
    ),
    st.sampled_from(_SHA256),
    st.none() | st.integers(0, 2**40),
    st.none() | st.integers(-(2**70), 2**70),
    st.sampled_from(["", "why", "ü\n"]),
    st.none() | _FRACTION,
    st.none() | st.tuples(st.integers(0, 2**63), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)).map(list),
)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(_ROW, max_size=4), max_size=6), st.sets(st.sampled_from(_NAMES)))
def test_the_last_row_of_each_name_is_kept(lines: list[list[tuple[Any, ...]]], known: set[bytes]) -> None:
    table = AnswerTable([Found(name) for name in sorted(known)])
    expected: dict[bytes, tuple[Any, ...]] = {}
    for line in lines:
        table.put([[escape_name(name), *outcome, *rest] for name, outcome, *rest in line])
        expected.update({row[0]: row for row in line})
    assert len(table) == len(expected)
    assert [table.name(number) for number in table.numbers()] == sorted(expected)
    assert table.missing() == len(known - expected.keys())
    for number in table.numbers():
        name, (status, probability), sha256, size, mtime, message, disagreement, attachment = expected[
            table.name(number)
        ]
        stored = table.stored(number)
        place = None if stored.attachment is None else list(stored.attachment)
        assert (*stored[:5], place) == (status, probability, sha256, disagreement, message, attachment)
        assert table.probability(number) == probability
        before = table.fingerprint(name)
        assert before is not None
        assert before.may_pass == (status == "error:io" or (status == "error:decoder" and sha256 is None))
        assert (before.size_bytes is None, before.mtime_ns is None) == (size is None, mtime is None)
        if mtime is not None:
            assert not before.differs(7 if size is None else size, mtime)
            assert before.differs(7 if size is None else size, mtime + 1)
            assert before.differs(7 if size is None else size + 1, mtime) == (size is not None)
    rows = list(table.numbers())
    for left_out in (None, *rows):
        block = [number for number in rows if number != left_out]
        if not block:
            continue
        assert table.names(block) == [table.name(number) for number in block]
        columns = table.columns(block)
        for at, number in enumerate(block):
            alone = table.stored(number)
            found = columns.probability[at]
            assert table.said[columns.said[at]] == (alone.status, alone.message)
            assert (None if found is None or found != found else found) == alone.probability
            assert (columns.sha256[at], columns.disagreement[at]) == (alone.sha256, alone.disagreement)
    digests = [sha256 for _, _, sha256, *_ in expected.values() if sha256 is not None]
    assert table.copies() == (len(digests) - len(set(digests)) if digests else None)
    for name in _NAMES:
        assert (table.fingerprint(name) is None) == (name not in expected)


def test_a_folder_that_can_be_listed_by_now_is_forgotten_unless_it_is_an_input() -> None:
    rows = [[name, "error:permission", None, None, None, None, "", None, None] for name in ("a/", "b/", "c.png")]
    table = AnswerTable([Found(b"b/", "permission")])
    table.put(rows)
    table.drop_replaced()
    assert [table.name(number) for number in table.numbers()] == [b"b/", b"c.png"]
    assert len(table) == 2


def test_a_crop_that_is_a_slide_by_now_is_forgotten() -> None:
    names = ("a.tif", "b.tif", "b.tif#0000001_x", "c.tif")
    table = AnswerTable([Found(b"b.tif#0000001_x", part=0), Found(b"c.tif#1.png")])
    table.put([[name, "ok", 0.5, None, None, None, "", None, None] for name in names])
    table.drop_replaced()
    assert [table.name(number) for number in table.numbers()] == [b"a.tif", b"b.tif#0000001_x", b"c.tif"]
    assert len(table) == 3


_GOOD: list[Any] = ["a.png", "ok", 0.5, "ab" * 32, 1, 2, "", 0.25, [0, 1, 2]]


@pytest.mark.parametrize(
    ("position", "value"),
    [
        (0, 1), (0, "\ud800"), (1, None), (1, "fine"), (1, "error:io"), (2, None), (2, 1), (2, 1.5), (2, -0.1),
        (2, True), (3, "AB" * 32), (3, "ab"), (3, " " + "ab" * 31 + "a"), (3, 5), (4, 1.0), (4, True), (5, "now"),
        (6, None), (7, 2.0), (7, "0"), (8, [0, 1]), (8, [0, 1, -1]), (8, [0, 1 << 32, 0]), (8, [0.0, 1, 2]), (8, 3),
    ],
)  # fmt: skip
def test_what_is_no_row_is_refused_with_its_whole_line(position: int, value: Any) -> None:
    table = AnswerTable()
    bad = [*_GOOD[:position], value, *_GOOD[position + 1 :]]
    with pytest.raises((TypeError, ValueError)):
        table.put([_GOOD, bad])
    assert len(table) == 0
    assert list(table.numbers()) == []
    table.put([_GOOD])
    assert len(table) == 1
