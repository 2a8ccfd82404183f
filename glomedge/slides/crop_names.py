"""Names and folders of crops that are cut from a slide: by them every command finds their biopsy and label."""

from __future__ import annotations

import re
from pathlib import Path

from glomedge.cases.names import case_of
from glomedge.cases.readings import NEGATIVE_FOLDER, POSITIVE_FOLDER, UNLABELLED_FOLDER, stem_of
from glomedge.slides.annotations.classes import label_of
from glomedge.slides.annotations.outline import Outline

_FOLDERS = {None: UNLABELLED_FOLDER, 0: NEGATIVE_FOLDER, 1: POSITIVE_FOLDER}
_UNUSUAL = re.compile("[^A-Za-z0-9]+")
_CONTROLS = re.compile("[\x00-\x1f\x7f]")
_MAX_ID_CHARACTERS = 80


class CropNames:
    """The path of each crop of one slide, relative to the folder of crops.

    ``<class folder>/<slide>_<annotation id>.png``. Where the name alone does not tell the slide (``case_of``), a folder
    of the slide's name stands between them, which does. Of the id only ASCII letters and digits are used, and at least
    one letter: a number of its own at the end would be read as a running number or a place on the slide.
    """

    def __init__(self, slide: Path) -> None:
        self.slide = _CONTROLS.sub("-", stem_of(slide.name))
        probe = f"{self.slide}_{'a' * 24}.png"
        self._between = "" if case_of(probe).slide == self.slide else f"{self.slide}/"
        self._given: set[str] = set()

    def path_of(self, outline: Outline) -> tuple[str, int | None]:
        """The path of an outline's crop, never the same twice, and its label (None where its class says none)."""
        label = label_of(outline.label.class_name)
        shown = _UNUSUAL.sub("", outline.id)[:_MAX_ID_CHARACTERS]
        if shown.isdigit():
            shown = f"n{shown}"
        name = f"{self.slide}_{shown or f'p{outline.place:06d}'}"
        # Disks of other systems do not distinguish letter case.
        while name.casefold() in self._given:
            name = f"{name}p{outline.place:06d}"
        self._given.add(name.casefold())
        return f"{_FOLDERS[label]}/{self._between}{name}.png", label
