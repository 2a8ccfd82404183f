"""The slide and biopsy in one file name, for each tool that writes crops.

Nothing here knows the other names of the folder; what needs them (two numbers at the end: coordinates, or a biopsy and
a running number?) is left to ``numbers``. docs/cases.md shows an example for each rule.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Literal, NamedTuple

Rule = Literal["pattern", "slide", "region", "parts", "coordinates", "running number", "folder", "unknown"]
"""How a crop's biopsy was found; ``slide``: from the name of the slide that it lies on; ``region``: QuPath's or
HistomicsTK's box; ``parts``: ``_<stain>_<i>of<n>_``."""

POSITIVE_FOLDER = "globally_sclerotic_glomeruli"
NEGATIVE_FOLDER = "non_globally_sclerotic_glomeruli"
UNLABELLED_FOLDER = "unlabelled_glomeruli"
CLASS_FOLDERS = frozenset({POSITIVE_FOLDER, NEGATIVE_FOLDER, UNLABELLED_FOLDER})
"""Folders that say what a crop shows, not whose it is: never taken for a case."""

_SUFFIXES = frozenset(
    [
        "png",
        "jpg",
        "jpeg",
        "tif",
        "tiff",
        "bmp",
        "webp",
        "ome",
        "svs",
        "ndpi",
        "mrxs",
        "scn",
        "czi",
        "vsi",
        "bif",
        "dcm",
        "isyntax",
        "zarr",
        "qptiff",
    ]
)

# Text that the name must contain (checked first, in lower case, because it is cheap), and the pattern of the name.
_REGIONS = tuple(
    (token, re.compile(pattern, re.DOTALL))
    for token, pattern in (
        # QuPath's TileExporter: <slide> [d=4,x=1,y=4,w=300,h=300,z=1,t=2]; labels and copies carry something behind it.
        (
            "[",
            r"(?P<slide>.+?) ?\[(?:d=[0-9.,]+,)?x=-?[0-9]+,y=-?[0-9]+,w=[0-9]+,h=[0-9]+(?:,[zt]=[0-9]+)*\].*",
        ),
        # Scripts for QuPath that are passed from hand to hand: <slide>-x [y,w,h] and <slide>_(downsample,x,y,w,h).
        ("[", r"(?P<slide>.+?)[-_][0-9]+ ?\[[0-9]+,[0-9]+,[0-9]+\].*"),
        ("(", r"(?P<slide>.+?)[ _-]?\((?:[0-9.]+,)?[0-9]+,[0-9]+(?:,[0-9]+,[0-9]+)?\).*"),
        # HistomicsTK on the Digital Slide Archive: <slide>_id-<hex>_left-x_top-y_bottom-y_right-x.
        ("_left-", r"(?P<slide>.+?)_(?:id-[0-9a-fA-F]+_)?(?:roi-[0-9]+_)?left-[0-9]+_top-[0-9]+.*"),
        # <slide>_x100_y200, <slide>_x_100_y_200, <slide> x=100 y=200, with what follows.
        ("y", r"(?P<slide>.+?)[ _-]+[xX][=_-]?[0-9]+[ ,_-]+[yY][=_-]?[0-9]+(?:[^0-9].*)?"),
    )
)
# The biopsy may hold hyphens and underscores, the stain no underscore.
_PARTS = re.compile(r"(?P<slide>(?P<case>.+?)_[^_]+_[0-9]+of[0-9]+)_.+", re.DOTALL)
_SLIDE_OF_PARTS = re.compile(r"(?P<case>.+?)_[^_]+_[0-9]+of[0-9]+", re.DOTALL)
# As ``infer`` names an outline on a slide: its place in the file, and its id. No image is named so: there is no suffix.
_ON_A_SLIDE = re.compile(r"(?P<slide>.+)#(?:[0-9]{7,}(?:_[0-9A-Za-z-]+)?)?", re.DOTALL)
# Words that say what a file is, never whose: crop-7.png, tile_100_200.png.
_WORDS = (
    r"(?:crops?|gloms?|glomerul(?:us|i)|tiles?|patch(?:es)?|images?|img|rois?|regions?|annotations?|objects?|"
    r"detections?|thumbs?|exports?|exported|outputs?|results?|data|test|train|val(?:idation)?|png|jpe?g|tiff?)"
)
_GENERIC = re.compile(_WORDS, re.IGNORECASE)
# 20x, x40, 10.0x, 20x_256px_0px_overlap (TRIDENT), mag20, 0.5mpp
_MAGNIFICATION = re.compile(
    r"(?:[0-9]{1,3}(?:[.,][0-9]+)? ?x(?:_[0-9]+px.*)?|x ?[0-9]{1,3}|mag[-_ ]?[0-9.]+|[0-9.]+ ?mpp)", re.IGNORECASE
)
_YEAR, _MONTH, _DAY = r"(?:19|20)[0-9]{2}", r"(?:0?[1-9]|1[0-2])", r"(?:0?[1-9]|[12][0-9]|3[01])"
# 2026-11-25, 2026-11, 20261125, 25.11.2026, 11-25-2026, each with a time of day or a word such as "night" beside it.
_DATE = re.compile(
    rf"(?:(?:{_WORDS}|run|night|batch|scans?|slides?)[-_ ]?)?"
    rf"(?:{_YEAR}(?P<a>[-_. ]){_MONTH}(?:(?P=a){_DAY})?|{_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12][0-9]|3[01])"
    rf"|{_DAY}(?P<b>[-_. ]){_MONTH}(?P=b){_YEAR}|{_MONTH}(?P<c>[-_. ]){_DAY}(?P=c){_YEAR})"
    r"(?:[-_ T]+[0-9]{1,2}[-_.:h]?[0-9]{2}(?:[-_.:]?[0-9]{2})?)?",
    re.IGNORECASE,
)


def stem_of(base: str) -> str:
    """A file name without the suffixes of images and slides, however many (``K1-2.ome.tif``: ``K1-2``)."""
    while True:
        stem, _, suffix = base.rpartition(".")
        if not stem or suffix.lower() not in _SUFFIXES:
            return base
        base = stem.rstrip()


class CaseName(NamedTuple):
    """Where a crop comes from: the biopsy, and the slide of that biopsy."""

    case: str
    slide: str


class Reading(NamedTuple):
    """The reading of one name: the rule that matches it, and the biopsy and the slide."""

    rule: Rule
    name: CaseName

    @property
    def case(self) -> str:
        """The biopsy."""
        return self.name.case


@lru_cache(maxsize=4096)
def of_slide(rule: Rule, slide: str) -> Reading | None:
    """The reading of a slide's name: its biopsy where it names the stain and the part, else the slide is the case.

    None if it is empty or only says what a file is (``crop``).
    """
    slide = stem_of(slide.strip()).rstrip(" _-")
    if not slide or _GENERIC.fullmatch(slide):
        return None
    match = _SLIDE_OF_PARTS.fullmatch(slide)
    return Reading(rule, CaseName(match["case"].strip() if match else slide, slide))


def slide_file_of(base: str) -> str | None:
    """The name of the slide that an outline lies on (``S-1.svs#0000007_<id>``); None for the name of a file."""
    match = _ON_A_SLIDE.fullmatch(base) if "#" in base else None
    return match["slide"] if match else None


def by_shape(stem: str) -> Reading | None:
    """The reading of a name whose form is unambiguous; None if it is not."""
    lower = stem.lower()
    for token, pattern in _REGIONS:
        if token in lower and (match := pattern.fullmatch(stem)):
            return of_slide("region", match["slide"])
    if "of" in stem and (match := _PARTS.fullmatch(stem)):
        return Reading("parts", CaseName(match["case"].strip() or match["case"], match["slide"].strip()))
    return None


def is_date(folder: str) -> bool:
    """Whether a folder is named after a day or a month, when something was done: never taken for a biopsy."""
    return _DATE.fullmatch(folder) is not None


def is_no_biopsy(folder: str) -> bool:
    """Whether a folder's name is something other than a biopsy (class, magnification, date)."""
    return (
        folder in CLASS_FOLDERS
        or folder in ("", ".", "..")
        or is_date(folder)
        or any(pattern.fullmatch(folder) for pattern in (_GENERIC, _MAGNIFICATION))
    )


@lru_cache(maxsize=4096)
def by_folder(folders: tuple[str, ...]) -> Reading | None:
    """The nearest folder that may be a biopsy's; ``folders`` outermost first."""
    for index in range(len(folders) - 1, -1, -1):
        folder = folders[index].strip()
        if index and folder.isdecimal() and folders[index - 1].endswith("_files"):
            continue  # DeepZoom: <slide>_files/<level>/<column>_<row>.jpg
        if not is_no_biopsy(folder) and (reading := of_slide("folder", folder.removesuffix("_files"))):
            return reading
    return None
