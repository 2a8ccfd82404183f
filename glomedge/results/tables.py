"""The CSV, JSON Lines and Parquet files made from the rows; their bytes depend on the rows alone."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from operator import itemgetter
from typing import IO, Any, Protocol

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.errors import MissingExtraError
from glomedge.files.names import guard, neutralise
from glomedge.results.rows import Row

FORMATS = ("csv", "csv-bom", "jsonl", "parquet")
_IDS = ("case", "slide")


def byte_order_mark(formats: Collection[str]) -> bytes:
    """The first bytes of the CSV files: the byte order mark by which Excel detects UTF-8, with ``csv-bom``."""
    return codecs.BOM_UTF8 if "csv-bom" in formats else b""


ROW_GROUP = 8192
"""Rows of a Parquet file that are compressed together."""

COLUMNS = (
    "path",
    "case",
    "slide",
    "probability",
    "label",
    "class_name",
    "threshold",
    "review",
    "status",
    "provider",
    "sha256",
    "tta_disagreement",
    "message",
)


def columns(*, tta: bool) -> tuple[str, ...]:
    """The columns of every format, in order; the research-use notice is the last."""
    return (*(name for name in COLUMNS if tta or name != "tta_disagreement"), "notice")


class TableWriter(Protocol):
    """Writes the rows of one file, part by part."""

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows."""

    def close(self) -> None:
        """Write what is still buffered; the handle stays open. Idempotent."""


def _getter(names: tuple[str, ...]) -> Callable[[Row], tuple[Any, ...]]:
    """Gives the values of those columns, without the notice."""
    return itemgetter(*(Row._fields.index(name) for name in names if name != "notice"))


def _plain_cell(text: str) -> str:
    # A bare carriage return would not be quoted (the line ends with a newline only) and would end the line.
    return neutralise(text.replace("\r", "\\x0d"))


def _id_cell(text: str) -> str:
    """A biopsy or slide, which no spreadsheet may convert to a number or a date."""
    return guard(text.replace("\r", "\\x0d"))


_repeated_cell = lru_cache(maxsize=4096)(_plain_cell)
_CELLS: dict[str, Callable[[str], str]] = {
    "path": _plain_cell,
    "message": _plain_cell,
    **dict.fromkeys(_IDS, lru_cache(maxsize=4096)(_id_cell)),
    **dict.fromkeys(("class_name", "status", "provider"), _repeated_cell),
}
"""Text columns that a spreadsheet could read as a formula; the ``csv`` module writes numbers as they are."""


def _csv_column(name: str, values: Sequence[Any]) -> list[str]:
    cell = _CELLS.get(name, str)
    return ["" if value is None else cell(value) for value in values]


class CsvWriter:
    """UTF-8, comma, newline, header first. No cell can be taken for a formula (``files.names.neutralise``), no
    biopsy or slide for a number or date (``files.names.guard``)."""

    def __init__(self, handle: IO[bytes], *, tta: bool) -> None:
        self._handle = handle
        self._names = columns(tta=tta)
        self._values = _getter(self._names)
        self._handle.write((",".join(self._names) + "\n").encode("utf-8"))

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows."""
        # By columns: a function call for every cell would take most of the time.
        values = zip(*map(self._values, rows), strict=True)
        cells = [_csv_column(name, column) for name, column in zip(self._names, values, strict=False)]
        cells.append([RESEARCH_USE_NOTICE] * len(rows))
        lines = [",".join(line) for line in zip(*cells, strict=True)]
        if not lines:
            return
        text = "\n".join(lines)
        if '"' in text or text.count("\n") != len(lines) - 1 or text.count(",") != len(lines) * (len(self._names) - 1):
            text = self._quoted(lines, zip(*cells, strict=True))
        self._handle.write((text + "\n").encode("utf-8"))

    def _quoted(self, lines: Sequence[str], cells: Iterable[tuple[str, ...]]) -> str:
        """The lines, those in which something is to be quoted (few have any) as the ``csv`` module writes them."""
        commas = len(self._names) - 1
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        parts = []
        for line, row in zip(lines, cells, strict=True):
            if '"' in line or "\n" in line or line.count(",") != commas:
                text.seek(0)
                text.truncate()
                writer.writerow(row)
                parts.append(text.getvalue()[:-1])
            else:
                parts.append(line)
        return "\n".join(parts)

    def close(self) -> None:
        """Nothing is owed."""


class JsonLinesWriter:
    """One JSON object a line, values as they are (nothing neutralised)."""

    def __init__(self, handle: IO[bytes], *, tta: bool) -> None:
        self._handle = handle
        self._names = columns(tta=tta)
        self._values = _getter(self._names)
        self._encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows."""
        names, values, encode = self._names, self._values, self._encode
        lines = [encode(dict(zip(names, (*values(row), RESEARCH_USE_NOTICE), strict=True))) for row in rows]
        self._handle.write("".join(f"{line}\n" for line in lines).encode("utf-8"))

    def close(self) -> None:
        """Nothing is owed."""


class ParquetWriter:
    """Parquet with fixed column types, zstd. Raises MissingExtraError where pyarrow is not installed."""

    def __init__(self, handle: IO[bytes], *, tta: bool) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise MissingExtraError("--format parquet", "pyarrow", "parquet") from None
        names = columns(tta=tta)
        kinds = {
            "probability": pyarrow.float32(),
            "tta_disagreement": pyarrow.float32(),
            "threshold": pyarrow.float64(),
            "label": pyarrow.int8(),
            "review": pyarrow.int8(),
        }
        self._schema = pyarrow.schema(
            [(name, kinds.get(name, pyarrow.string())) for name in names], metadata={"notice": RESEARCH_USE_NOTICE}
        )
        self._values = _getter(names)
        self._owed: list[Row] = []
        self._writer = pyarrow.parquet.ParquetWriter(handle, self._schema, compression="zstd")

    def write(self, rows: Sequence[Row]) -> None:
        """Add rows."""
        self._owed += rows
        # Row groups of one size, whatever the size of the parts: the bytes depend on the rows alone.
        while len(self._owed) >= ROW_GROUP:
            self._flush(self._owed[:ROW_GROUP])
            del self._owed[:ROW_GROUP]

    def _flush(self, rows: Sequence[Row]) -> None:
        import pyarrow

        if rows:
            columns_of = [*zip(*map(self._values, rows), strict=True), (RESEARCH_USE_NOTICE,) * len(rows)]
            arrays = [pyarrow.array(column, self._schema.field(index).type) for index, column in enumerate(columns_of)]
            self._writer.write_table(pyarrow.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        """Write the last rows and the footer."""
        self._flush(self._owed)
        self._owed = []
        self._writer.close()


WRITERS: dict[str, Callable[..., TableWriter]] = {"csv": CsvWriter, "jsonl": JsonLinesWriter, "parquet": ParquetWriter}
