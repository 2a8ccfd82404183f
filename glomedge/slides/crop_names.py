"""Names and folders of crops that are cut from a slide: by them every command finds their biopsy and label."""

from __future__ import annotations

import re
from pathlib import Path

from glomedge.cases.names import case_of
from glomedge.cases.readings import stem_of
from glomedge.slides.annotations.classes import label_of
from glomedge.slides.annotations.outline import Outline

CLASS_FOLDERS = ("non_globally_sclerotic_glomeruli", "globally_sclerotic_glomeruli")
"""Index is the label."""
UNLABELLED_FOLDER = "unlabelled_glomeruli"
_UNUSUAL = re.compile("[^A-Za-z0-9.-]+")
_MAX_ID_CHARACTERS = 80


class CropNames:
    """The path of each crop of one slide, relative to the folder of crops.

    ``<class folder>/<slide>_<annotation id>.png``. Where the name alone does not tell the slide (``case_of``), a folder
    of the slide's name stands between them, which does.
    """

    def __init__(self, slide: Path) -> None:
        self.slide = stem_of(slide.name)
        probe = f"{self.slide}_{'a' * 24}.png"
        self._between = "" if case_of(probe).slide == self.slide else f"{self.slide}/"
        self._given: set[str] = set()

    def path_of(self, outline: Outline) -> tuple[str, int | None]:
        """The path of an outline's crop, never the same twice, and its label (None where its class says none)."""
        label = label_of(outline.label.class_name)
        folder = UNLABELLED_FOLDER if label is None else CLASS_FOLDERS[label]
        shown = _UNUSUAL.sub("-", outline.id)[:_MAX_ID_CHARACTERS].strip(".-")
        name = f"{self.slide}_{shown or f'{outline.place:06d}'}"
        # Disks of other systems do not distinguish letter case.
        if name.casefold() in self._given:
            name = f"{name}-{outline.place:06d}"
        self._given.add(name.casefold())
        return f"{folder}/{self._between}{name}.png", label
