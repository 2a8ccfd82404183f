"""The CSV, JSON Lines and Parquet files made from the rows; their bytes depend on the rows alone."""

from __future__ import annotations

import codecs
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import lru_cache
from itertools import repeat
from typing import IO, Any, Protocol, TypeVar

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cases.names import CaseName
from glomedge.errors import MissingExtraError
from glomedge.files.names import all_plain, guard, neutralise
from glomedge.results.rows import OutlineFacts, RowBlock, Verdict

FORMATS = ("csv", "csv-bom", "jsonl", "parquet")


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


OUTLINE_COLUMNS = ("annotation_id", "annotation_class", "x", "y", "width", "height", "mpp")
"""Behind ``slide``, in a run with slides; empty for a crop."""


def columns(*, tta: bool, slides: bool = False) -> tuple[str, ...]:
    """The columns of every format, in order; the research-use notice is the last."""
    names = [name for name in COLUMNS if tta or name != "tta_disagreement"]
    if slides:
        place = names.index("slide") + 1
        names[place:place] = OUTLINE_COLUMNS
    return (*names, "notice")


class TableWriter(Protocol):
    """Writes the rows of one file, part by part."""

    def write(self, block: RowBlock) -> None:
        """Add rows."""

    def close(self) -> None:
        """Write what is still buffered; the handle stays open. Idempotent."""


_Key = TypeVar("_Key")


class _Texts(dict[_Key, str]):
    """A key that many rows share -> its text, made when it is first needed; emptied where they are too many."""

    def __init__(self, text_of: Callable[[_Key], str]) -> None:
        super().__init__()
        self._text_of = text_of

    def __missing__(self, key: _Key) -> str:
        if len(self) >= 4096:
            self.clear()
        self[key] = text = self._text_of(key)
        return text


def _known(values: Sequence[Any], text_of: Callable[[Any], str], missing: str) -> list[str]:
    """Texts of values some of which may be None."""
    if None in values:
        return [missing if value is None else text_of(value) for value in values]
    return list(map(text_of, values))


def _quoted(cell: str) -> str:
    """As the ``csv`` module writes it where lines end with a newline."""
    if "," in cell or '"' in cell or "\n" in cell:
        return '"' + cell.replace('"', '""') + '"'
    return cell


def _text_cell(text: str) -> str:
    # A bare carriage return would not be quoted (the line ends with a newline only) and would end the line.
    return _quoted(neutralise(text.replace("\r", "\\x0d")))


@lru_cache(maxsize=4096)
def _id_cell(text: str) -> str:
    """A biopsy or slide, which no spreadsheet may convert to a number or a date."""
    return _quoted(guard(text.replace("\r", "\\x0d")))


def _cells(texts: Sequence[str]) -> Sequence[str]:
    """``_text_cell`` of each; quick where none of them changes, as nearly always."""
    joined = "".join(texts)
    if "," in joined or '"' in joined or not joined.isprintable() or not all_plain(texts):
        return list(map(_text_cell, texts))
    return texts


def _case_cells(case: CaseName) -> str:
    return f"{_id_cell(case.case)},{_id_cell(case.slide)}"


def _verdict_cells(verdict: Verdict) -> str:
    """The columns from ``label`` to ``provider``."""
    label, review = ("" if value is None else str(value) for value in (verdict.label, verdict.review))
    class_name, status, provider = map(_text_cell, (verdict.class_name or "", verdict.status, verdict.provider))
    return f"{label},{class_name},{verdict.threshold},{review},{status},{provider}"


_NO_OUTLINE = OutlineFacts(-1)


def _outlines(block: RowBlock) -> Iterable[OutlineFacts | None]:
    return block.outlines or repeat(None, len(block))


def _outline_values(block: RowBlock, name: str) -> list[Any]:
    """One column of what is known of the outlines; None for a crop."""
    return [None if outline is None else getattr(outline, name) for outline in _outlines(block)]


def _outline_cells(outline: OutlineFacts | None) -> str:
    _, identity, class_name, *numbers = outline or _NO_OUTLINE
    return ",".join([_id_cell(identity), _text_cell(class_name), *_known(numbers, str, "")])


class CsvWriter:
    """UTF-8, comma, newline, header first. No cell can be taken for a formula (``files.names.neutralise``), no
    biopsy, slide or annotation's id for a number or date (``files.names.guard``)."""

    def __init__(self, handle: IO[bytes], *, tta: bool, slides: bool = False) -> None:
        self._handle = handle
        self._tta = tta
        self._slides = slides
        self._cases = _Texts(_case_cells)
        self._verdicts = _Texts(_verdict_cells)
        self._ends = _Texts[Verdict](
            lambda verdict: f"{_text_cell(verdict.message)},{_text_cell(RESEARCH_USE_NOTICE)}\n"
        )
        self._handle.write((",".join(columns(tta=tta, slides=slides)) + "\n").encode("utf-8"))

    def write(self, block: RowBlock) -> None:
        """Add rows."""
        # By columns, those that many rows share at once: a call for every cell would take most of the time.
        cells: list[Iterable[str]] = [
            _cells(block.paths),
            map(self._cases.__getitem__, block.cases),
            *([map(_outline_cells, _outlines(block))] if self._slides else []),
            _known(block.probabilities, str, ""),
            map(self._verdicts.__getitem__, block.verdicts),
            _known(block.sha256, str, ""),
        ]
        if self._tta:
            cells.append(_known(block.disagreements, str, ""))
        cells.append(map(self._ends.__getitem__, block.verdicts))
        self._handle.write("".join(map(",".join, zip(*cells, strict=True))).encode("utf-8"))

    def close(self) -> None:
        """Nothing is owed."""


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _strings(texts: Sequence[str]) -> list[str]:
    """JSON strings; quick where nothing is to be escaped, as nearly always."""
    joined = "".join(texts)
    if '"' in joined or "\\" in joined or not joined.isprintable():
        return list(map(_encode, texts))
    return [f'"{text}"' for text in texts]


def _members(names: Sequence[str], source: object) -> str:
    """Members of a JSON object, with those attributes' names and values."""
    return _encode({name: getattr(source, name) for name in names})[1:-1]


def _outline_members(outline: OutlineFacts | None) -> str:
    if outline is None:
        return ", " + _encode(dict.fromkeys(OUTLINE_COLUMNS))[1:-1]
    return ", " + _members(OUTLINE_COLUMNS, outline)


class JsonLinesWriter:
    """One JSON object a line, values as they are (nothing neutralised)."""

    def __init__(self, handle: IO[bytes], *, tta: bool, slides: bool = False) -> None:
        self._handle = handle
        self._tta = tta
        self._slides = slides
        self._cases = _Texts[CaseName](lambda case: _members(("case", "slide"), case))
        shared = COLUMNS[COLUMNS.index("label") : COLUMNS.index("sha256")]
        self._verdicts = _Texts[Verdict](lambda verdict: ", " + _members(shared, verdict) + ', "sha256": ')
        last = ', "notice": ' + _encode(RESEARCH_USE_NOTICE) + "}\n"
        self._ends = _Texts[Verdict](lambda verdict: ", " + _members(("message",), verdict) + last)

    def write(self, block: RowBlock) -> None:
        """Add rows."""
        begins = [f'{{"path": {path}, ' for path in _strings(block.paths)]
        parts: list[Iterable[str]] = [
            begins,
            map(self._cases.__getitem__, block.cases),
            *([map(_outline_members, _outlines(block))] if self._slides else []),
            repeat(', "probability": ', len(block)),
            _known(block.probabilities, str, "null"),
            map(self._verdicts.__getitem__, block.verdicts),
            _known(block.sha256, _encode, "null"),
        ]
        if self._tta:
            disagreements = _known(block.disagreements, str, "null")
            parts.append([f', "tta_disagreement": {value}' for value in disagreements])
        parts.append(map(self._ends.__getitem__, block.verdicts))
        self._handle.write("".join(map("".join, zip(*parts, strict=True))).encode("utf-8"))

    def close(self) -> None:
        """Nothing is owed."""


class ParquetWriter:
    """Parquet with fixed column types, zstd. Raises MissingExtraError where pyarrow is not installed."""

    def __init__(self, handle: IO[bytes], *, tta: bool, slides: bool = False) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise MissingExtraError("--format parquet", "pyarrow", "parquet") from None
        names = columns(tta=tta, slides=slides)
        kinds = {
            "probability": pyarrow.float32(),
            "tta_disagreement": pyarrow.float32(),
            "threshold": pyarrow.float64(),
            "label": pyarrow.int8(),
            "review": pyarrow.int8(),
            **dict.fromkeys(("x", "y", "width", "height"), pyarrow.int32()),
            "mpp": pyarrow.float64(),
        }
        self._schema = pyarrow.schema(
            [(name, kinds.get(name, pyarrow.string())) for name in names], metadata={"notice": RESEARCH_USE_NOTICE}
        )
        self._owed: dict[str, list[Any]] = {name: [] for name in names if name != "notice"}
        self._writer = pyarrow.parquet.ParquetWriter(handle, self._schema, compression="zstd")

    def write(self, block: RowBlock) -> None:
        """Add rows."""
        for name, values in self._owed.items():
            values += _values(block, name)
        # Row groups of one size, whatever the size of the parts: the bytes depend on the rows alone.
        while len(self._owed["path"]) >= ROW_GROUP:
            self._flush(ROW_GROUP)

    def _flush(self, count: int) -> None:
        import pyarrow

        columns_of = [values[:count] for values in self._owed.values()]
        for values in self._owed.values():
            del values[:count]
        if columns_of[0]:
            columns_of.append([RESEARCH_USE_NOTICE] * len(columns_of[0]))
            arrays = [pyarrow.array(column, self._schema.field(index).type) for index, column in enumerate(columns_of)]
            self._writer.write_table(pyarrow.Table.from_arrays(arrays, schema=self._schema))

    def close(self) -> None:
        """Write the last rows and the footer."""
        self._flush(ROW_GROUP)
        self._writer.close()


def _values(block: RowBlock, name: str) -> Sequence[Any]:
    """One column, by its name."""
    match name:
        case "path":
            return block.paths
        case "case":
            return [case.case for case in block.cases]
        case "slide":
            return [case.slide for case in block.cases]
        case "probability":
            return block.probabilities
        case "sha256":
            return block.sha256
        case "tta_disagreement":
            return block.disagreements
    if name in OUTLINE_COLUMNS:
        return _outline_values(block, name)
    return [getattr(verdict, name) for verdict in block.verdicts]


WRITERS: dict[str, Callable[..., TableWriter]] = {"csv": CsvWriter, "jsonl": JsonLinesWriter, "parquet": ParquetWriter}
