"""JSON read piece by piece: a file of 100,000 outlines is never in memory as a whole.

The values themselves are decoded by the standard library, at its speed and with its leniency: QuPath writes ``NaN``
among measurements, which JSON does not have and strict parsers refuse.
"""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import Any

from glomedge.errors import AnnotationError
from glomedge.slides.annotations.source import Source

MAX_VALUE_CHARACTERS = 16 << 20
"""Of one outline with all that belongs to it."""
_CHUNK_BYTES = 1 << 18
_BLANKS = " \t\r\n"
# A number, literal or escape that is cut at the end of the buffer is reported at most this far before it.
_CUT_CHARACTERS = 12


class JsonReader:
    """Reads values, or walks through objects and arrays. Every method raises AnnotationError on what is no JSON."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._decoder = json.JSONDecoder()
        self._bytes = codecs.getincrementaldecoder("utf-8")()
        self._text = ""
        self._at = 0
        self._gone = 0  # characters before the buffer
        self._ended = False

    def peek(self) -> str:
        """The next character that is not blank; empty at the end of the file."""
        while True:
            while self._at < len(self._text):
                if self._text[self._at] not in _BLANKS:
                    return self._text[self._at]
                self._at += 1
            if not self._more():
                return ""

    def value(self) -> Any:
        """The next value, whole."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                cut = error.pos >= len(self._text) - _CUT_CHARACTERS or error.msg.startswith("Unterminated string")
                if cut and self._more():
                    continue
                raise self._refuse(error.msg, error.pos) from None
            except ValueError as error:  # an integer of thousands of digits
                raise self._refuse(str(error), self._at) from None
            except RecursionError:
                raise self._refuse("objects are nested too deeply", self._at) from None
            if end == len(self._text) and self._more():
                continue  # a number may go on
            self._at = end
            return value

    def items(self) -> Iterator[str]:
        """The keys of the object that comes next; whoever gets a key reads its value before asking for another."""
        self._expect("{")
        if self.peek() == "}":
            self._at += 1
            return
        while True:
            if self.peek() != '"':
                raise self._refuse("a name in double quotes is expected", self._at)
            key: str = self.value()
            self._expect(":")
            yield key
            if self._either(",", "}") == "}":
                return

    def elements(self) -> Iterator[None]:
        """Once for each element of the array that comes next, to be read before the next one."""
        self._expect("[")
        if self.peek() == "]":
            self._at += 1
            return
        while True:
            yield None
            if self._either(",", "]") == "]":
                return

    def end(self) -> None:
        """Nothing but blanks may follow."""
        if self.peek():
            raise self._refuse("there is text after the end", self._at)

    def _expect(self, character: str) -> None:
        if self.peek() != character:
            raise self._refuse(f"{character!r} is expected", self._at)
        self._at += 1

    def _either(self, further: str, closing: str) -> str:
        found = self.peek()
        if found not in (further, closing):
            raise self._refuse(f"{further!r} or {closing!r} is expected", self._at)
        self._at += 1
        return found

    def _more(self) -> bool:
        """Read on; the buffer at least doubles, so that a long value is not decoded again for every chunk."""
        if self._ended:
            return False
        rest = len(self._text) - self._at
        if rest > MAX_VALUE_CHARACTERS:
            raise self._source.refuse(
                f"one of its objects has more than {MAX_VALUE_CHARACTERS >> 20} million characters. Export the "
                "annotations again, only the glomeruli."
            )
        data = self._source.read(max(_CHUNK_BYTES, rest))
        try:
            text = self._bytes.decode(data, final=not data)
        except UnicodeDecodeError:
            raise self._source.refuse("its text is not UTF-8. Save it as UTF-8.") from None
        self._ended = not data
        self._gone += self._at
        self._text, self._at = self._text[self._at :] + text, 0
        return bool(data)

    def _refuse(self, what: str, position: int) -> AnnotationError:
        if position >= len(self._text) and self._ended:
            what = "the file ends too early"
        return self._source.refuse(
            f"it is damaged at character {self._gone + position:,}: {what}. Export the annotations again."
        )
