"""What is written back for one outline, and what every file of answers says about the run."""

from __future__ import annotations

from dataclasses import dataclass

from glomedge.about import RESEARCH_USE_NOTICE, __version__
from glomedge.slides.annotations.outline import Outline

NOT_CLASSIFIED = "not classified"
"""The class in a viewer of an outline that has no answer, such as one on a damaged part of the slide."""
# Distinct for colour-blind eyes on pink and purple tissue (Okabe and Ito's palette).
_COLOURS = ((0, 114, 178), (213, 94, 0))
_GREY = (128, 128, 128)


@dataclass(frozen=True, slots=True)
class AnsweredOutline:
    """One outline with its answer.

    Attributes:
        outline: as it was read.
        status: as in ``predictions.csv``: ``ok``, ``flagged:<flags>`` or ``error:<code>``.
        probability: of globally sclerotic, 0 to 1; None where there is no answer.
        label: 1 globally sclerotic, 0 not; None where there is no answer.
    """

    outline: Outline
    status: str
    probability: float | None
    label: int | None


@dataclass(frozen=True)
class RunNote:
    """What every answer of a run has in common.

    Attributes:
        model_name: the model's file name.
        model_sha256: of the model file, in hex.
        threshold: from which on a glomerulus is called globally sclerotic.
        class_names: of label 0 and label 1.
    """

    model_name: str
    model_sha256: str
    threshold: float
    class_names: tuple[str, str]

    def class_of(self, answered: AnsweredOutline) -> tuple[str, tuple[int, int, int]]:
        """The class that a viewer shows, and its colour (red, green, blue, 0 to 255)."""
        if answered.label is None:
            return NOT_CLASSIFIED, _GREY
        return self.class_names[answered.label], _COLOURS[answered.label]

    def as_texts(self) -> dict[str, str]:
        """For the head of a file: every value is a text."""
        return {
            "notice": RESEARCH_USE_NOTICE,
            "written_by": f"glomedge {__version__}",
            "model": self.model_name,
            "model_sha256": self.model_sha256,
            "threshold": repr(self.threshold),
        }
