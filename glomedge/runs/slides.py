"""The slides among the inputs of a run: each outlined glomerulus becomes an input, in the order of its file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from glomedge.cases.text import some
from glomedge.errors import AnnotationError, ImageError, MissingExtraError, UsageError
from glomedge.files.names import escape_name
from glomedge.files.writing import sha256_of
from glomedge.pipeline.inputs import PART_MARK, Found, Scan, scan
from glomedge.pipeline.stored_inputs import scan_storage
from glomedge.runs.manifest import Manifest, listed
from glomedge.runs.options import Options
from glomedge.runs.slide_parts import OutlinedSlide, PartColumns, Problem, SlideParts, on_level_0, part_name
from glomedge.slides.annotations.classes import Choice, choose, survey
from glomedge.slides.companions import Companions
from glomedge.slides.pairs import SHARED_SUFFIXES, SLIDE_SUFFIXES, Beside, SlidePair
from glomedge.slides.reader import Slide, openslide_module
from glomedge.system.stopping import unless_stopped

_SURE = tuple(suffix.encode() for suffix in sorted(SLIDE_SUFFIXES))
_SHARED = tuple(suffix.encode() for suffix in sorted(SHARED_SUFFIXES))
_ANY = (*_SURE, *_SHARED)


@dataclass
class Inputs:
    """What a run answers.

    Attributes:
        found: every crop and every outline, sorted by the bytes of their names.
        parts: the slides; None where there are none.
        manifest: that lists them; None where they were searched.
    """

    found: Scan
    parts: SlideParts | None = None
    manifest: Manifest | None = None


def find_inputs(options: Options, stop: Callable[[], bool] = lambda: False) -> Inputs:
    """The crops of a folder and the outlines of its slides; or one crop, or one slide.

    A slide that cannot be used is an input as a whole, whose row says why; one that was given by itself is refused.

    Raises:
        UsageError, ImageError, AnnotationError: there is nothing to answer, or the one slide cannot be used.
        MissingExtraError: there are slides, and the packages that read them are not installed.
        StoppedError: ``stop`` returned true.
    """
    from glomedge.imaging.images import ALLOWED_SUFFIXES

    slides, manifest = options.slides, None
    if slides.annotations is not None:
        found = _one_slide(options.folder)
    elif options.inputs is not None:
        found, manifest = listed(options)
    elif options.address is not None:
        found = scan_storage(options.address, ALLOWED_SUFFIXES, slides=SLIDE_SUFFIXES, stop=stop)
    else:
        found = scan(
            options.folder,
            ALLOWED_SUFFIXES | SLIDE_SUFFIXES | SHARED_SUFFIXES,
            follow_symlinks=options.follow_symlinks,
            exclude=[path for path in (options.output, options.heatmaps) if path is not None],
            stop=stop,
        )
    parts = None if options.address is not None else outline_parts(found, options, stop)
    if not found.inputs:
        raise UsageError(
            f"There is no image in {options.place} ({found.other_files} other files). Give the folder that contains "
            "the crops, or a slide with its outlines."
        )
    if parts is None and (slides.classes or slides.mpp is not None or options.annotation_formats):
        raise UsageError(
            f"There is no slide in {options.place}, and --class, --mpp, --format geojson and --format dsa belong to "
            "slides. Omit them, or give a slide."
        )
    return Inputs(found, parts, manifest)


def outline_parts(found: Scan, options: Options, stop: Callable[[], bool] = lambda: False) -> SlideParts | None:
    """Replace each slide among the inputs by its outlines; the slides, None where there are none.

    Raises:
        ImageError, AnnotationError, UsageError: the one slide of a run cannot be used.
        StoppedError: ``stop`` returned true.
    """
    return _Finder(found, options, stop).run()


def _one_slide(path: Path) -> Scan:
    if path.is_dir():
        raise UsageError(f"{path} is a folder, and --annotations belongs to one slide. Give one slide, or omit it.")
    folder, name = os.path.split(bytes(path))
    return Scan(folder or b".", [Found(name)])


class _Finder:
    """Replaces each slide among the inputs by its outlines."""

    def __init__(self, found: Scan, options: Options, stop: Callable[[], bool]) -> None:
        self._found = found
        self._options = options.slides
        self._alone = not options.folder.is_dir()
        self._stop = stop
        self._beside = Beside()
        self._companions = Companions()
        self._parts = SlideParts()
        self._inputs: list[Found] = []
        self._names: list[bytes] = []

    def run(self) -> SlideParts | None:
        found = self._found
        pairs = {
            entry.relative: pair
            for entry in found.inputs
            if entry.relative[-8:].lower().endswith(_ANY) or self._options.annotations is not None
            if entry.error is None and (pair := self._pair(entry)) is not None
        }
        pairs = _unshared(pairs)
        if pairs or any(entry.relative.lower().endswith(b".dcm") for entry in found.inputs):
            self._replace(pairs)
        return self._parts if pairs else None

    def _replace(self, pairs: dict[bytes, SlidePair]) -> None:
        found = self._found
        for entry in found.inputs:
            if entry.relative in pairs:
                self._slide(entry.relative, pairs[entry.relative])
            elif entry.relative.lower().endswith(b".dcm"):
                found.other_files += 1  # one of the many files of a slide, or no slide at all
            else:
                self._inputs.append(entry)
        self._parts.named(self._names)
        found.inputs[:] = sorted(self._inputs, key=lambda each: each.relative)

    def _pair(self, entry: Found) -> SlidePair | None:
        """The slide with its outlines; None where the file is a crop, or no file of a slide."""
        path = Path(os.fsdecode(self._found.path(entry)))
        if self._options.annotations is not None:
            return SlidePair(path, self._options.annotations)
        pair = self._beside.pair(path)
        if entry.relative.lower().endswith(_SURE):
            return pair
        if pair.files and (entry.relative.lower().endswith(b".dcm") or _is_slide(path, pair)):
            return pair
        return None

    def _slide(self, relative: bytes, pair: SlidePair) -> None:
        """Its outlines as inputs, or itself with its problem."""
        first, names = len(self._parts), list[bytes]()
        columns = PartColumns()
        try:
            slide = self._read(relative, pair, columns, names)
        except (ImageError, AnnotationError, UsageError) as error:
            if self._alone:
                raise
            code = error.code if isinstance(error, ImageError) else "outlines"
            slide = OutlinedSlide(relative, pair.slide, problem=Problem(code, str(error)), first=first)
            columns, names = PartColumns(), [relative + PART_MARK]
            columns.add(None)
        self._parts.add(slide, columns)
        self._names += names
        self._inputs += [Found(name, part=first + number) for number, name in enumerate(names)]

    def _read(self, relative: bytes, pair: SlidePair, columns: PartColumns, names: list[bytes]) -> OutlinedSlide:
        """Fill the columns and names from the file of outlines. Raises ImageError, AnnotationError, UsageError."""
        from glomedge.slides.annotations.reading import read_outlines

        if pair.annotations is None:
            name = escape_name(os.fsencode(pair.slide))
            advice = " Or name its outlines with --annotations." if self._alone else ""
            raise ImageError("outlines" if pair.files else "no_outlines", f"{name}: {pair.problem}.{advice}")
        with Slide(pair.slide, self._options.mpp) as slide:
            info, origin_px = slide.info, slide.qupath_origin_px
        companions = self._companions.stamp(pair.slide, info.vendor)
        shown = escape_name(os.fsencode(pair.annotations))
        classes = survey(unless_stopped(read_outlines(pair.annotations), self._stop))
        sha256 = sha256_of(pair.annotations)
        choice = choose(shown, classes, self._options.classes)
        for place, outline in enumerate(unless_stopped(read_outlines(pair.annotations), self._stop), 1):
            if choice.takes(outline):
                names.append(part_name(relative, place, outline.id))
                columns.add(on_level_0(outline, origin_px), names[-1])
        return OutlinedSlide(
            relative, pair.slide, info, origin_px, pair.annotations, sha256, companions, choice,
            first=len(self._parts), parts=len(names),
        )  # fmt: skip


def _is_slide(path: Path, pair: SlidePair) -> bool:
    """Whether a TIFF beside which a file of outlines lies is a slide: crops have such files beside them, too."""
    if any(".geojson" in file.name.lower() for file in pair.files):
        return True
    try:
        openslide = openslide_module()
    except MissingExtraError:
        return False
    return openslide.OpenSlide.detect_format(str(path)) is not None


def _unshared(pairs: dict[bytes, SlidePair]) -> dict[bytes, SlidePair]:
    """The pairs; slides whose file of outlines is that of another slide, too, have that for their problem."""
    users = Counter(pair.annotations for pair in pairs.values() if pair.annotations is not None)
    for relative, pair in pairs.items():
        if pair.annotations is not None and users[pair.annotations] > 1:
            problem = (
                f"another slide beside it has the same name, and {pair.annotations.name} may be of either. Rename one"
            )
            pairs[relative] = SlidePair(pair.slide, None, problem, pair.files)
    return pairs


def classes_note(parts: SlideParts) -> str | None:
    """Which classes were taken and left out, with counts, over all slides; None where no slide has outlines."""
    taken, left_out = Counter[str](), Counter[str]()
    choices = [slide.choice for slide in parts.slides if slide.choice is not None]
    for choice in choices:
        taken.update(choice.taken)
        left_out.update(choice.left_out)
    return Choice(dict(taken), dict(left_out)).sentence() if choices else None


def mpp_note(parts: SlideParts) -> str | None:
    """The slides whose outlines are flagged for their microns per pixel; None where there are none."""
    named = [
        f"{escape_name(slide.relative)} ({slide.info.mpp:.3g})"
        for slide in parts.slides
        if slide.info is not None and parts.has_other_mpp(slide)
    ]
    if not named:
        return None
    return (
        f"The model was trained on crops of {parts.model_mpp:g} microns per pixel. These slides differ by more than a "
        f"fifth, and their outlines are flagged other_mpp: {some(named)}."
    )


def reader_note(parts: SlideParts) -> str | None:
    """The slides that OpenSlide refused and another library read; None where there are none."""
    named = [
        f"{escape_name(slide.relative)} ({slide.info.reader})"
        for slide in parts.slides
        if slide.info is not None and slide.info.refused_by_openslide
    ]
    return f"OpenSlide refuses these slides, and another library read them: {some(named)}." if named else None


def slides_record(parts: SlideParts) -> list[dict[str, Any]]:
    """The slides of a run for ``run.json``."""
    return [_record(slide) for slide in parts.slides]


def _record(slide: OutlinedSlide) -> dict[str, Any]:
    record: dict[str, Any] = {"slide": escape_name(slide.relative)}
    if slide.problem is not None or slide.info is None or slide.choice is None or slide.annotations is None:
        return record | {"problem": None if slide.problem is None else slide.problem._asdict()}
    info = slide.info
    return record | {
        "annotations": escape_name(os.fsencode(slide.annotations)),
        "annotations_sha256": slide.annotations_sha256,
        "outlines": slide.parts,
        "classes_taken": slide.choice.taken,
        "classes_left_out": slide.choice.left_out,
        "width_px": info.width_px,
        "height_px": info.height_px,
        "mpp": info.mpp,
        "mpp_given": info.mpp_given,
        "vendor": info.vendor,
        "reader": info.reader,
        "icc_sha256": info.icc_sha256,
    }
