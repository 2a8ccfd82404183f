"""Any annotation file, by its content."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from glomedge.slides.annotations.boxes_csv import csv_outlines
from glomedge.slides.annotations.json_files import json_outlines
from glomedge.slides.annotations.outline import Outline
from glomedge.slides.annotations.source import MAX_BYTES, open_source
from glomedge.slides.annotations.xml_stream import xml_outlines

MAX_OUTLINES = 2_000_000
"""Of one file; more than any slide has cells of glomeruli."""
_READERS = {"json": json_outlines, "xml": xml_outlines, "csv": csv_outlines}


def read_outlines(path: Path, max_bytes: int = MAX_BYTES) -> Iterator[Outline]:
    """Every outline of a file of any known format, in order, as it is read: the file is never in memory as a whole.

    An outline that cannot be used (no area, damaged points) is given with its ``error``; it is not left out.

    Args:
        path: GeoJSON of QuPath, JSON of the Digital Slide Archive, XML of ImageScope or ASAP, or a CSV of boxes; plain,
            ``.gz`` or ``.zip``. The suffix does not matter.
        max_bytes: refuse a file that holds more, unpacked.

    Raises:
        AnnotationError: the file as a whole cannot be read; while iterating, at the place of the damage.
        MissingExtraError: shapely is not installed.
    """
    with open_source(path, max_bytes) as source:
        for count, outline in enumerate(_READERS[source.kind](source), 1):
            if count > MAX_OUTLINES:
                raise source.refuse(f"it has more than {MAX_OUTLINES:,} outlines. Export only the glomeruli.")
            yield outline
