from __future__ import annotations

import csv
import io

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomedge.files.names import all_plain, escape_name, escape_names, guard, neutralise, restore, unescape_name


@settings(max_examples=1000, deadline=None)
@given(st.binary(max_size=80))
def test_every_name_comes_back(name: bytes) -> None:
    text = escape_name(name)
    assert unescape_name(text) == name
    text.encode("utf-8")
    assert not any(ord(character) < 32 or ord(character) == 127 for character in text)


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=40))
def test_names_written_by_hand_come_back(name: str) -> None:
    data = name.encode("utf-8", "surrogatepass")
    assert unescape_name(escape_name(data)) == data


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (b"a b,c\"d'.png", "a b,c\"d'.png"),
        ("Größe/é.png".encode(), "Größe/é.png"),
        (b"a\nb.png", "a\\x0ab.png"),
        (b"a\\x0ab.png", "a\\\\x0ab.png"),
        (b"\xff.png", "\\xff.png"),
        ("a\u202egnp.exe".encode(), "a\\xe2\\x80\\xaegnp.exe"),
    ],
)
def test_readable_stays_readable(name: bytes, expected: str) -> None:
    assert escape_name(name) == expected


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=20), st.binary(max_size=20))
def test_two_names_never_share_a_text(first: bytes, second: bytes) -> None:
    assert (escape_name(first) == escape_name(second)) == (first == second)


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠"])
def test_no_cell_is_a_formula(start: str) -> None:
    cell = f"{start}cmd|' /C calc'!A0"
    safe = neutralise(cell)
    assert safe == f"'{cell}"
    assert restore(safe) == cell


@settings(max_examples=300, deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
def test_neutralised_cells_come_back_through_csv(cell: str) -> None:
    text = io.StringIO(newline="")
    csv.writer(text).writerow([neutralise(cell), "x"])
    text.seek(0)
    (row,) = csv.reader(text)
    assert restore(row[0]) == cell


@pytest.mark.parametrize(
    "cell",
    [
        "12-3", "1-2-3", "12/3", "12.3", "99-12", "2021-11-25", "2-2021", "1E5", "1e5", "12E-3", "0012", "007", "1,5",
        "1.50", "12:30", "5 a", "12 PM", "MAR-1", "SEPT2", "Dec", "1-May", "Okt 4", "M\u00c4R1", "TRUE", "1 1/2",
        "40%", "$5", "(12)", "123456789012", "=1+1", "-3", "+4", "@x", "'x", "#N/A", ".5", "\uff1d1",
    ],
)  # fmt: skip
def test_ids_that_a_spreadsheet_would_change_are_guarded(cell: str) -> None:
    assert guard(cell) == f"'{cell}"
    assert restore(guard(cell)) == cell


@pytest.mark.parametrize(
    "cell",
    [
        "S21-1234",
        "12-345",
        "K1",
        "VUHSK_1992",
        "SESCAM_1_0",
        "S-1234-000001",
        "1992",
        "7",
        "0",
        "M\u00fcller",
        "unknown",
        "",
    ],
)
def test_ids_that_a_spreadsheet_leaves_alone_stay_as_they_are(cell: str) -> None:
    assert guard(cell) == cell


@settings(max_examples=500, deadline=None)
@given(st.text(max_size=20) | st.from_regex(r"[0-9eE./:, %-]{1,8}", fullmatch=True))
def test_guarded_cells_come_back_and_are_no_numbers(cell: str) -> None:
    guarded = guard(cell)
    assert restore(guarded) == cell
    assert guard(guarded) == f"'{guarded}" if guarded.startswith("'") else guarded == cell
    if guarded.isascii() and any(character.isdecimal() for character in guarded):
        try:
            float(guarded)
        except ValueError:
            return
        # What reads as a number comes back as the same text.
        assert str(int(guarded)) == guarded


@settings(max_examples=300, deadline=None)
@given(st.lists(st.binary(max_size=4) | st.sampled_from([b"a.png", b"a b/c-1.png", b"\n", b"", b"\\"]), max_size=6))
def test_many_names_are_escaped_as_each_is(names: list[bytes]) -> None:
    assert escape_names(names) == [escape_name(name) for name in names]


@given(st.lists(st.text(max_size=3) | st.sampled_from(["=a", "'", "", "＝1", "a"]), max_size=5))
def test_cells_are_all_plain_if_none_is_changed(cells: list[str]) -> None:
    assert all_plain(cells) == all(neutralise(cell) == cell for cell in cells)
