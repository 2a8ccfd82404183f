"""The CSV, JSON Lines and Parquet files made from the rows; their bytes depend on the rows alone."""

from __future__ import annotations

import codecs
import csv
import io
import json
from collections.abc import Callable, Collection, Iterable
from typing import IO, Any

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.errors import MissingExtraError
from glomedge.files.names import guard, neutralise
from glomedge.results.rows import Row

FORMATS = ("csv", "csv-bom", "jsonl", "parquet")
_IDS = ("case", "slide")


def byte_order_mark(formats: Collection[str]) -> bytes:
    """What the CSV files begin with: the mark by which Excel knows UTF-8, where ``csv-bom`` is asked for."""
    return codecs.BOM_UTF8 if "csv-bom" in formats else b""


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


def _values(row: Row, names: tuple[str, ...]) -> list[Any]:
    return [RESEARCH_USE_NOTICE if name == "notice" else getattr(row, name) for name in names]


def _line(value: Any) -> str:
    # A bare carriage return would not be quoted (the line ends with a newline only) and would end the line.
    return str(value).replace("\r", "\\x0d")


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return repr(value) if isinstance(value, float) else neutralise(_line(value))


def write_csv(handle: IO[bytes], rows: Iterable[Row], *, tta: bool) -> None:
    """UTF-8, comma, newline, header first. No cell can be taken for a formula (``names.neutralise``),
    no biopsy or slide for a number or date (``names.guard``)."""
    names = columns(tta=tta)
    text = io.TextIOWrapper(handle, "utf-8", newline="", write_through=False)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        cells = zip(names, _values(row, names), strict=True)
        writer.writerow([guard(_line(value)) if name in _IDS else _cell(value) for name, value in cells])
    text.flush()
    text.detach()


def write_jsonl(handle: IO[bytes], rows: Iterable[Row], *, tta: bool) -> None:
    """One JSON object a line, values as they are (nothing neutralised)."""
    names = columns(tta=tta)
    for row in rows:
        record = dict(zip(names, _values(row, names), strict=True))
        handle.write(json.dumps(record, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n")


def write_parquet(handle: IO[bytes], rows: Iterable[Row], *, tta: bool) -> None:
    """Parquet with fixed column types, zstd. Raises MissingExtraError where pyarrow is not installed."""
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
    schema = pyarrow.schema(
        [(name, kinds.get(name, pyarrow.string())) for name in names], metadata={"notice": RESEARCH_USE_NOTICE}
    )
    with pyarrow.parquet.ParquetWriter(handle, schema, compression="zstd") as writer:
        chunk: list[list[Any]] = []

        def flush() -> None:
            if chunk:
                arrays = [
                    pyarrow.array(column, schema.field(index).type)
                    for index, column in enumerate(zip(*chunk, strict=True))
                ]
                writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
                chunk.clear()

        for row in rows:
            chunk.append(_values(row, names))
            if len(chunk) == 8192:
                flush()
        flush()


WRITERS: dict[str, Callable[..., None]] = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}
