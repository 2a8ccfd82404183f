from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.errors import GlomedgeError
from glomedge.files.names import guard, neutralise
from glomedge.files.writing import Staged
from glomedge.results.rows import OutlineFacts, Row, RowBlock
from glomedge.results.tables import OUTLINE_COLUMNS, CsvWriter, JsonLinesWriter, ParquetWriter, columns


def test_staged_files_appear_together_or_not_at_all(tmp_path: Path) -> None:
    (tmp_path / "stage").mkdir()
    (tmp_path / "a").write_bytes(b"old")
    (tmp_path / "gone").write_bytes(b"old")
    staged = Staged(tmp_path, tmp_path / "stage", ("a", "b", "gone"))
    with staged.open("a") as handle:
        handle.write(b"new")
    assert (tmp_path / "a").read_bytes() == b"old"
    with pytest.raises(GlomedgeError), staged.open("b") as handle:
        raise OSError(5, "Input/output error")
    assert (tmp_path / "a").read_bytes() == b"old"
    assert list((tmp_path / "stage").iterdir()) == []
    with staged.open("a") as handle:
        handle.write(b"new")
    staged.commit()
    assert (tmp_path / "a").read_bytes() == b"new"
    assert not (tmp_path / "gone").exists()


_TEXT = st.text(st.sampled_from("a1-,\"'=\n\r ü"), max_size=4)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(_TEXT, _TEXT, _TEXT, st.none() | st.floats(0, 1), st.booleans()), max_size=6), st.booleans())
def test_csv_is_that_of_the_csv_module(texts: list[tuple[str, str, str, float | None, bool]], tta: bool) -> None:
    rows = [
        Row(path, case, "s", probability, None if probability is None else 1, None, 0.5, "ok", "cpu",
            "ab" * 32 if known else None, probability, message, None, 0)
        for path, case, message, probability, known in texts
    ]  # fmt: skip
    written = io.BytesIO()
    writer = CsvWriter(written, tta=tta)
    writer.write(RowBlock.of(rows[:4]))
    writer.write(RowBlock.of(rows[4:]))
    writer.close()
    names = columns(tta=tta)
    expected = io.StringIO(newline="")
    plain = csv.writer(expected, lineterminator="\n")
    plain.writerow(names)
    for row in rows:
        cells = [getattr(row, name, RESEARCH_USE_NOTICE) for name in names]
        for index, (name, value) in enumerate(zip(names, cells, strict=True)):
            if isinstance(value, str):
                safe = guard if name in ("case", "slide") else neutralise
                cells[index] = safe(value.replace("\r", "\\x0d"))
        plain.writerow(cells)
    assert written.getvalue().decode("utf-8") == expected.getvalue()


def test_csv_quotes_what_it_must(tmp_path: Path) -> None:
    row = Row('a,"b".png', "=c", "s", 0.5, 1, "globally sclerotic", 0.5, "ok", "cpu", None, None, "line\nline\rline")
    with (tmp_path / "t.csv").open("wb") as handle:
        CsvWriter(handle, tta=False).write(RowBlock.of([row]))
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as text:
        (read,) = csv.DictReader(text)
    assert (read["path"], read["case"], read["message"]) == ('a,"b".png', "'=c", "line\nline\\x0dline")
    assert read["tta_disagreement" if "tta_disagreement" in read else "sha256"] == ""


_ODD = st.text(st.sampled_from('a1-,"\\\n\u200b\ud7ffü/'), max_size=5)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(_ODD, _ODD, _ODD, st.none() | st.floats(0, 1), st.none() | st.floats(0, 1), st.booleans()),
        max_size=6,
    ),
    st.booleans(),
)
def test_json_lines_are_those_of_the_json_module(
    texts: list[tuple[str, str, str, float | None, float | None, bool]], tta: bool
) -> None:
    rows = [
        Row(path, case, f"{case}-1", probability, None if probability is None else int(known), case if known else None,
            0.5, "ok" if known else f"error:{message}", "cpu", "ab" * 32 if known else None, disagreement, message,
            None, None if probability is None else 0)
        for path, case, message, probability, disagreement, known in texts
    ]  # fmt: skip
    written = io.BytesIO()
    writer = JsonLinesWriter(written, tta=tta)
    writer.write(RowBlock.of(rows[:4]))
    writer.write(RowBlock.of(rows[4:]))
    writer.close()
    expected = [{name: getattr(row, name, RESEARCH_USE_NOTICE) for name in columns(tta=tta)} for row in rows]
    assert written.getvalue().decode("utf-8") == "".join(
        json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in expected
    )


def _on_slides() -> list[Row]:
    plain = Row("S-1.svs#0000001_0012", "S-1", "S-1", 0.25, 0, "no", 0.5, "ok", "cpu", "ab" * 32, None, "", None, 0)
    outlines = [
        OutlineFacts(0, "0012", 'a, "b"\nc', 10, 20, 300, 280, 0.2527),
        OutlineFacts(1, "=1+1", "=SUM(A1)", mpp=0.25),
        OutlineFacts(2),
        None,
    ]
    return [plain._replace(outline=outline) for outline in outlines]


def test_what_is_known_of_outlines_stands_behind_the_slide_in_csv() -> None:
    written = io.BytesIO()
    writer = CsvWriter(written, tta=False, slides=True)
    rows = _on_slides()
    writer.write(RowBlock.of(rows[:3]))
    writer.write(RowBlock.of(rows[3:]))  # crops alone
    writer.close()
    header, *lines = csv.reader(io.StringIO(written.getvalue().decode("utf-8"), newline=""))
    assert header == list(columns(tta=False, slides=True))
    assert header[2:11] == ["slide", *OUTLINE_COLUMNS, "probability"]
    assert [line[3:10] for line in lines] == [
        ["'0012", 'a, "b"\nc', "10", "20", "300", "280", "0.2527"],
        ["'=1+1", "'=SUM(A1)", "", "", "", "", "0.25"],
        [""] * 7,
        [""] * 7,
    ]
    assert [line[10] for line in lines] == ["0.25"] * 4


def test_what_is_known_of_outlines_is_typed_in_json_and_parquet() -> None:
    rows = _on_slides()
    expected = [
        dict(zip(OUTLINE_COLUMNS, ("0012", 'a, "b"\nc', 10, 20, 300, 280, 0.2527), strict=True)),
        {"annotation_id": "=1+1", "annotation_class": "=SUM(A1)"} | dict.fromkeys(OUTLINE_COLUMNS[2:6]) | {"mpp": 0.25},
        {"annotation_id": "", "annotation_class": ""} | dict.fromkeys(OUTLINE_COLUMNS[2:]),
        dict.fromkeys(OUTLINE_COLUMNS),
    ]  # fmt: skip
    written = io.BytesIO()
    writer = JsonLinesWriter(written, tta=False, slides=True)
    writer.write(RowBlock.of(rows))
    lines = [json.loads(line) for line in written.getvalue().decode("utf-8").splitlines()]
    assert [{name: line[name] for name in OUTLINE_COLUMNS} for line in lines] == expected
    assert [list(line) for line in lines] == [list(columns(tta=False, slides=True))] * 4
    parquet = pytest.importorskip("pyarrow.parquet", reason="pip install 'glomedge[parquet]'")
    written = io.BytesIO()
    table_writer = ParquetWriter(written, tta=False, slides=True)
    table_writer.write(RowBlock.of(rows))
    table_writer.close()
    table = parquet.read_table(io.BytesIO(written.getvalue()))
    assert table.select(OUTLINE_COLUMNS).to_pylist() == expected
    assert str(table.schema.field("x").type) == "int32"
