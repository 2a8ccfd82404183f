"""XML annotation files, read by expat as they come in. Entities are refused: no format of outlines has any.

An entity can grow to gigabytes out of a few lines, or name another file of the machine.
"""

from __future__ import annotations

import xml.parsers.expat as expat
from collections.abc import Iterator, Mapping
from typing import Protocol

from glomedge.slides.annotations.aperio import AperioHandler
from glomedge.slides.annotations.asap import AsapHandler
from glomedge.slides.annotations.outline import Outline
from glomedge.slides.annotations.source import Source

_CHUNK_BYTES = 1 << 16
_MAX_TOKEN_BYTES = 1 << 20
_MAX_DEPTH = 64


class Handler(Protocol):
    """Turns the elements of one format into outlines."""

    done: list[Outline]
    """Outlines that are complete, for the reader to take away."""

    def start(self, tag: str, attributes: Mapping[str, str]) -> None:
        """An element begins."""

    def end(self, tag: str) -> None:
        """An element ends."""


_ROOTS: dict[str, type[AperioHandler] | type[AsapHandler]] = {
    "Annotations": AperioHandler,
    "ASAP_Annotations": AsapHandler,
}


def xml_outlines(source: Source) -> Iterator[Outline]:
    """Every outline of an ImageScope or ASAP file, in order. Raises AnnotationError."""
    walk = _Walk(source)
    parser = expat.ParserCreate()
    # Attributes as they stand: expat gathers neighbouring text, of which these formats have none.
    parser.StartElementHandler = walk.start
    parser.EndElementHandler = walk.end
    parser.EntityDeclHandler = walk.entity
    parser.ExternalEntityRefHandler = walk.entity
    parser.SetParamEntityParsing(expat.XML_PARAM_ENTITY_PARSING_NEVER)
    fed = 0
    while True:
        data = source.read(_CHUNK_BYTES)
        try:
            parser.Parse(data, not data)
        except expat.ExpatError as error:
            reason = expat.errors.messages.get(error.code, "unknown").strip()
            raise source.refuse(
                f"it is damaged at line {error.lineno:,}: {reason}. Export the annotations again."
            ) from None
        except (LookupError, ValueError) as error:  # an encoding that expat cannot read
            raise source.refuse(f"its encoding cannot be read ({error}). Save it as UTF-8.") from None
        fed += len(data)
        if fed - max(0, parser.CurrentByteIndex) > _MAX_TOKEN_BYTES:
            raise source.refuse(
                f"one of its tags has more than {_MAX_TOKEN_BYTES >> 20} MB. Export the annotations again."
            )
        yield from walk.take()
        if not data:
            return


class _Walk:
    def __init__(self, source: Source) -> None:
        self._source = source
        self._handler: Handler | None = None
        self._depth = 0

    def start(self, tag: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        if self._depth > _MAX_DEPTH:
            raise self._source.refuse("its elements are nested too deeply. Export the annotations again.")
        if self._handler is None:
            kind = _ROOTS.get(tag)
            if kind is None:
                raise self._source.refuse(
                    f"it is XML, but its root <{tag[:40]}> is neither ImageScope's <Annotations> nor ASAP's "
                    "<ASAP_Annotations>. Export the annotations from one of these programs."
                )
            self._handler = kind()
        self._handler.start(tag, attributes)

    def end(self, tag: str) -> None:
        self._depth -= 1
        if self._handler is not None:
            self._handler.end(tag)

    def entity(self, *_: object) -> int:
        raise self._source.refuse(
            "it defines XML entities, which no annotation program writes and which can harm a machine. Export the "
            "annotations again, or remove the DOCTYPE."
        )

    def take(self) -> list[Outline]:
        if self._handler is None:
            return []
        done, self._handler.done = self._handler.done, []
        return done
