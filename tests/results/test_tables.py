from __future__ import annotations

import csv
from pathlib import Path

import pytest

from glomedge.errors import GlomedgeError
from glomedge.files.writing import Staged
from glomedge.results.rows import Row
from glomedge.results.tables import CsvWriter


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


def test_csv_quotes_what_it_must(tmp_path: Path) -> None:
    row = Row('a,"b".png', "=c", "s", 0.5, 1, "globally sclerotic", 0.5, "ok", "cpu", None, None, "line\nline\rline")
    with (tmp_path / "t.csv").open("wb") as handle:
        CsvWriter(handle, tta=False).write([row])
    with (tmp_path / "t.csv").open(encoding="utf-8", newline="") as text:
        (read,) = csv.DictReader(text)
    assert (read["path"], read["case"], read["message"]) == ('a,"b".png', "'=c", "line\nline\\x0dline")
    assert read["tta_disagreement" if "tta_disagreement" in read else "sha256"] == ""
