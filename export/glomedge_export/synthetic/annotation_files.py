"""Outlines of a drawn slide as QuPath, the Digital Slide Archive, ImageScope, ASAP and detectors write them."""

from __future__ import annotations

import csv
import io
import json
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt

_COLOURS = {True: [213, 94, 0], False: [0, 114, 178]}


@dataclass(frozen=True)
class DrawnOutline:
    """One outline.

    Attributes:
        identity: 24 hexadecimal digits, as the archive's.
        class_name: what a person would have called it.
        points: float64 ``[n, 2]``, x and y in level-0 pixels, not closed.
    """

    identity: str
    class_name: str
    points: npt.NDArray[np.float64]


def _colour(outline: DrawnOutline) -> list[int]:
    return _COLOURS[outline.class_name.startswith("globally")]


def geojson(outlines: Sequence[DrawnOutline]) -> str:
    """As QuPath 0.5 exports annotations."""
    features = [
        {
            "type": "Feature",
            "id": str(uuid.uuid5(uuid.NAMESPACE_OID, outline.identity)),
            "geometry": {"type": "Polygon", "coordinates": [[*outline.points.tolist(), outline.points[0].tolist()]]},
            "properties": {
                "objectType": "annotation",
                "classification": {"name": outline.class_name, "color": _colour(outline)},
            },
        }
        for outline in outlines
    ]
    return json.dumps({"type": "FeatureCollection", "features": features}, indent=1)


def dsa(outlines: Sequence[DrawnOutline]) -> str:
    """As the Digital Slide Archive gives one annotation."""
    elements = [
        {
            "type": "polyline",
            "id": outline.identity,
            "group": outline.class_name,
            "closed": True,
            "points": [[x, y, 0] for x, y in outline.points.tolist()],
            "lineColor": "rgb({}, {}, {})".format(*_colour(outline)),
        }
        for outline in outlines
    ]
    return json.dumps({"name": "glomeruli", "description": "", "attributes": {}, "elements": elements}, indent=1)


def aperio(outlines: Sequence[DrawnOutline]) -> str:
    """As ImageScope writes them: one layer for each class."""
    layers = []
    for number, name in enumerate(dict.fromkeys(outline.class_name for outline in outlines), 1):
        regions = []
        for place, outline in enumerate((each for each in outlines if each.class_name == name), 1):
            vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in outline.points.tolist())
            attributes = f'Id="{place}" Type="0" NegativeROA="0" Text=""'
            regions.append(f"   <Region {attributes}><Vertices>{vertices}</Vertices></Region>\n")
        inside = "".join(regions)
        layers.append(
            f'<Annotation Id="{number}" Name={quoteattr(name)} LineColor="65280">\n  <Regions>\n{inside}  </Regions>\n'
            " </Annotation>"
        )
    return f'<Annotations MicronsPerPixel="0.25">\n {" ".join(layers)}\n</Annotations>\n'


def asap(outlines: Sequence[DrawnOutline]) -> str:
    """As ASAP writes them."""
    annotations = []
    for number, outline in enumerate(outlines):
        points = "".join(
            f'<Coordinate Order="{at}" X="{x}" Y="{y}"/>' for at, (x, y) in enumerate(outline.points.tolist())
        )
        annotations.append(
            f'  <Annotation Name="Annotation {number}" Type="Polygon" PartOfGroup={quoteattr(outline.class_name)}'
            f' Color="#F4FA58"><Coordinates>{points}</Coordinates></Annotation>\n'
        )
    inside = "".join(annotations)
    return f'<?xml version="1.0"?>\n<ASAP_Annotations>\n <Annotations>\n{inside} </Annotations>\n</ASAP_Annotations>\n'


def boxes(outlines: Sequence[DrawnOutline]) -> str:
    """A table of boxes, as detectors write them."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "class", "minx", "miny", "width", "height"])
    for outline in outlines:
        low = np.floor(outline.points.min(axis=0)).astype(int)
        size = np.floor(outline.points.max(axis=0)).astype(int) - low
        writer.writerow([outline.identity, outline.class_name, *low.tolist(), *size.tolist()])
    return text.getvalue()


FORMATS: Mapping[str, Callable[[Sequence[DrawnOutline]], str]] = MappingProxyType(
    {".geojson": geojson, ".dsa.json": dsa, ".aperio.xml": aperio, ".asap.xml": asap, ".boxes.csv": boxes}
)
"""Ending of the file name -> the text of the file."""
