"""A table written by a spreadsheet, an editor or a script, read only if its reading is unambiguous.

Byte order marks, UTF-16, Windows-1252, semicolons, tabs, a ``sep=;`` line, headers in any case, rows of bare commas and
blanks around cells are written by common programs; the notes say what was read. An ambiguous table is an error that
shows the header.
"""

from __future__ import annotations

import codecs
import csv
import hashlib
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from glomedge.cases.text import shortened, some, tidy
from glomedge.errors import DatasetError

_MAGIC = (
    (b"PK\x03\x04", "an Excel or LibreOffice workbook (.xlsx, .ods)"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook (.xls)"),
    (b"%PDF", "a PDF"),
    (b"\x1f\x8b", "a gzip archive"),
)
_MARKS = (
    (codecs.BOM_UTF8, "utf-8", ""),
    # Before UTF-16, whose little-endian mark begins alike.
    (codecs.BOM_UTF32_LE, "utf-32-le", "UTF-32"),
    (codecs.BOM_UTF32_BE, "utf-32-be", "UTF-32"),
    (codecs.BOM_UTF16_LE, "utf-16-le", "UTF-16"),
    (codecs.BOM_UTF16_BE, "utf-16-be", "UTF-16"),
)
_DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "bar"}
_MAX_BYTES = 1 << 28


class TableError(DatasetError):
    """A table that cannot be read at all.

    Attributes:
        reason: what is wrong with it, without its path.
    """

    def __init__(self, path: Path, reason: str, columns: Sequence[str], advice: str = "") -> None:
        wanted = f"Its columns are: {','.join(columns)}"
        super().__init__(f"{shortened(str(path), 300)} cannot be read: {reason}. {advice}{wanted}")
        self.reason = reason


@dataclass(frozen=True)
class Line:
    """One row: its line in the file (where it ends, from 1), and the cells of the requested columns, optional last."""

    number: int
    cells: tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """The requested columns.

    Attributes:
        lines: every row that is not blank.
        sha256: of the file's bytes, as they were read.
        notes: how the file was read, where not as plain UTF-8 with commas; one sentence each.
    """

    lines: list[Line]
    sha256: str
    notes: list[str] = field(default_factory=list)


def read_table(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> Table:
    """Read the named columns of a CSV file.

    Args:
        columns: their names in lower case with blanks, such as ``ground truth``; in the file underscores, hyphens,
            capitals and blanks around them do not matter.
        optional: names of columns that need not be there; their cells are empty then.

    Raises:
        TableError: it cannot be read, is no text, lacks a column or holds it twice, or a row has more cells than the
            header; the message shows the header found.
    """
    data = _bytes(path, columns)
    text, encoding = _text(path, data, columns)
    notes = [encoding] if encoding else []
    text, declared = _without_declaration(text)
    readings = {delimiter: _rows(text, delimiter) for delimiter in ([declared] if declared else _DELIMITERS)}
    fitting = {
        delimiter: rows
        for delimiter, rows in readings.items()
        if isinstance(rows, list) and rows and all(name in _names(rows[0][1]) for name in columns)
    }
    if not fitting:
        raise TableError(path, _no_header(readings, columns), columns)
    if len(fitting) > 1:
        which = " or ".join(_DELIMITERS[delimiter] for delimiter in fitting)
        raise TableError(path, f"the column separator is ambiguous: {which}", columns)
    ((delimiter, rows),) = fitting.items()
    if delimiter != ",":
        notes.append(f"{_DELIMITERS.get(delimiter, repr(delimiter))}-separated")
    header = rows[0][1]
    present = [name for name in optional if name in _names(header)]
    places = {name: _place(path, header, name, columns) for name in (*columns, *present)}
    _check_widths(path, header, rows[1:], delimiter, columns)
    asked = [places.get(name) for name in (*columns, *optional)]
    lines = [Line(number, tuple(_cell(row, place) for place in asked)) for number, row in rows[1:]]
    said = [f"{path.name} was read as {', '.join(notes)}."] if notes else []
    return Table(lines, hashlib.sha256(data).hexdigest(), said)


def _bytes(path: Path, columns: Sequence[str]) -> bytes:
    try:
        if path.is_file() and path.stat().st_size > _MAX_BYTES:
            raise TableError(path, f"it has more than {_MAX_BYTES >> 20} MB", columns)
        data = path.read_bytes()
    except FileNotFoundError:
        raise TableError(path, "there is no such file", columns) from None
    except OSError as error:
        raise TableError(path, error.strerror or str(error), columns) from None
    for magic, what in _MAGIC:
        if data.startswith(magic):
            raise TableError(
                path, f"it is not a CSV file but {what}, whatever its suffix", columns,
                "Open it in a spreadsheet and save it as CSV. ",
            )  # fmt: skip
    return data


def _text(path: Path, data: bytes, columns: Sequence[str]) -> tuple[str, str]:
    """The text, and how it was encoded where not in plain UTF-8."""
    for encoding, words in _encodings(data):
        try:
            text = data.decode(encoding).removeprefix("\ufeff")
        except UnicodeDecodeError:
            continue
        if "\0" not in text:
            return text, words
    raise TableError(
        path, "it is not a CSV file (its text is neither UTF-8, UTF-16 nor Windows-1252)", columns,
        "Save it as CSV in UTF-8. ",
    )  # fmt: skip


def _encodings(data: bytes) -> Sequence[tuple[str, str]]:
    """Encodings that the bytes may have, and their names in messages."""
    for mark, encoding, words in _MARKS:
        if data.startswith(mark):
            return ((encoding, words),)
    if b"\0" in data:
        # ASCII in UTF-16: every other byte is NUL.
        big_endian = data[::2].count(0) > data[1::2].count(0)
        return (("utf-16-be" if big_endian else "utf-16-le", "UTF-16 without a mark"),)
    return (("utf-8", ""), ("cp1252", "Windows-1252"))


def _without_declaration(text: str) -> tuple[str, str | None]:
    """The text without Excel's first line ``sep=;``, and the character it names."""
    first, _, rest = text.partition("\n")
    line = first.strip("\r\"' ")
    if line[:4].lower() == "sep=" and len(line) == 5:
        # The line is kept as an empty one, so that line numbers stay those of the file.
        return "\n" + rest, line[4]
    return text, None


def _rows(text: str, delimiter: str) -> list[tuple[int, list[str]]] | str:
    """Every row that is not blank, with its line; or why they cannot be read."""
    problem = ""
    # Strict, because an unclosed quote would swallow the rows after it; but blanks may follow a closing quote.
    for strict in (True, False):
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=delimiter, strict=strict, skipinitialspace=delimiter != "\t"
        )
        rows = []
        try:
            for row in reader:
                cells = [tidy(cell) for cell in row]
                if any(cells):
                    rows.append((reader.line_num, cells))
        except csv.Error as error:
            problem = problem or f"line {reader.line_num}: {error}"
            continue
        if strict or not any('"' in cell or "\n" in cell or "\r" in cell for _, cells in rows for cell in cells):
            return rows
    return problem


def _names(header: Sequence[str]) -> list[str]:
    return [" ".join(cell.lower().replace("_", " ").replace("-", " ").split()).strip("\"'") for cell in header]


def _place(path: Path, header: Sequence[str], column: str, columns: Sequence[str]) -> int:
    places = [index for index, name in enumerate(_names(header)) if name == column]
    if len(places) > 1:
        which = " and ".join(str(place + 1) for place in places)
        raise TableError(
            path, f"its columns {which} are both {column!r} and it is unclear which one to use; it has "
            f"{_shown(header)}", columns, "Remove or rename the others. ",
        )  # fmt: skip
    return places[0]


def _cell(row: Sequence[str], place: int | None) -> str:
    return row[place] if place is not None and place < len(row) else ""


def _check_widths(
    path: Path, header: Sequence[str], rows: Sequence[tuple[int, list[str]]], delimiter: str, columns: Sequence[str]
) -> None:
    """A cell beyond the header means that a name contains the delimiter, which shifts the columns."""
    long = [(number, row) for number, row in rows if any(row[len(header) :])]
    if long:
        listed = some((f"line {number}: {delimiter.join(row)}" for number, row in long), 5, "; ")
        raise TableError(
            path, f"{len(long)} rows have more cells than the header {_shown(header)}: {listed}", columns,
            f"Quote names that contain a {_DELIMITERS.get(delimiter, delimiter)}. ",
        )  # fmt: skip


def _shown(header: Sequence[str]) -> str:
    return shortened(", ".join(header), 300) or "none"


def _no_header(readings: dict[str, list[tuple[int, list[str]]] | str], columns: Sequence[str]) -> str:
    tables = [rows for rows in readings.values() if isinstance(rows, list) and rows]
    reason = next((rows for rows in readings.values() if isinstance(rows, str)), "")
    if not tables and reason:
        return f"it is not a CSV file ({reason})"
    # The delimiter that finds most columns is most likely the file's; the comma where none does.
    rows = max(
        tables, key=lambda rows: (sum(name in _names(rows[0][1]) for name in columns), len(rows[0][1])), default=None
    )
    header = rows[0][1] if rows else []
    missing = [name for name in columns if name not in _names(header)]
    return f"there is no column {' and '.join(map(repr, missing))}; it has {_shown(header)}"
