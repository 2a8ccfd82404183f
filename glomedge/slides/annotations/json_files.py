"""JSON annotation files: QuPath's and the Digital Slide Archive's, in every arrangement that they are written in.

A FeatureCollection, a bare array of Features, a single Feature; one annotation of the archive, one with its record
around it (``{"annotation": {...}}``, as the archive's web interface gives it), or an array of either.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from glomedge.slides.annotations.dsa import outline_of_element
from glomedge.slides.annotations.geojson import outlines_of_feature
from glomedge.slides.annotations.json_stream import JsonReader
from glomedge.slides.annotations.outline import Outline
from glomedge.slides.annotations.source import Source


def json_outlines(source: Source) -> Iterator[Outline]:
    """Every outline of a JSON file, in order. Raises AnnotationError."""
    walk = _Walk(source)
    yield from walk.root()


class _Walk:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._reader = JsonReader(source)
        self._place = 0

    def root(self) -> Iterator[Outline]:
        reader = self._reader
        if reader.peek() == "[":
            for _ in reader.elements():
                yield from self._object()
        else:
            yield from self._object()
        reader.end()

    def _object(self, inside_record: bool = False) -> Iterator[Outline]:
        """A FeatureCollection, a Feature, an annotation or the record around one: known by its members alone.

        A record stands around an annotation, never around another record.
        """
        reader = self._reader
        members: dict[str, Any] = {}
        found = False
        if reader.peek() != "{":
            raise self._source.refuse(
                "it is JSON, but an entry of it is no object. Export the annotations as GeoJSON (QuPath) or JSON (DSA)."
            )
        layer = _Layer()
        for key in reader.items():
            if key in ("features", "elements") and reader.peek() == "[":
                found = True
                for _ in reader.elements():
                    yield from self._feature(reader.value()) if key == "features" else layer.add(self._element(reader))
            elif key == "annotation" and not inside_record and reader.peek() == "{":
                found = True
                yield from self._object(inside_record=True)
            else:
                members[key] = reader.value()
                if key == "name" and isinstance(members[key], str):
                    layer.name = members[key]
        yield from layer.rest()
        if found:
            return
        if members.get("type") == "Feature" or "geometry" in members:
            yield from self._feature(members)
        elif not _is_empty_annotation(members):
            raise self._source.refuse(
                "it is JSON, but neither GeoJSON of QuPath nor an annotation of the Digital Slide Archive: it has no "
                "'features' and no 'elements'. Export the annotations in one of these formats."
            )

    def _feature(self, feature: Any) -> Iterator[Outline]:
        for outline in outlines_of_feature(feature, self._place):
            self._place += 1
            yield outline

    def _element(self, reader: JsonReader) -> Outline:
        self._place += 1
        return outline_of_element(reader.value(), self._place - 1)


def _is_empty_annotation(members: dict[str, Any]) -> bool:
    return "elements" in members or ("name" in members and "attributes" in members)


class _Layer:
    """One annotation of the archive, whose name may stand after its elements: those that need it are held back."""

    def __init__(self) -> None:
        self.name: str | None = None
        self._held: list[Outline] = []

    def add(self, outline: Outline) -> Iterator[Outline]:
        if self.name is None and (self._held or not outline.label.class_name):
            self._held.append(outline)
        else:
            yield self._named(outline)

    def rest(self) -> Iterator[Outline]:
        yield from map(self._named, self._held)
        self._held.clear()

    def _named(self, outline: Outline) -> Outline:
        """The outline, with the layer's name for its class where it has none of its own."""
        if outline.label.class_name or not self.name:
            return outline
        return replace(outline, label=replace(outline.label, class_name=self.name))
