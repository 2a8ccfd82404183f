"""Names that are read as the name before them: neighbours in a sorted folder mostly come from one slide.

Reading a name takes several microseconds, telling that its reading is that of the last one less than one; a folder may
hold a million.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from glomedge.cases.readings import Reading

# A name that ends in one or two numbers, and the suffix.
_ENDS = {
    1: re.compile(r"(?P<begin>.*[-_])(?P<middle>)[0-9]+(?P<end>[^0-9]*)", re.DOTALL),
    2: re.compile(r"(?P<begin>.*[-_])[0-9]+(?P<middle>[-_])[0-9]+(?P<end>[^0-9]*)", re.DOTALL),
}


class Read(NamedTuple):
    """What a name was found to say.

    Attributes:
        reading: rule, biopsy and slide.
        sure: whether the name is unambiguous.
        free_numbers: how many numbers at the end of the name may change without changing its reading; 0 if unknown.
    """

    reading: Reading
    sure: bool
    free_numbers: int = 0


class Neighbours:
    """Remembers the last name that was read, and tells which of the next ones are read in the same way.

    Attributes:
        numbers: after ``again`` found it so, those at the end of the name that may differ.
    """

    def __init__(self) -> None:
        self._last: Read | None = None
        self._begin = self._middle = self._end = ""
        self._is_parts = False
        self.numbers: tuple[str, ...] = ()

    def keep(self, name: str, read: Read) -> Read:
        """Compare the next names with this one; returns ``read``."""
        self._last = None
        case, slide = read.reading.name
        if read.reading.rule == "parts":
            begin = f"{slide}_"
            folder, slash, base = name.rpartition("/")
            # Not where blanks or Unicode's forms were put right.
            if slide.startswith(f"{case}_") and base.startswith(begin):
                self._last, self._is_parts, self._begin = read, True, folder + slash + begin
        elif read.free_numbers and (match := _ENDS[read.free_numbers].fullmatch(name)):
            self._last, self._is_parts = read, False
            self._begin, self._middle, self._end = match.group("begin", "middle", "end")
        return read

    def again(self, name: str) -> Read | None:
        """What was kept, if ``name`` says the same; None where that is to be found out."""
        if self._last is None or not name.startswith(self._begin) or not name.isascii():
            return None
        rest = name[len(self._begin) :]
        fits = _behind_a_part(rest) if self._is_parts else self._numbers(rest)
        return self._last if fits else None

    def _numbers(self, rest: str) -> bool:
        if not rest.endswith(self._end):
            return False
        numbers = rest[: len(rest) - len(self._end)]
        if not self._middle:
            self.numbers = (numbers,)
            return numbers.isdecimal()
        first, _, second = numbers.partition(self._middle)
        self.numbers = (first, second)
        return first.isdecimal() and second.isdecimal()


def _behind_a_part(rest: str) -> bool:
    """Whether a name stays one of the rule ``parts``, with the same slide, if that follows ``<stain>_<i>of<n>_``.

    That rule takes the shortest case that fits: of two names with the same ``<case>_<stain>_<i>of<n>_``, a shorter case
    would fit both. Only a region's box comes before that rule. None begins before the rest and ends in it, because no
    box has an underscore in it, and one that lies wholly before it would have been found in the last name.
    """
    if not rest[:1].isalnum() or "/" in rest:  # what is left of it when the suffix is taken away
        return False
    lower = rest.lower()
    return not ("y" in lower or "[" in lower or "(" in lower or "left-" in lower)
