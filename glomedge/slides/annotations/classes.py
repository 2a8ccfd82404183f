"""Which outlines of a file are glomeruli, by the class that each of them has.

What a class is called differs between laboratories and detectors. Known names are taken by default; any other is left
out, counted and shown, so that ``--class`` can name it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from glomedge.cases.text import some, tidy
from glomedge.errors import UsageError
from glomedge.slides.annotations.outline import UNCLASSIFIED, Outline

_BLANKS = re.compile(r"[\s_\-/.]+")
# Adjectives that are written before "glomerulus" and "glomeruli".
_KINDS = (
    "globally sclerotic", "globally sclerosed", "non globally sclerotic", "non globally sclerosed",
    "not globally sclerotic", "not globally sclerosed", "segmentally sclerotic", "segmentally sclerosed", "sclerotic",
    "sclerosed", "non sclerotic", "non sclerosed", "nonsclerotic", "obsolescent", "normal", "abnormal",
)  # fmt: skip
_NOUNS = ("glomerulus", "glomeruli", "glom", "gloms")
_GLOBALLY_SCLEROTIC = frozenset({"globally sclerotic", "globally sclerosed"})
_NOT_GLOBALLY_SCLEROTIC = frozenset(
    f"{no} globally {word}" for no in ("non", "not") for word in ("sclerotic", "sclerosed")
)
KNOWN_CLASSES = frozenset(
    {*_NOUNS, *(f"{kind} {noun}" for kind in _KINDS for noun in _NOUNS), *_GLOBALLY_SCLEROTIC, *_NOT_GLOBALLY_SCLEROTIC}
)
"""Names that are taken without ``--class``, as ``normalised`` gives them."""


def normalised(class_name: str) -> str:
    """A class name for comparison: lower case, and one blank for blanks, hyphens, underscores, slashes and dots."""
    return _BLANKS.sub(" ", tidy(class_name).casefold()).strip()


def _parts(class_name: str) -> list[str]:
    """The class, and the parts of a derived one (QuPath: ``Glomerulus: Globally sclerotic``)."""
    return [normalised(class_name), *(normalised(part) for part in class_name.split(":"))]


def is_known(class_name: str) -> bool:
    """Whether a class is one of glomeruli by its name."""
    return any(part in KNOWN_CLASSES for part in _parts(class_name))


def label_of(class_name: str) -> int | None:
    """1 where the class says globally sclerotic, 0 where it says not so, None where it says neither."""
    labels = set()
    for part in _parts(class_name):
        kind = next((part.removesuffix(f" {noun}") for noun in _NOUNS if part.endswith(f" {noun}")), part)
        labels |= {1} if kind in _GLOBALLY_SCLEROTIC else {0} if kind in _NOT_GLOBALLY_SCLEROTIC else set()
    return labels.pop() if len(labels) == 1 else None


@dataclass
class Survey:
    """How many outlines of each class a file has.

    Attributes:
        classes: class as ``Outline.shown_class`` -> outlines.
        unclassified: those of ``classes`` that are no class: ``Unclassified`` and ``layer 3``.
    """

    classes: Counter[str] = field(default_factory=Counter)
    unclassified: set[str] = field(default_factory=set)

    def add(self, outline: Outline) -> None:
        """Count one outline."""
        shown = outline.shown_class
        self.classes[shown] += 1
        if not outline.label.class_name:
            self.unclassified.add(shown)


def survey(outlines: Iterable[Outline]) -> Survey:
    """Count the classes of a file, in one pass over it."""
    found = Survey()
    for outline in outlines:
        found.add(outline)
    return found


@dataclass(frozen=True)
class Choice:
    """The classes that are glomeruli.

    Attributes:
        taken: class as ``Outline.shown_class`` -> outlines, of those that are taken.
        left_out: the same of the others.
    """

    taken: dict[str, int]
    left_out: dict[str, int]

    def takes(self, outline: Outline) -> bool:
        """Whether an outline is one of them."""
        return outline.shown_class in self.taken

    def sentence(self) -> str:
        """What was taken and left out, with counts."""
        text = f"Taken as glomeruli: {_counted(self.taken)}."
        if self.left_out:
            text += f" Left out by class: {_counted(self.left_out)} (--class takes them instead)."
        return text


def choose(name: str, found: Survey, wanted: Sequence[str] = ()) -> Choice:
    """Decide which classes are glomeruli.

    Args:
        name: the file's, for messages.
        found: its classes.
        wanted: classes named by the user; ``Unclassified`` is those without one. Letter case, hyphens and underscores
            do not matter. Empty: the known names; in a file without any class, all its outlines.

    Raises:
        UsageError: there is no outline, none is taken, or a class that the user named is not in the file.
    """
    if not found.classes:
        raise UsageError(f"{name} holds no outline. Outline the glomeruli, and export the annotations again.")
    if wanted:
        taken = _wanted(name, found, wanted)
    else:
        taken = [shown for shown in found.classes if shown not in found.unclassified and is_known(shown)]
        if not taken and set(found.classes) == found.unclassified:
            taken = _all_of_one_layer(name, found)
    if not taken:
        raise UsageError(
            f"{name}: none of its classes is known to be glomeruli: {_counted(found.classes)}. Name those that are, "
            "for example: --class Glomerulus"
        )
    return Choice(
        {shown: count for shown, count in found.classes.items() if shown in taken},
        {shown: count for shown, count in found.classes.items() if shown not in taken},
    )


def _wanted(name: str, found: Survey, wanted: Sequence[str]) -> list[str]:
    names = {normalised(each): each for each in wanted}
    parts = {shown: set(_parts(shown)) for shown in found.classes}
    for shown in found.unclassified:  # those on a layer without a name are shown as "layer 3", and have no class either
        parts[shown].add(normalised(UNCLASSIFIED))
    taken = [shown for shown in found.classes if not names.keys().isdisjoint(parts[shown])]
    present = set().union(*parts.values())
    missing = [each for part, each in names.items() if part not in present]
    if missing:
        raise UsageError(f"{name} has no class {some(missing)}; it has {_counted(found.classes)}. Correct --class.")
    return taken


def _all_of_one_layer(name: str, found: Survey) -> list[str]:
    if len(found.classes) > 1:
        raise UsageError(
            f"{name} has several layers without names: {_counted(found.classes)}. Say which are glomeruli, such as: "
            f"--class '{next(iter(found.classes))}'"
        )
    return list(found.classes)


def _counted(classes: dict[str, int]) -> str:
    most = sorted(classes.items(), key=lambda entry: (-entry[1], entry[0]))
    return some([f"{shown[:40]} ({count:,})" for shown, count in most], 6)
