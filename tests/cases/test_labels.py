from __future__ import annotations

from pathlib import Path

import pytest

from glomedge.cases.labels import TableError, parse_labels, read_labels, read_rows, read_site_labels, read_split
from glomedge.errors import DatasetError


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "public.csv"


def test_names_and_labels_come_with_their_lines(table: Path) -> None:
    table.write_text('name,site,ground truth\n b.png ,"two\nlines", 1\na.png,x,0\n', "utf-8-sig")
    found = parse_labels(table)
    assert list(found.labels.items()) == [("b.png", 1), ("a.png", 0)]
    assert found.lines == {"b.png": 3, "a.png": 4}
    assert found.problems == []
    assert read_labels(table) == found.labels


def test_unusable_rows_are_listed_in_the_order_of_the_file(table: Path) -> None:
    table.write_text("name,ground truth\na.png,2\n../b.png,1\nc.png,1\nc.png,1\n,0\nd.png\ne.png,0\n", "utf-8")
    found = parse_labels(table)
    assert found.labels == {"c.png": 1, "e.png": 0}
    assert found.problems == [
        "line 2: label '2' of 'a.png' is neither 0 nor 1",
        "line 3: '../b.png' is not a file name",
        "line 5: 'c.png' is listed twice (first in line 4)",
        "line 6: '' is not a file name",
        "line 7: label '' of 'd.png' is neither 0 nor 1",
    ]
    with pytest.raises(DatasetError, match=r"line 2: .*; line 7: .*Correct these lines"):
        read_labels(table)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "there is no such file"),
        (b"", "no column 'name' and 'ground truth'; it has none"),
        (b"name,label\na.png,1\n", "no column 'ground truth'; it has name, label"),
        (b"\xff\xfe\x00\x81\x00", "it is not a CSV file"),
    ],
)
def test_a_table_that_cannot_be_read_says_why(table: Path, content: bytes | None, reason: str) -> None:
    if content is not None:
        table.write_bytes(content)
    with pytest.raises(TableError, match="Its columns are: name,ground truth") as caught:
        list(read_rows(table, ("name", "ground truth")))
    assert reason in caught.value.reason
    assert str(table) not in caught.value.reason


def test_a_split_is_read_by_the_same_rule(table: Path) -> None:
    table.write_text("name,split\n a.png,test \nb.png,train\n", "utf-8")
    assert read_split(table, "test") == {"a.png"}
    table.write_text("name,split\na.png,test\na.png,train\n", "utf-8")
    with pytest.raises(DatasetError, match=r"line 3: 'a\.png' is listed twice"):
        read_split(table, "test")


def test_labels_of_a_site_carry_weights_and_readers(table: Path) -> None:
    table.write_text(
        "name;ground truth;weight;reader\nx/b.png;1;2,5;Ada\na.png;0;1.25;Bo\nc.png;unsure;3;Ada\n", "utf-8"
    )
    found = read_site_labels(table)
    assert found.labels == {"x/b.png": 1, "a.png": 0}
    assert found.weights == {"x/b.png": 2.5, "a.png": 1.25}
    assert found.readers == ("Ada", "Bo")
    assert any("1 crop is labelled 'unsure'" in note for note in found.notes)


def test_a_public_csv_is_as_good_with_weights_of_one(table: Path) -> None:
    table.write_text("name,ground truth\nb.png,1\na.png,0\n", "utf-8")
    found = read_site_labels(table)
    assert found.weights == {"b.png": 1.0, "a.png": 1.0}
    assert found.readers == ()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ("a.png,1,0\n", "line 2: weight '0' of 'a.png' is not a positive number"),
        ("a.png,1,-2\n", "is not a positive number"),
        ("a.png,1,nan\n", "is not a positive number"),
        ("a.png,1,heavy\n", "is not a positive number"),
        ("a.png,1,2\nb.png,0,\n", "line 3: 'b.png' has no weight, but other rows have one"),
        ("a.png,maybe,2\n", "label 'maybe' of 'a.png' is neither 0 nor 1"),
        ("a.png,unsure,2\n", "contains no label"),
    ],
)
def test_labels_of_a_site_that_cannot_be_used(table: Path, rows: str, words: str) -> None:
    table.write_text("name,ground truth,weight\n" + rows, "utf-8")
    with pytest.raises(DatasetError) as refused:
        read_site_labels(table)
    assert words in str(refused.value)


def test_a_column_called_weight_never_stops_other_readers(table: Path) -> None:
    table.write_text("name,ground truth,weight\na.png,1,heavy\nb.png,Unsure,\n", "utf-8")
    assert read_labels(table) == {"a.png": 1}
