"""Names that end in numbers: a running number, or the place on the slide.

``VUHSK_1992-40`` is crop 40; ``S21-1234-100-456`` is a crop at x 100, y 456 of slide S21-1234, and must not make a
biopsy of each x. Which it is, is decided from all names of a folder.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from operator import add as joined
from typing import NamedTuple

_DIGITS = "0123456789"
_SEPARATORS = ("-", "_")
# A biopsy has tens of glomeruli, seldom a hundred, never a thousand; a slide has tens of thousands of pixels a side.
_RUNNING_NUMBERS_END = 100
_PIXELS_BEGIN = 1000
# Tiles are on a grid of at least that many pixels.
_LEAST_TILE_PX = 16
_ENOUGH_NAMES = 5


class Ending(NamedTuple):
    """The numbers at the end of a name: ``S21-1234-100-456`` is ``S21``, ``-`` and (1234, 100, 456).

    Attributes:
        start: the text before them.
        separators: the text before each number; only the last two may differ.
        numbers: as they are written.
    """

    start: str
    separators: tuple[str, ...]
    numbers: tuple[str, ...]

    def without(self, count: int) -> str:
        """The name without its last ``count`` numbers."""
        kept = len(self.numbers) - count
        if not kept:
            return self.start
        return self.start + "".join(map(joined, self.separators[:kept], self.numbers[:kept]))

    @property
    def kind(self) -> tuple[tuple[str, ...], int]:
        """Names of one kind were written by one hand: judged together."""
        return self.separators[-2:], len(self.numbers)


def ending_of(stem: str) -> Ending | None:
    """The numbers at the end of a name, None if it ends in none after ``-`` or ``_``."""
    separators: list[str] = []
    numbers: list[str] = []
    rest = stem
    while (start := rest.rstrip(_DIGITS)) != rest and start[-1:] in _SEPARATORS and start:
        if len(separators) >= 2 and start[-1] != separators[0]:
            break
        separators.insert(0, start[-1])
        numbers.insert(0, rest[len(start) :])
        rest = start[:-1]
        if len(separators) == 2 and separators[0] != separators[1]:
            break  # SESCAM_1_0-50: what stands before is the slide's own
    if not numbers:
        return None
    if rest and not rest.strip(_DIGITS):
        rest, separators, numbers = "", ["", *separators], [rest, *numbers]
    return Ending(rest, tuple(separators), tuple(numbers))


@dataclass(frozen=True)
class Decision:
    """How many numbers at the end are no part of the slide's name, and whether the names leave no doubt."""

    dropped: int
    sure: bool


@dataclass
class Evidence:
    """What the endings of one kind have in common; grows by a few numbers a name, not with their sum."""

    names: int = 0
    first_values: set[tuple[str, str]] = field(default_factory=set)
    first_step: int = 0
    second_step: int = 0
    first_max: int = 0
    second_max: int = 0
    second_large: int = 0
    first_padded: int = 0
    second_padded: int = 0
    _first: tuple[int, int] | None = None
    _last_pair: tuple[str, str] | None = None
    same_last_pair: bool = True

    def add(self, ending: Ending) -> None:
        """Take one more name into account; it must end in two numbers or more."""
        first, second = ending.numbers[-2:]
        self.add_pair(ending.without(2), first, second)

    def add_pair(self, head: str, first: str, second: str) -> None:
        """The same, of the last two numbers and what stands before them."""
        values = int(first), int(second)
        if self._first is None or self._last_pair is None:
            self._first, self._last_pair = values, (first, second)
        self.names += 1
        self.first_values.add((head, first))
        self.first_step = math.gcd(self.first_step, abs(values[0] - self._first[0]))
        self.second_step = math.gcd(self.second_step, abs(values[1] - self._first[1]))
        self.first_max = max(self.first_max, values[0])
        self.second_max = max(self.second_max, values[1])
        self.second_large += values[1] >= _RUNNING_NUMBERS_END
        self.first_padded += first != str(values[0])
        self.second_padded += second != str(values[1])
        self.same_last_pair &= (first, second) == self._last_pair

    def join(self, other: Evidence) -> None:
        """Also take the names of another kind into account."""
        if self._first is None or other._first is None:
            if other._first is not None:
                vars(self).update(vars(other) | {"first_values": set(other.first_values)})
            return
        self.names += other.names
        self.first_values |= other.first_values
        self.first_step = math.gcd(self.first_step, other.first_step, abs(other._first[0] - self._first[0]))
        self.second_step = math.gcd(self.second_step, other.second_step, abs(other._first[1] - self._first[1]))
        self.first_max = max(self.first_max, other.first_max)
        self.second_max = max(self.second_max, other.second_max)
        self.second_large += other.second_large
        self.first_padded += other.first_padded
        self.second_padded += other.second_padded
        self.same_last_pair &= other.same_last_pair and self._last_pair == other._last_pair

    def decide(self, kind: tuple[tuple[str, ...], int]) -> Decision:
        """Running number (one number dropped), coordinates (two) or a box (four)."""
        separators, numbers = kind
        mixed = separators[0] not in ("", separators[-1])  # VUHSK_1992-40: most likely an id and a running number
        alone = len(self.first_values) * 3 > self.names * 2  # nearly every first number is in one name only
        if self._is_box(numbers):
            return Decision(4, self.names >= _ENOUGH_NAMES)
        if self.first_padded and not self.second_padded:
            return Decision(1, sure=True)  # S-1234-000001-5: a padded number is part of an id
        on_grid = min(self.first_step, self.second_step) >= _LEAST_TILE_PX and self.names >= 4
        if on_grid or min(self.first_max, self.second_max) >= _PIXELS_BEGIN:
            return Decision(2, self.names > 1)
        if alone and self.second_large * 2 > self.names and not (mixed and self.names < _ENOUGH_NAMES):
            return Decision(2, self.names >= _ENOUGH_NAMES and not mixed)
        if separators[-2:] == ("_", "_") or (numbers == 2 and separators == ("", "_")):
            return Decision(2, sure=False)
        return Decision(1, sure=mixed or not (alone and self.names >= _ENOUGH_NAMES and self.second_max > 1))

    def _is_box(self, numbers: int) -> bool:
        """x, y, width, height: the last two the same in all names, and of a picture's size."""
        if numbers < 4 or not self.same_last_pair or min(self.first_max, self.second_max) < 2 * _LEAST_TILE_PX:
            return False
        return self.names > 1 or self.first_max == self.second_max
