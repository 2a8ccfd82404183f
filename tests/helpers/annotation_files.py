"""Annotation files of every format but QuPath's, small and whole."""

from __future__ import annotations

import json
from typing import Any

HEX = "5f3a{:020x}"
"""Ids as the Digital Slide Archive makes them."""
SQUARE = [[10, 20, 0], [110, 20, 0], [110, 140, 0], [10, 140, 0]]


def polyline(number: int = 1, **changes: Any) -> dict[str, Any]:
    """A closed outline of the Digital Slide Archive."""
    made = {"type": "polyline", "closed": True, "points": SQUARE, "id": HEX.format(number), "group": "glomeruli"}
    return {**made, **changes}


def dsa(*elements: Any, **others: Any) -> dict[str, Any]:
    """An annotation of the Digital Slide Archive."""
    return {"name": "my layer", "description": "", "attributes": {}, "elements": list(elements), **others}


def encoded(document: Any) -> bytes:
    """As JSON."""
    return json.dumps(document).encode()


def aperio(*layers: str) -> bytes:
    """An ImageScope file of these layers."""
    return f'<Annotations MicronsPerPixel="0.25">{"".join(layers)}</Annotations>'.encode()


def layer(*regions: str, identity: int = 1, name: str = "") -> str:
    """One ``Annotation``."""
    inside = "".join(regions)
    return f'<Annotation Id="{identity}" Name="{name}" LineColor="65280"><Regions>{inside}</Regions></Annotation>'


def region(identity: int, *points: tuple[float, float], **attributes: object) -> str:
    """One ``Region``; attributes as ImageScope names them."""
    given = {"Type": 0, "NegativeROA": 0, "Text": "", **attributes}
    shown = " ".join(f'{name}="{value}"' for name, value in given.items())
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in points)
    return f'<Region Id="{identity}" {shown}><Vertices>{vertices}</Vertices></Region>'


def asap(*annotations: str) -> bytes:
    """An ASAP file."""
    inside = "".join(annotations)
    return f"<?xml version='1.0'?><ASAP_Annotations><Annotations>{inside}</Annotations></ASAP_Annotations>".encode()


def asap_annotation(name: str, *points: tuple[float, float], kind: str = "Polygon", group: str = "glomeruli") -> str:
    """One ``Annotation`` of ASAP, its points in reverse with their order."""
    numbered = reversed([f'<Coordinate Order="{at}" X="{x}" Y="{y}"/>' for at, (x, y) in enumerate(points)])
    return (
        f'<Annotation Name="{name}" Type="{kind}" PartOfGroup="{group}" Color="#F4FA58">'
        f"<Coordinates>{''.join(numbered)}</Coordinates></Annotation>"
    )
