"""Slides of a folder, each with the file of outlines that lies beside it."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

from glomedge.cases.readings import stem_of
from glomedge.cases.text import some
from glomedge.errors import UsageError
from glomedge.files.names import escape_name
from glomedge.pipeline.inputs import scan

SLIDE_SUFFIXES = frozenset({".svs", ".ndpi", ".mrxs", ".scn", ".czi", ".bif", ".vms", ".vmu", ".svslide"})
"""Endings of files that are slides whatever lies beside them."""
SHARED_SUFFIXES = frozenset({".tif", ".tiff", ".dcm"})
"""Endings of slides, but also of crops and of single levels of slides: slides where outlines lie beside them."""
OUTLINE_SUFFIXES = (".geojson", ".json", ".xml", ".csv")
"""Endings of files of outlines, before those of ``PACKED_SUFFIXES``."""
PACKED_SUFFIXES = (".gz", ".zip")
_ALL_OUTLINE_SUFFIXES = (*OUTLINE_SUFFIXES, *PACKED_SUFFIXES)


@dataclass(frozen=True)
class SlidePair:
    """One slide.

    Attributes:
        slide: its path.
        annotations: its file of outlines; None where ``problem`` is set.
        problem: why there is none, in words; empty where there is one.
        files: all files beside it that may be its outlines.
    """

    slide: Path
    annotations: Path | None
    problem: str = ""
    files: tuple[Path, ...] = ()


def find_pairs(path: Path, exclude: Collection[Path] = ()) -> list[SlidePair]:
    """The slides of a folder, at any depth, sorted by the bytes of their paths; or one slide.

    Outlines belong to a slide by name: ``S-1.svs`` and ``S-1.geojson``, ``S-1.svs.json`` or ``S-1.xml.gz``.

    Args:
        path: a folder, searched as ``infer`` searches for crops, or a slide.
        exclude: folders never entered.

    Raises:
        UsageError: there is no such path, the folder cannot be listed, or it holds no slide.
    """
    name = escape_name(os.fsencode(path))
    try:
        return _find_pairs(path, name, exclude)
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(
            f"{name} cannot be searched for slides: {reason}. Check the path and its permissions."
        ) from None


def _find_pairs(path: Path, name: str, exclude: Collection[Path]) -> list[SlidePair]:
    if not path.exists():
        raise UsageError(f"{name}: there is no such slide or folder. Check the path.")
    if not path.is_dir():
        return [_pair(path, _outlines_of(path, _outlines_by_stem(path.parent)))]
    # Folders of slides are often folders of links.
    found = scan(path, SLIDE_SUFFIXES | SHARED_SUFFIXES, follow_symlinks=True, exclude=exclude)
    beside: dict[Path, dict[str, list[Path]]] = {}
    pairs = []
    for entry in found.inputs:
        slide = Path(os.fsdecode(found.path(entry)))
        if entry.error is not None:
            pairs.append(SlidePair(slide, None, f"it cannot be opened ({entry.error})"))
            continue
        if slide.parent not in beside:
            beside[slide.parent] = _outlines_by_stem(slide.parent)
        files = _outlines_of(slide, beside[slide.parent])
        if files or slide.suffix.lower() in SLIDE_SUFFIXES:
            pairs.append(_pair(slide, files))
    if not pairs:
        raise UsageError(
            f"There is no slide in {name}. Give a slide, or a folder of slides with outlines beside them (S-1.svs "
            "and S-1.geojson)."
        )
    return _distinct(pairs)


class Beside:
    """The files of outlines beside slides; each folder is listed once."""

    def __init__(self) -> None:
        self._folders: dict[Path, dict[str, list[Path]]] = {}

    def pair(self, slide: Path) -> SlidePair:
        """A slide with its outlines, or with the reason why there are none. Raises UsageError: no access."""
        if slide.parent not in self._folders:
            try:
                self._folders[slide.parent] = _outlines_by_stem(slide.parent)
            except OSError as error:
                folder = escape_name(os.fsencode(slide.parent))
                raise UsageError(
                    f"{folder} cannot be searched for outlines: {error.strerror}. Check its permissions."
                ) from None
        return _pair(slide, _outlines_of(slide, self._folders[slide.parent]))


def _distinct(pairs: list[SlidePair]) -> list[SlidePair]:
    """The pairs; of slides with one name, whose crops would be mixed, each has that for its problem."""
    named: dict[str, list[SlidePair]] = {}
    for pair in pairs:
        named.setdefault(stem_of(pair.slide.name).casefold(), []).append(pair)
    shared = {id(pair) for alike in named.values() if len(alike) > 1 for pair in alike}
    problem = "another slide of the folder has the same name, and their crops would be mixed. Rename one"
    return [SlidePair(pair.slide, None, problem) if id(pair) in shared else pair for pair in pairs]


def _outlines_of(slide: Path, by_stem: dict[str, list[Path]]) -> list[Path]:
    stems = dict.fromkeys((slide.name, slide.stem, stem_of(slide.name)))
    return [path for stem in stems for path in by_stem.get(stem, ()) if path != slide]


def _pair(slide: Path, files: list[Path]) -> SlidePair:
    if len(files) == 1:
        return SlidePair(slide, files[0], files=tuple(files))
    if files:
        names = some(sorted(path.name for path in files))
        problem = f"several files of outlines lie beside it: {names}. Leave one of them there"
        return SlidePair(slide, None, problem, tuple(files))
    return SlidePair(slide, None, f"no file of outlines lies beside it, such as {stem_of(slide.name)}.geojson")


def _outlines_by_stem(folder: Path) -> dict[str, list[Path]]:
    """Files that may hold outlines, by their name without their endings."""
    found: dict[str, list[Path]] = {}
    # The names first: a folder of crops may hold a million, and Path objects are slow.
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if entry.name.lower().endswith(_ALL_OUTLINE_SUFFIXES))
    for path in map(folder.joinpath, names):
        stem, name = path.name, path.name.lower()
        for endings in (PACKED_SUFFIXES, OUTLINE_SUFFIXES):
            ending = next((each for each in endings if name.endswith(each)), "")
            stem, name = stem[: len(stem) - len(ending)], name[: len(name) - len(ending)]
        if stem != path.name and not path.name.startswith(".") and path.is_file():
            found.setdefault(stem, []).append(path)
    return found
