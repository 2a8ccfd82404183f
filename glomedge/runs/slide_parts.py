"""The outlines of a run's slides as inputs of the pipeline: where each one lies, and its pixels.

Only the box, class and id of an outline are held, in columns: 100,000 outlines take some 30 MB with their names. Their
shapes are read again from the file of outlines when answers are written back.
"""

from __future__ import annotations

import os
import re
import threading
from array import array
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from glomedge.errors import ImageError
from glomedge.files.names import escape_name
from glomedge.pipeline.inputs import PART_MARK, Found
from glomedge.pipeline.prepare import Fetched, Stamp
from glomedge.results.rows import OutlineFacts
from glomedge.slides.annotations.classes import Choice
from glomedge.slides.annotations.outline import Outline, moved
from glomedge.slides.crops import box_of
from glomedge.slides.reader import Box, Slide, SlideInfo

MPP_TOLERANCE = 0.2
"""How far, as a share, a slide's microns per pixel may be from those of the model's training crops without a flag."""
_MAX_OPEN = 4
_UNUSUAL = re.compile("[^A-Za-z0-9-]+")
_MAX_ID_CHARACTERS = 80
_REPAIRED = 1


class Problem(NamedTuple):
    """Why a slide or an outline has no answer: a code as in ``ImageError``, and a sentence."""

    code: str
    message: str


@dataclass(frozen=True)
class OutlinedSlide:
    """One slide of a run.

    Attributes:
        relative: its path relative to the run's folder.
        path: its path.
        info: its measures; None where ``problem`` is set.
        origin_px: where QuPath counts from (``Slide.qupath_origin_px``).
        annotations: its file of outlines; None where ``problem`` is set.
        annotations_sha256: of that file.
        companions: stands for the slide's other files (``Companions.stamp``).
        choice: the classes taken and left out; None where ``problem`` is set.
        problem: why none of its outlines has an answer.
        first: number of its first part in the run.
        parts: how many parts it has: its outlines, or one for the slide as a whole where there is a problem.
    """

    relative: bytes
    path: Path
    info: SlideInfo | None = None
    origin_px: tuple[int, int] = (0, 0)
    annotations: Path | None = None
    annotations_sha256: str = ""
    companions: int = 0
    choice: Choice | None = None
    problem: Problem | None = None
    first: int = 0
    parts: int = 1


def part_name(slide: bytes, place: int, identity: str) -> bytes:
    """``Found.relative`` of an outline: in the order of the file when sorted; never the name of an image.

    Args:
        slide: the slide's path.
        place: of the outline in its file, from 1.
        identity: its id there, of which letters, digits and hyphens are used.
    """
    shown = _UNUSUAL.sub("-", identity)[:_MAX_ID_CHARACTERS].strip("-")
    return slide + PART_MARK + f"{place:07d}{'_' if shown else ''}{shown}".encode("ascii")


def on_level_0(outline: Outline, origin_px: tuple[int, int]) -> Outline:
    """The outline in the slide's own pixels: QuPath counts from the scanned part of some slides."""
    return moved(outline, *origin_px) if outline.source == "geojson" else outline


class PartColumns:
    """What is held of each outline of one slide, or of all slides of a run, in the order of the parts."""

    def __init__(self) -> None:
        self.boxes = array("i")
        self.classes = array("i")
        self.class_names: list[str] = []
        self.marks = bytearray()
        self.problems: dict[int, Problem] = {}
        self.ids: dict[int, str] = {}
        self._numbers: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self.marks)

    def add(self, outline: Outline | None, name: bytes = b"") -> None:
        """One outline in the slide's own pixels, with its part's name; None for a slide as a whole."""
        number = len(self)
        box = Box(0, 0, 0, 0)
        if outline is not None:
            try:
                box = box_of(outline)
            except ImageError as error:
                self.problems[number] = Problem(error.code, str(error))
            # The name of a part nearly always has the id in it.
            if not outline.id or outline.id.encode("utf-8", "backslashreplace") != name.rpartition(b"_")[2]:
                self.ids[number] = outline.id
        self.boxes.extend(box)
        self.marks.append(_REPAIRED if outline is not None and "repaired" in outline.flags else 0)
        self.classes.append(self._class_number(outline.label.class_name if outline is not None else ""))

    def _class_number(self, name: str) -> int:
        if name not in self._numbers:
            self._numbers[name] = len(self.class_names)
            self.class_names.append(name)
        return self._numbers[name]

    def extend(self, other: PartColumns) -> None:
        """The outlines of another slide, after those that are here."""
        begin = len(self)
        self.boxes.extend(other.boxes)
        self.marks.extend(other.marks)
        renumbered = [self._class_number(name) for name in other.class_names]
        self.classes.extend(renumbered[number] for number in other.classes)
        self.problems.update((begin + number, problem) for number, problem in other.problems.items())
        self.ids.update((begin + number, identity) for number, identity in other.ids.items())

    def box(self, number: int) -> Box:
        """As the outline has it, not clipped."""
        return Box(*self.boxes[4 * number : 4 * number + 4])


class SlideParts:
    """The slides of a run, and the pixels of their outlines (``pipeline.prepare.Source``); thread-safe.

    A pickled copy opens the slides again.

    Attributes:
        slides: in the order of their paths.
        model_mpp: microns per pixel of the crops that the model was trained on; None where that is not known.
        no_dicom: paths of slides to which answers in DICOM cannot refer; filled where such are wanted.
    """

    def __init__(self) -> None:
        self.slides: list[OutlinedSlide] = []
        self.model_mpp: float | None = None
        self.no_dicom: frozenset[bytes] = frozenset()
        self._columns = PartColumns()
        self._names: list[bytes] = []
        self._firsts: list[int] = []
        self._open_anew()

    def _open_anew(self) -> None:
        self._lock = threading.Lock()
        self._opened: OrderedDict[int, Slide] = OrderedDict()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_opened")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._open_anew()

    def add(self, slide: OutlinedSlide, columns: PartColumns) -> None:
        """One more slide, whose ``first`` is ``len(self)``, with its parts."""
        self.slides.append(slide)
        self._firsts.append(slide.first)
        self._columns.extend(columns)

    def __len__(self) -> int:
        return len(self._columns)

    def slide_of(self, number: int) -> OutlinedSlide:
        """The slide of a part."""
        return self.slides[self._place(number)]

    def _place(self, number: int) -> int:
        return bisect_right(self._firsts, number) - 1

    def stamp(self, found: Found) -> Stamp:
        """Size and time of the slide's file; nothing where it cannot be asked.

        The time of a slide in several files stands for all of them, as they were when the run began: of one that is
        replaced later, every outline is read again by the run that resumes.
        """
        slide = self.slide_of(_number(found))
        try:
            status = os.stat(slide.path)  # noqa: PTH116 (as many as outlines)
        except OSError:
            return Stamp()
        return Stamp(None, status.st_size, status.st_mtime_ns ^ slide.companions)

    def fetch(self, found: Found) -> Fetched:
        """The pixels of an outline's box, as ``crops.cut`` gives them. Raises ImageError."""
        number = _number(found)
        place = self._place(number)
        problem = self.slides[place].problem or self._columns.problems.get(number)
        if problem is not None:
            raise ImageError(*problem)
        region = self._slide(place).read(self._columns.box(number))
        flags = {
            "at_edge": region.at_edge,
            "repaired": self._columns.marks[number] & _REPAIRED,
            "other_mpp": self.has_other_mpp(self.slides[place]),
        }
        return Fetched(region.pixels_hwc, tuple(flag for flag, raised in flags.items() if raised))

    def has_other_mpp(self, slide: OutlinedSlide) -> bool:
        """Whether a slide's microns per pixel differ from the model's by more than ``MPP_TOLERANCE``."""
        if self.model_mpp is None or slide.info is None:
            return False
        return abs(slide.info.mpp - self.model_mpp) > MPP_TOLERANCE * self.model_mpp

    def _slide(self, place: int) -> Slide:
        """An open slide. Those that were not asked for lately are let go, and close with their last reader."""
        with self._lock:
            slide = self._opened.get(place)
            if slide is not None:
                self._opened.move_to_end(place)
                return slide
        # Not under the lock: a share that hangs must not keep other slides from being read.
        known = self.slides[place]
        fresh = Slide(known.path, None if known.info is None else known.info.mpp)
        with self._lock:
            slide = self._opened.setdefault(place, fresh)
            self._opened.move_to_end(place)
            if len(self._opened) > _MAX_OPEN:
                self._opened.popitem(last=False)
            return slide

    def facts(self, number: int) -> OutlineFacts:
        """What the row of a part says of its outline."""
        slide, columns = self.slide_of(number), self._columns
        if slide.info is None:
            return OutlineFacts(number)
        x, y, width, height = self._clipped(slide.info, number)
        identity = columns.ids.get(number)
        if identity is None:
            identity = self._id_in(number)
        return OutlineFacts(
            number, identity, columns.class_names[columns.classes[number]],
            x, y, width, height, float(f"{slide.info.mpp:.6g}"),
        )  # fmt: skip

    def _id_in(self, number: int) -> str:
        return self._names[number].rpartition(b"_")[2].decode("ascii")

    def _clipped(self, info: SlideInfo, number: int) -> tuple[int | None, int | None, int | None, int | None]:
        box = self._columns.box(number)
        left, upper = max(0, box.x), max(0, box.y)
        right, lower = min(info.width_px, box.x + box.width), min(info.height_px, box.y + box.height)
        if left >= right or upper >= lower:
            return None, None, None, None
        return left, upper, right - left, lower - upper

    def name(self, number: int) -> bytes:
        """``Found.relative`` of a part."""
        return self._names[number]

    def named(self, names: list[bytes]) -> None:
        """Keep the parts' names, in which their ids stand: the same objects as in the inputs, not copies."""
        self._names = names

    def outlines_sha256(self) -> dict[str, str]:
        """The slides that have outlines, by their escaped paths, with the SHA-256 of their files of outlines."""
        return {escape_name(slide.relative): slide.annotations_sha256 for slide in self.slides if slide.annotations}

    def problems(self) -> dict[str, str]:
        """The slides that cannot be used, by their escaped paths, with the reasons."""
        return {escape_name(slide.relative): slide.problem.message for slide in self.slides if slide.problem}


def _number(found: Found) -> int:
    assert found.part is not None
    return found.part
