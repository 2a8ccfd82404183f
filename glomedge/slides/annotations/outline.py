"""One outline of an annotation file, whatever the format it was read from.

Coordinates are level-0 pixels of the slide, x to the right and y down, as they stand in the file.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from glomedge.errors import MissingExtraError

SourceFormat = Literal["geojson", "dsa", "aperio", "asap", "csv"]
"""``geojson``: QuPath's; ``dsa``: Digital Slide Archive; ``aperio``: ImageScope XML; ``csv``: a table of boxes."""
Ring = npt.NDArray[np.float64]
"""Points of a closed line, float64 ``[n, 2]`` (x, y in level-0 pixels); the first point is not repeated at the end."""

MAX_COORDINATE_PX = 10_000_000.0
"""No slide is that wide: what lies beyond is a damaged number."""
MAX_TEXT_CHARACTERS = 300
"""Of an id, a class or a name; what is longer is cut there."""
_CONTROLS, _SURROGATES = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029]"), re.compile("[\ud800-\udfff]")
_ELLIPSE_POINTS = 64
UNCLASSIFIED = "Unclassified"
"""What an outline without a class is called in messages and by ``--class``, as in QuPath."""


def plain_text(text: str) -> str:
    """A text of a file that any table can hold: at most 300 characters, none of which is a control character.

    A control character or line end becomes a blank; half of a surrogate pair, which has no UTF-8, becomes U+FFFD.
    """
    text = text[:MAX_TEXT_CHARACTERS]
    if text.isprintable():
        return text
    return _SURROGATES.sub("\ufffd", _CONTROLS.sub(" ", text))


class Polygon(NamedTuple):
    """One part of an outline."""

    exterior: Ring
    holes: tuple[Ring, ...] = ()


class Bounds(NamedTuple):
    """The smallest and largest coordinates of an outline as it was drawn, in level-0 pixels."""

    min_x: float
    min_y: float
    max_x: float
    max_y: float


@dataclass(frozen=True, slots=True)
class Label:
    """What an annotation file says about an outline besides its shape; empty where it says nothing.

    Every text is made safe for tables and messages by ``plain_text``.

    Attributes:
        id: as it stands in the file.
        class_name: the class it was given.
        name: a person's own text.
        layer: number of the layer it lies on, where layers have no names (ImageScope).
    """

    id: str = ""
    class_name: str = ""
    name: str = ""
    layer: str = ""

    def __post_init__(self) -> None:
        """Make every text safe."""
        for key in ("id", "class_name", "name", "layer"):
            object.__setattr__(self, key, plain_text(getattr(self, key)))


@dataclass(frozen=True, slots=True, eq=False)
class Outline:
    """One outline.

    Attributes:
        label: its id, class and name in the file.
        source: the format of the file.
        place: number of the outline in the file, from 0 in the order of the file; in a CSV the line, from 1.
        polygons: its parts; none where ``error`` is set.
        bounds: of the outline as drawn, before any repair: what the crop is cut by. None where ``error`` is set.
        flags: ``repaired`` where the outline crossed itself or was not closed.
        error: why it stands for no area (a code as in ``ImageError``): ``outline`` or ``no_area``; None where it does.
        detail: the reason in words.
    """

    label: Label
    source: SourceFormat
    place: int
    polygons: tuple[Polygon, ...] = ()
    bounds: Bounds | None = None
    flags: tuple[str, ...] = ()
    error: str | None = None
    detail: str = ""

    @property
    def id(self) -> str:
        """As it stands in the file; empty where it has none."""
        return self.label.id

    @property
    def shown_class(self) -> str:
        """Its class for messages and for ``--class``: the class, ``layer 3``, or ``Unclassified``."""
        if self.label.class_name:
            return self.label.class_name
        return f"layer {self.label.layer}" if self.label.layer else UNCLASSIFIED


def failed(label: Label, source: SourceFormat, place: int, detail: str, error: str = "outline") -> Outline:
    """An outline that cannot be used."""
    return Outline(label, source, place, error=error, detail=plain_text(detail))


def build(
    label: Label, source: SourceFormat, place: int, parts: Iterable[Sequence[Any]], flags: tuple[str, ...] = ()
) -> Outline:
    """An outline from the points of a file: checked, and repaired where it crosses itself.

    Args:
        label: its id, class and name.
        source: the format of the file.
        place: its number in the file.
        parts: its polygons, each a sequence of rings of which the first is the exterior. A point is two or more
            numbers; a repeated last point is dropped.
        flags: found so far.

    Returns:
        The outline, with ``error`` set where its points are no numbers, out of range, or enclose nothing.
    """
    try:
        polygons = [Polygon(rings[0], tuple(rings[1:])) for rings in (_rings(part) for part in parts) if rings]
    except _BadPointsError as problem:
        return failed(label, source, place, str(problem))
    if not polygons:
        return failed(label, source, place, "it has no points")
    corners = np.concatenate([polygon.exterior for polygon in polygons])
    bounds = Bounds(*map(float, (*corners.min(axis=0), *corners.max(axis=0))))
    polygons, repaired = repair(polygons)
    if not polygons:
        return failed(label, source, place, "it encloses no area")
    flags = tuple(dict.fromkeys((*flags, *(["repaired"] if repaired else []))))
    return Outline(label, source, place, tuple(polygons), bounds, flags)


class _BadPointsError(Exception):
    pass


def _rings(part: Any) -> list[Ring]:
    if not isinstance(part, (list, tuple)):
        raise _BadPointsError("a part of it is not a list of rings")
    return [_ring(points) for points in part]


def _ring(points: Any) -> Ring:
    try:
        ring = np.asarray(points, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise _BadPointsError("a point of it is not two numbers") from None
    if ring.ndim != 2 or ring.shape[1] < 2:
        raise _BadPointsError("it has no points" if ring.size == 0 else "a point of it is not two numbers")
    ring = np.array(ring[:, :2])
    # NaN fails this comparison too.
    if not (np.abs(ring) <= MAX_COORDINATE_PX).all():
        raise _BadPointsError("a coordinate of it is out of range")
    if len(ring) > 1 and (ring[0] == ring[-1]).all():
        ring = ring[:-1]
    if len(ring) < 3:
        raise _BadPointsError("it has fewer than three points")
    return ring


def shapely_module() -> Any:
    """The package shapely. Raises MissingExtraError."""
    try:
        import shapely
    except ImportError:
        raise MissingExtraError("Reading outlines", "shapely", "slides") from None
    return shapely


def repair(polygons: list[Polygon]) -> tuple[list[Polygon], bool]:
    """The polygons as they are, or, where they cross themselves or each other, what shapely makes of them.

    Returns:
        The polygons, none where they enclose no area; and whether they had to be repaired.
    """
    shapely = shapely_module()
    shapes = [shapely.Polygon(polygon.exterior, polygon.holes) for polygon in polygons]
    shape = shapes[0] if len(shapes) == 1 else shapely.MultiPolygon(shapes)
    if shape.is_valid:
        return (polygons if shape.area > 0 else []), False
    parts = shapely.get_parts(shapely.make_valid(shape))
    areas = [area for part in parts for area in shapely.get_parts(part) if area.geom_type == "Polygon"]
    return [_polygon(area) for area in areas if area.area > 0], True


def _polygon(shape: Any) -> Polygon:
    return Polygon(
        np.array(shape.exterior.coords)[:-1, :2], tuple(np.array(ring.coords)[:-1, :2] for ring in shape.interiors)
    )


def moved(outline: Outline, by_x: float, by_y: float) -> Outline:
    """The outline at another place: QuPath counts from the corner of what was scanned, the slide from its own."""
    if outline.bounds is None or (by_x == 0 and by_y == 0):
        return outline
    by = np.array([by_x, by_y])
    low_x, low_y, high_x, high_y = outline.bounds
    return replace(
        outline,
        polygons=tuple(
            Polygon(part.exterior + by, tuple(hole + by for hole in part.holes)) for part in outline.polygons
        ),
        bounds=Bounds(low_x + by_x, low_y + by_y, high_x + by_x, high_y + by_y),
    )


def rectangle(x: float, y: float, width: float, height: float) -> list[list[tuple[float, float]]]:
    """The one ring of a box that begins at its upper left corner."""
    right, lower = x + width, y + height
    return [[(x, y), (right, y), (right, lower), (x, lower)]]


def ellipse(
    centre: tuple[float, float], radii: tuple[float, float], rotation_radians: float = 0.0
) -> list[list[tuple[float, float]]]:
    """The one ring of an ellipse, as 64 points; those at the ends of both axes are among them."""
    turns = np.linspace(0, 2 * np.pi, _ELLIPSE_POINTS, endpoint=False)
    # Exact at the ends of the axes, so that the box of an upright ellipse is the box that it was drawn by.
    along = np.round(np.cos(turns), 15) * radii[0]
    across = np.round(np.sin(turns), 15) * radii[1]
    cosine, sine = np.cos(rotation_radians), np.sin(rotation_radians)
    x = centre[0] + along * cosine - across * sine
    y = centre[1] + along * sine + across * cosine
    return [list(zip(x.tolist(), y.tolist(), strict=True))]
