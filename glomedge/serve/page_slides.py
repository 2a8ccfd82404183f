"""Slides that somebody gives to the page: files in a temporary folder, their outlines, and answers for viewers."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import re
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from glomedge.errors import OutputError
from glomedge.files.names import escape_name
from glomedge.model.spec import ModelSpec
from glomedge.pipeline.inputs import Found, scan
from glomedge.runs.options import Options
from glomedge.runs.outcome import ANNOTATIONS
from glomedge.runs.slide_parts import SlideParts
from glomedge.runs.slides import classes_note, mpp_note, outline_parts, reader_note
from glomedge.serve.refusal import malformed, no_room_for_slides
from glomedge.slides.pairs import SHARED_SUFFIXES, SLIDE_SUFFIXES

ANSWERS_FILE = "annotations.zip"
FORMATS = ("csv", "geojson", "dsa")
"""What a run with slides writes."""
MOST_OUTLINES_READ = 400_000
"""Of all classes and files together; each is read twice."""
MOST_FILES = 4000
"""Of slides and outlines, of one run: an empty file takes room, too."""
_MOST_STEPS = 8
_MOST_STEP_BYTES = 255
_MAX_INDEX_BYTES = 1 << 20  # OpenSlide reads no larger index file
_INDEX_NAMES = (".ini", ".vms", ".vmu")
_GROUP = re.compile(rb"^[^\w\n]*\[[A-Za-z][^\]\n]*\]", re.MULTILINE)
_UP = re.compile(rb"\.\.[/\\]")
_ABSOLUTE = re.compile(rb"\s*(?:[/\\]|[A-Za-z]:)")
_FIRST_DATE = (1980, 1, 1, 0, 0, 0)  # the earliest that a ZIP archive can hold


def slides_possible() -> bool:
    """Whether the extra ``slides`` is installed."""
    return all(importlib.util.find_spec(name) is not None for name in ("openslide", "shapely"))


class SlidesRoom:
    """The bytes of all slides of all runs, those that are on their way included.

    Args:
        limit_bytes: how many there may be.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self.bytes = 0

    def check(self, count: int) -> None:
        """Raise RefusedError (413) where there is no room for so many more bytes."""
        if self.bytes + count > self._limit_bytes:
            raise no_room_for_slides(self._limit_bytes)

    def take(self, count: int) -> None:
        """Count so many more bytes. Raises RefusedError (413)."""
        self.check(count)
        self.bytes += count


@dataclass
class Upload:
    """One file, whole or on its way: what it takes of the room (``body.FileRoom``).

    Attributes:
        bytes: of it so far.
    """

    room: SlidesRoom
    bytes: int = 0

    def check(self, size_bytes: int) -> None:
        """Raise RefusedError (413) where that is too large."""
        self.room.check(size_bytes)

    def take(self, count: int) -> None:
        """Count what has come. Raises RefusedError (413)."""
        self.room.take(count)
        self.bytes += count


class PageSlides:
    """The slides of one run.

    Args:
        folder: of the uploaded files; made with the first of them.
        room: of the server.

    Attributes:
        found: what ``read`` returned; None before.
        inputs: the outlines, in their order; empty before ``read``.
        parts: where their pixels lie; None before ``read``, and where there is no slide.
        notes: for the report.
    """

    def __init__(self, folder: Path, room: SlidesRoom) -> None:
        self.folder = folder
        self._room = room
        self.found: dict[str, Any] | None = None
        self.inputs: list[Found] = []
        self.parts: SlideParts | None = None
        self.notes: list[str] = []
        self._uploads: dict[Path, Upload] = {}

    def place(self, name: str) -> Path:
        """Where a file of that name goes; there is nothing of that name then.

        Raises:
            ValueError: there can be no such file.
            OSError: the same.
            RefusedError: there are too many files (400).
        """
        steps = name.split("/")
        if any(step in ("", ".", "..") or len(os.fsencode(step)) > _MOST_STEP_BYTES for step in steps):
            raise ValueError("a path that leads elsewhere, or a name that no disk takes")
        if len(steps) > _MOST_STEPS:
            raise ValueError("a path that is too deep")
        path = self.folder.joinpath(*steps)
        path.unlink(missing_ok=True)
        self.drop(path)
        if len(self._uploads) >= MOST_FILES:
            raise malformed(f"The page takes {MOST_FILES} files of slides. Use glomedge infer for more.")
        return path

    def upload(self, path: Path) -> Upload:
        """Count a file from its first byte on, until it is dropped."""
        return self._uploads.setdefault(path, Upload(self._room))

    def drop(self, path: Path) -> None:
        """Forget a file, whole or not, and the folders that only it was in."""
        with contextlib.suppress(OSError):
            path.unlink()
        upload = self._uploads.pop(path, None)
        if upload is None:
            return
        self._room.bytes -= upload.bytes
        with contextlib.suppress(OSError):  # not empty, or never made
            for folder in path.parents[: len(path.relative_to(self.folder).parts)]:
                folder.rmdir()

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

        self.folder.mkdir(exist_ok=True)
        found = scan(self.folder, SLIDE_SUFFIXES | SHARED_SUFFIXES, stop=stop)
        parts = outline_parts(found, replace(options, folder=self.folder), enough)
        if parts is not None:
            parts.model_mpp = spec.mpp
            self.notes = [note for note in (classes_note(parts), mpp_note(parts), reader_note(parts)) if note]
        self.parts = parts
        self.inputs = [each for each in found.inputs if each.part is not None]
        others = [escape_name(each.relative) for each in found.inputs if each.part is None]
        self.found = {
            "outlines": len(self.inputs),
            "problems": {} if parts is None else {name: self.told(text) for name, text in parts.problems().items()},
            "no_slides": others,
        }
        return self.found

    def told(self, message: str) -> str:
        """A message of a run without the temporary folder's path, which is nobody's business."""
        return message.replace(f"{escape_name(bytes(self.folder))}/", "")

    def clear(self) -> None:
        """Delete every file, and forget what was read."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self._room.bytes -= sum(upload.bytes for upload in self._uploads.values())
        self._uploads.clear()
        self.found, self.parts, self.inputs, self.notes = None, None, [], []


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
    """Put what lies in ``annotations/`` of a run's output into one archive beside it, the same bytes every time.

    Raises:
        OutputError: it cannot be written; there is no archive then.
    """
    folder, target, unfinished = output / ANNOTATIONS, output / ANSWERS_FILE, output / f".{ANSWERS_FILE}"
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    if not paths:
        return
    try:
        _pack(folder, paths, unfinished)
        unfinished.replace(target)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise OutputError(f"{target} cannot be written: {error.strerror}. Make room in TMPDIR.") from None


def _pack(folder: Path, paths: list[Path], target: Path) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            entry = zipfile.ZipInfo(str(path.relative_to(folder)), _FIRST_DATE)
            entry.compress_type = zipfile.ZIP_DEFLATED
            with path.open("rb") as source, archive.open(entry, "w") as packed:
                shutil.copyfileobj(source, packed)
