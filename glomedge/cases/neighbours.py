"""Names that are read as the name before them: neighbours in a sorted folder mostly come from one slide.

Reading a name takes several microseconds, telling that its reading is that of the last one less than one; a folder may
hold a million.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from glomedge.cases.readings import Reading

# A name that ends in one or two numbers, and the suffix.
_ENDS = {
    1: re.compile(r"(?P<begin>.*[-_])[0-9]+(?P<middle>)(?P<end>[^0-9]*)", re.DOTALL),
    2: re.compile(r"(?P<begin>.*[-_])[0-9]+(?P<middle>[-_])[0-9]+(?P<end>[^0-9]*)", re.DOTALL),
}
# What may follow <case>_<stain>_<i>of<n>_ in a name of the rule ``parts``. That rule takes the shortest case that fits:
# of two names with the same <case>_<stain>_<i>of<n>_, a shorter case would fit both. Only a region's box comes before
# that rule. None begins before the rest and ends in it, because no box has an underscore in it, and one that lies
# wholly before it would have been found in the last name. So a rest without what a box needs (``[``, ``(``, ``y`` or
# ``left-``) changes nothing. ASCII, so that Unicode's forms stay as they are; a letter or digit first, so that
# something is left of it without its suffix.
_PLAIN = r"[^\u0080-\U0010ffffyY\[(/-]*"
_BEHIND_PARTS = re.compile(rf"[0-9A-Za-z]{_PLAIN}(?:(?<![tT])-{_PLAIN})*")


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
        self._begin = ""
        self._rest = _BEHIND_PARTS
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
                self._last, self._begin, self._rest = read, folder + slash + begin, _BEHIND_PARTS
        elif read.free_numbers and (match := _ENDS[read.free_numbers].fullmatch(name)):
            self._last, self._begin = read, match["begin"]
            self._rest = _numbers(match["middle"], match["end"])
        return read

    def again(self, name: str) -> Read | None:
        """What was kept, if ``name`` says the same; None where that is to be found out."""
        if self._last is None or not name.startswith(self._begin):
            return None
        if not (match := self._rest.fullmatch(name, len(self._begin))):
            return None
        self.numbers = match.groups()
        return self._last


@lru_cache(maxsize=256)
def _numbers(middle: str, end: str) -> re.Pattern[str]:
    """One number, or two with ``middle`` between them, then ``end``."""
    numbers = f"([0-9]+){re.escape(middle)}([0-9]+)" if middle else "([0-9]+)"
    return re.compile(numbers + re.escape(end))
