"""Overview pictures of slides for the run report: the glomeruli marked by class, each mark a link to its crop."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from markupsafe import Markup

from glomedge.reports import html
from glomedge.results.rows import OutlineFacts, Row

MAX_OVERVIEWS = 100
"""Pictures of slides in one report; each takes some 50 kB."""
LONGER_SIDE_PX = 640
"""Of a picture."""
_LEAST_SHARE = 0.018
"""Least side of a mark as a share of the slide's longer side: a glomerulus may be one pixel of the picture."""


class Overview(NamedTuple):
    """One slide.

    Attributes:
        jpeg: picture of the part that is shown; None where the slide could not be read.
        left_px, top_px, width_px, height_px: that part, in level-0 pixels.
        outlines: how many of the slide's outlines are rows of the run.
    """

    jpeg: bytes | None
    left_px: int
    top_px: int
    width_px: int
    height_px: int
    outlines: int


class Mark(NamedTuple):
    """One glomerulus, in level-0 pixels; ``target`` is the element that a click leads to."""

    x: float
    y: float
    width: float
    height: float
    classes: str
    target: str
    title: str


class SlideFigure(NamedTuple):
    """One overview as the page draws it."""

    name: str
    view_box: str
    picture: Markup | None
    overview: Overview
    marks: list[Mark]
    caption: str


def anchor(outline: OutlineFacts) -> str:
    """The id of a crop's figure in the page."""
    return f"crop-{outline.number}"


class SlideFigures(NamedTuple):
    """The overviews of each case, in the order of the slides, made while they are drawn; of how many slides in all."""

    of_cases: dict[str, Iterator[SlideFigure]]
    shown: int
    slides: int


def slide_figures(
    rows: Iterable[Row], errors: Iterable[Row], overview: Callable[[str], Overview | None]
) -> SlideFigures:
    """The overviews that a page has.

    Args:
        rows: with a crop in the page.
        errors: rows without an answer; those with a box are marked as well.
        overview: of a slide by its path as the rows have it; None where there is none to show.
    """
    of_slides: dict[str, dict[str, list[Row]]] = {}
    for row in (*rows, *errors):
        if row.outline is not None and row.outline.x is not None:
            of_slides.setdefault(row.case, {}).setdefault(row.path.rpartition("#")[0], []).append(row)
    every = sorted(slide for slides in of_slides.values() for slide in slides)
    shown = set(every[:MAX_OVERVIEWS])
    figures = {case: _figures(slides, shown, overview) for case, slides in of_slides.items()}
    return SlideFigures(figures, len(shown), len(every))


def _figures(
    slides: dict[str, list[Row]], shown: set[str], overview: Callable[[str], Overview | None]
) -> Iterator[SlideFigure]:
    for slide, rows in sorted(slides.items()):
        found = overview(slide) if slide in shown else None
        if found is not None:
            yield _figure(slide, rows, found)


def _figure(slide: str, rows: list[Row], overview: Overview) -> SlideFigure:
    least_px = _LEAST_SHARE * max(overview.width_px, overview.height_px)
    name = rows[0].slide
    count = f"{len(rows)} of {overview.outlines}" if len(rows) < overview.outlines else f"{len(rows)}"
    positive = sum(row.label == 1 for row in rows)
    failed = sum(row.failed for row in rows)
    parts = [
        f"{positive} GS",
        f"{len(rows) - positive - failed} not",
        *([f"{failed} without an answer"] if failed else []),
    ]
    return SlideFigure(
        name=name,
        view_box=f"{overview.left_px} {overview.top_px} {overview.width_px} {overview.height_px}",
        picture=None if overview.jpeg is None else html.data_uri("jpeg", overview.jpeg),
        overview=overview,
        marks=[_mark(row, row.outline, least_px) for row in rows if row.outline is not None],
        caption=f"{name}: {count} marked ({', '.join(parts)})",
    )


def _mark(row: Row, outline: OutlineFacts, least_px: float) -> Mark:
    x, y, width, height = (float(value or 0) for value in outline[3:7])
    wide, high = max(width, least_px), max(height, least_px)
    called = "error" if row.failed else "GS" if row.label else "not GS"
    probability = "" if row.probability is None else f" {row.probability:.3f}"
    return Mark(
        x=round(x - (wide - width) / 2, 1),
        y=round(y - (high - height) / 2, 1),
        width=round(wide, 1),
        height=round(high, 1),
        classes="none" if row.failed else "gs" if row.label else "other",
        target="errors" if row.failed else anchor(outline),
        title=f"{called}{probability} {outline.annotation_id}".strip(),
    )
