"""Tables of boxes: WSInfer's (``minx,miny,width,height``) and any with the columns ``x,y,width,height``.

Optional columns: ``id``; ``class``, ``classification`` or ``label``; ``name``. Numbers are level-0 pixels.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Final

from glomedge.slides.annotations.outline import Label, Outline, build, failed, rectangle
from glomedge.slides.annotations.source import Source

_COLUMNS: Final[dict[str, tuple[str, ...]]] = {
    "x": ("minx", "min_x", "x"),
    "y": ("miny", "min_y", "y"),
    "width": ("width",),
    "height": ("height",),
    "id": ("id",),
    "class": ("class", "classification", "label"),
    "name": ("name",),
}
_NEEDED = ("x", "y", "width", "height")
_DELIMITERS = ",;\t"
_MAX_LINE_CHARACTERS = 1 << 20


class _Lines(io.RawIOBase):
    """A source as a stream that the standard library can decode."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # any writable buffer
        data = self._source.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def csv_outlines(source: Source) -> Iterator[Outline]:
    """Every box of a table, in order. Raises AnnotationError."""
    # Spreadsheets outside English write Windows-1252; the columns that matter are ASCII in either.
    text = io.TextIOWrapper(io.BufferedReader(_Lines(source)), "utf-8", errors="backslashreplace", newline="")
    try:
        lines = _lines(source, text)
        header = next(lines, "")
        delimiter = max(_DELIMITERS, key=header.count)
        places = _places(source, next(csv.reader([header], delimiter=delimiter), []))
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        for row in reader:
            if any(cell.strip() for cell in row):
                yield _outline(row, places, reader.line_num + 1, decimal_comma=delimiter != ",")
    except csv.Error as error:
        raise source.refuse(f"it is not a CSV file ({error}). Save it as CSV again.") from None


def _lines(source: Source, text: io.TextIOWrapper) -> Iterator[str]:
    """The lines, none of which is read whole where it is no table but something huge."""
    while line := text.readline(_MAX_LINE_CHARACTERS):
        if len(line) == _MAX_LINE_CHARACTERS:
            raise source.refuse("it is no table of boxes: a line has more than a million characters. Check the file.")
        yield line


def _places(source: Source, header: list[str]) -> dict[str, int]:
    """Column -> its index. Raises AnnotationError where one is missing or ambiguous."""
    names = [cell.strip().strip('"').lower().replace(" ", "_") for cell in header]
    places = {}
    for column, spellings in _COLUMNS.items():
        found = [index for index, name in enumerate(names) if name in spellings]
        if len(found) > 1:
            raise source.refuse(f"it has several columns for {column!r}. Remove or rename all but one.")
        if found:
            places[column] = found[0]
    missing = [column for column in _NEEDED if column not in places]
    if missing:
        shown = ", ".join(header)[:150].strip() or "nothing"
        raise source.refuse(
            f"it is neither JSON nor XML, and as a table of boxes it lacks {', '.join(missing)}; its first line is "
            f"{shown!r}. Its columns are: x,y,width,height (or minx,miny), and optionally id,class,name."
        )
    return places


def _outline(row: list[str], places: dict[str, int], line: int, decimal_comma: bool) -> Outline:
    def cell(column: str) -> str:
        place = places.get(column, len(row))
        return row[place].strip() if place < len(row) else ""

    label = Label(id=cell("id"), class_name=cell("class"), name=cell("name"))
    try:
        x, y, width, height = (
            float(cell(column).replace(",", ".") if decimal_comma else cell(column)) for column in _NEEDED
        )
    except ValueError:
        return failed(label, "csv", line, "x, y, width or height is not a number")
    if width <= 0 or height <= 0:
        return failed(label, "csv", line, "its width or height is not positive")
    return build(label, "csv", line, [rectangle(x, y, width, height)])
