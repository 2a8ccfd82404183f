"""Slides that somebody gives to the page: files in a temporary folder, their outlines, and answers for viewers."""

from __future__ import annotations

import importlib.util
import itertools
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from glomedge.files.names import escape_name
from glomedge.model.spec import ModelSpec
from glomedge.pipeline.inputs import Found, scan
from glomedge.runs.options import Options
from glomedge.runs.outcome import ANNOTATIONS
from glomedge.runs.slide_parts import SlideParts
from glomedge.runs.slides import classes_note, mpp_note, outline_parts
from glomedge.slides.pairs import SHARED_SUFFIXES, SLIDE_SUFFIXES

ANSWERS_FILE = "annotations.zip"
FORMATS = ("csv", "geojson", "dsa")
"""What a run with slides writes."""
MOST_OUTLINES_READ = 400_000
"""Of all classes and files together; each is read twice."""
_MAX_INDEX_BYTES = 1 << 20  # OpenSlide reads no larger index file
_INDEX_NAMES = (".ini", ".vms", ".vmu")
_GROUP = re.compile(rb"^[^\w\n]*\[[A-Za-z][^\]\n]*\]", re.MULTILINE)
_UP = re.compile(rb"\.\.[/\\]")
_ABSOLUTE = re.compile(rb"\s*(?:[/\\]|[A-Za-z]:)")
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a ZIP archive can hold


def slides_possible() -> bool:
    """Whether the extra ``slides`` is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("openslide", "shapely"))


class PageSlides:
    """The slides of one run.

    Args:
        folder: of the uploaded files; made with the first of them.

    Attributes:
        bytes: of all files.
        inputs: the outlines, in their order; empty before ``read``.
        parts: where their pixels lie; None before ``read``, and where there is no slide.
        notes: for the report.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bytes = 0
        self.inputs: list[Found] = []
        self.parts: SlideParts | None = None
        self.notes: list[str] = []
        self._sizes: dict[Path, int] = {}

    def place(self, name: str) -> Path:
        """Where a file of that name goes; its folder is there, and nothing of that name. Raises ValueError, OSError."""
        steps = name.split("/")
        if any(step in ("", ".", "..") for step in steps):
            raise ValueError("a path that leads elsewhere")
        path = self.folder.joinpath(*steps)
        path.parent.mkdir(parents=True, exist_ok=True)
        self.drop(path)
        return path

    def keep(self, path: Path, size_bytes: int) -> None:
        """Count a file that is whole."""
        self._sizes[path] = size_bytes
        self.bytes += size_bytes

    def drop(self, path: Path) -> None:
        """Forget a file, whole or not."""
        path.unlink(missing_ok=True)
        self.bytes -= self._sizes.pop(path, 0)

    def read(self, options: Options, spec: ModelSpec, stop: Callable[[], bool]) -> dict[str, Any]:
        """Find the outlines of all slides.

        Returns:
            How many there are, which slides have none and why, and the files that are no slides.

        Raises:
            GlomedgeError: the folder cannot be read.
            StoppedError: ``stop`` returned true, or there are more outlines, of any class, than a server reads.
        """
        asked = itertools.count()

        def enough() -> bool:
            return stop() or next(asked) > MOST_OUTLINES_READ

        found = scan(self.folder, SLIDE_SUFFIXES | SHARED_SUFFIXES, stop=stop)
        parts = outline_parts(found, replace(options, folder=self.folder), enough)
        if parts is not None:
            parts.model_mpp = spec.mpp
            self.notes = [note for note in (classes_note(parts), mpp_note(parts)) if note is not None]
        self.parts = parts
        self.inputs = [each for each in found.inputs if each.part is not None]
        others = [escape_name(each.relative) for each in found.inputs if each.part is None]
        return {
            "outlines": len(self.inputs),
            "problems": {} if parts is None else {name: self.told(text) for name, text in parts.problems().items()},
            "no_slides": others,
        }

    def told(self, message: str) -> str:
        """A message of a run without the temporary folder's path, which is nobody's business."""
        return message.replace(f"{escape_name(bytes(self.folder))}/", "")

    def clear(self) -> None:
        """Delete every file, and forget what was read."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._sizes.clear()
        self.bytes, self.parts, self.inputs, self.notes = 0, None, [], []


def points_elsewhere(path: Path) -> bool:
    """Whether a file is an index of a slide (MRXS, VMS: ``key = file``) that names files outside its folder.

    OpenSlide would read them, and whoever sent it would see pictures of this server that are not theirs. An index is
    known by its name or by a group (``[DATAFILE]``) in it: OpenSlide looks for those of VMS in files of any name.
    """
    with path.open("rb") as handle:
        data = handle.read(_MAX_INDEX_BYTES + 1)
    if len(data) > _MAX_INDEX_BYTES:
        return False
    is_index = path.name.lower().endswith(_INDEX_NAMES) or _GROUP.search(data) is not None
    return is_index and (_UP.search(data) is not None or any(map(_names_absolute, data.split(b"\n"))))


def _names_absolute(line: bytes) -> bool:
    """Whether a line of an index gives an absolute path of a file. As for GLib, only a line feed ends a line."""
    key, _, value = line.partition(b"=")
    return any(word in key.lower() for word in (b"file", b"image")) and _ABSOLUTE.match(value) is not None


def pack_answers(output: Path) -> None:
    """Put what lies in ``annotations/`` of a run's output into one archive beside it, the same bytes every time."""
    folder = output / ANNOTATIONS
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        return
    with zipfile.ZipFile(output / ANSWERS_FILE, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            entry = zipfile.ZipInfo(str(path.relative_to(folder)), _FIRST_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with path.open("rb") as source, archive.open(entry, "w") as target:
                shutil.copyfileobj(source, target)
