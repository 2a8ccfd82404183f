"""Tables as spreadsheets, editors and scripts write them: read where there is one reading, else refused."""

from __future__ import annotations

import codecs
import csv
import io
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from glomedge.cases.labels import TableError, parse_labels, read_labels, read_split
from glomedge.cases.text import tidy
from glomedge.errors import DatasetError

PLAIN = "name,ground truth\na.png,1\nMüller-2.png,0\n"
EXPECTED = {"a.png": 1, "Müller-2.png": 0}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return tmp_path / "public.csv"


@pytest.mark.parametrize(
    ("data", "note"),
    [
        (PLAIN.encode(), None),
        (codecs.BOM_UTF8 + PLAIN.encode(), None),
        (PLAIN.encode("utf-16"), "UTF-16"),
        (codecs.BOM_UTF16_BE + PLAIN.encode("utf-16-be"), "UTF-16"),
        (PLAIN.encode("utf-16-le"), "UTF-16 without a mark"),
        (PLAIN.encode("utf-16-be"), "UTF-16 without a mark"),
        (PLAIN.encode("utf-32"), "UTF-32"),
        (PLAIN.encode("cp1252"), "Windows-1252"),
        (PLAIN.replace(",", ";").encode(), "semicolon-separated"),
        (PLAIN.replace(",", "\t").encode("utf-16"), "UTF-16, tab-separated"),
        (("sep=;\r\n" + PLAIN.replace(",", ";").replace("\n", "\r\n")).encode(), "semicolon-separated"),
        (('"sep=,"\r\n' + PLAIN).encode(), None),
        (PLAIN.replace("\n", "\r\n").encode(), None),
        (PLAIN.replace("\n", "\r").encode(), None),
        (PLAIN.replace("name", "NAME").replace("ground truth", " Ground_Truth ").encode(), None),
        (PLAIN.replace("ground truth", "ground-truth").encode(), None),
        (PLAIN.replace("ground truth", "Ground\u00a0Truth").encode(), None),
        (PLAIN.replace("a.png,1", " a.png\u00a0 , 1 ").encode(), None),
        (PLAIN.replace("a.png,1", '"a.png" ,"1"').encode(), None),
        (PLAIN.replace("a.png,1", 'a.png, "1"').encode(), None),
        (PLAIN.replace("a.png,1", "a.png,1.0").encode(), None),
        (PLAIN.replace(",", ";").replace("a.png;1", "a.png;1,0").encode(), "semicolon-separated"),
        ((PLAIN.replace("\n", ",,\n") + ",,,\n\n , \n").encode(), None),
        (("\n\n" + PLAIN).encode(), None),
        (PLAIN.replace("ü", "u\u0308").encode(), None),
        (PLAIN.encode().rstrip(), None),
        ("site,name,ground truth,stain\nx,a.png,1,PAS\ny,Müller-2.png,0,\n".encode(), None),
    ],
)  # fmt: skip
def test_one_table_in_many_dialects(table: Path, data: bytes, note: str | None) -> None:
    table.write_bytes(data)
    found = parse_labels(table)
    assert found.labels == EXPECTED
    assert found.problems == []
    assert found.notes == ([f"public.csv was read as {note}."] if note else [])


def _workbook() -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return data.getvalue()


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (_workbook(), "not a CSV file but an Excel or LibreOffice workbook"),
        (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), "not a CSV file but an old Excel workbook"),
        (b"%PDF-1.7\n", "not a CSV file but a PDF"),
        (b"name,ground truth\na.png\0,1\n\x81\x8d", "is not a CSV file"),
        (b"name,ground truth,Ground_Truth\na,1,0\n", "columns 2 and 3 are both 'ground truth'.*it has name, "),
        (b"name,Name,ground truth\na.png,b.png,0\n", "columns 1 and 2 are both 'name'"),
        (b"name,label\na.png,1\n", "no column 'ground truth'; it has name, label"),
        (b"Datei;Klasse\na.png;1\n", "no column 'name' and 'ground truth'; it has Datei, Klasse"),
        (b"a.png,1\nb.png,0\n", "it has a.png, 1"),
        (b"", "it has none"),
        (b"\n,,\n", "it has ,,"),
        (b"name,ground truth\na,b.png,1\n", "1 rows have more cells than.*line 2: a,b.png,1.*Quote names"),
        (b'name,ground truth\n"a.png,1\nb.png,0\n', "not a CSV file"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_shows_the_header_and_what_is_wanted(table: Path, data: bytes, reason: str) -> None:
    table.write_bytes(data)
    with pytest.raises(TableError, match=f"{reason}.*Its columns are: name,ground truth") as caught:
        read_labels(table)
    assert len(str(caught.value)) <= 2000


def test_messages_list_twenty_rows_and_stay_short(table: Path) -> None:
    rows = "".join(f"{'long name ' * 30}{k}.png,{'x' * 500}\n" for k in range(1000))
    table.write_text("name,ground truth\n" + rows, "utf-8")
    with pytest.raises(DatasetError, match="1000 rows cannot be used: line 2: ") as caught:
        read_labels(table)
    assert len(str(caught.value)) <= 2000
    table.write_text("name,ground truth\n" + "".join(f"{k}.png,x\n" for k in range(1000)), "utf-8")
    with pytest.raises(
        DatasetError, match=r"line 21: label 'x' of '19\.png' is neither 0 nor 1; and 980 more"
    ) as caught:
        read_labels(table)
    table.write_text(",".join(f"column {k}" for k in range(5000)) + "\n", "utf-8")
    with pytest.raises(DatasetError) as caught:
        read_labels(table)
    assert len(str(caught.value)) <= 2000


def test_a_split_that_a_spreadsheet_saved(table: Path) -> None:
    table.write_bytes(b"sep=;\r\nName;LABEL;Split\r\na.png;1;test\r\nb.png;0; train\r\n;;\r\n")
    assert read_split(table, "test") == {"a.png"}
    with pytest.raises(DatasetError, match="no split 'dev'; it has: test, train"):
        read_split(table, "dev")


_CELL = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=12).filter(
    lambda text: bool(tidy(text)) and ".." not in text and not tidy(text).endswith(("/", "\\"))
)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    labels=st.dictionaries(_CELL.map(tidy), st.sampled_from("01"), min_size=1, max_size=6),
    delimiter=st.sampled_from(",;\t|"),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
    end=st.sampled_from(["\n", "\r\n", "\r"]),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    header=st.sampled_from([("name", "ground truth"), ("Name", "GROUND_TRUTH"), (" NAME ", "Ground-Truth")]),
    extra=st.booleans(),
)
def test_whatever_a_csv_writer_writes_is_read(
    table: Path, labels: dict[str, str], delimiter: str, encoding: str, end: str, quoting: int, header: tuple[str, str],
    extra: bool,
) -> None:  # fmt: skip
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=end, quoting=quoting)  # type: ignore[arg-type]
    writer.writerow([*header, *(["site"] if extra else [])])
    for name, label in labels.items():
        writer.writerow([name, label, *(["x,;y"] if extra else [])])
    table.write_bytes(text.getvalue().encode(encoding))
    assert read_labels(table) == {name: int(label) for name, label in labels.items()}


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(max_size=60) | st.text(st.sampled_from('name,;\t\r\n"grodth u01'), max_size=60).map(str.encode))
def test_any_bytes_give_labels_or_one_short_error(table: Path, data: bytes) -> None:
    table.write_bytes(b"name,ground truth\n" * (len(data) % 2) + data)
    try:
        labels = read_labels(table)
    except DatasetError as error:
        message = str(error)
    else:
        message = "read"
        assert set(labels.values()) <= {0, 1}
    assert 0 < len(message) <= 2000
