"""What a laboratory asks of a model before it uses it, and whether that was met."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from glomedge.errors import UsageError
from glomedge.model.spec import Interval

AT_LEAST = ("accuracy", "sensitivity", "specificity", "balanced_accuracy", "f1", "auroc", "auprc")
"""Figures from 0 to 1 that must reach what was asked for."""
AT_MOST = ("percent_gs_mae",)
"""Figures that must not exceed it: the mean error of %GS per biopsy, in percentage points."""


@dataclass(frozen=True)
class Requirement:
    """One figure that was asked for."""

    name: str
    limit: float

    @property
    def at_most(self) -> bool:
        """Whether the figure must not exceed the limit, rather than reach it."""
        return self.name in AT_MOST

    def met(self, figures: Mapping[str, Interval]) -> bool:
        """Whether the figure itself, not its interval, meets the limit; one that is undefined does not."""
        figure = figures.get(self.name)
        if figure is None:
            return False
        return figure.value <= self.limit if self.at_most else figure.value >= self.limit


def parse_requirements(text: str) -> list[Requirement]:
    """From ``sensitivity=0.9,specificity=0.9,auroc=0.95``. Raises UsageError on anything else."""
    requirements = []
    for part in text.split(","):
        name, _, value = (piece.strip() for piece in part.partition("="))
        try:
            limit = float(value)
        except ValueError:
            limit = -1.0
        highest = 100.0 if name in AT_MOST else 1.0
        if name not in (*AT_LEAST, *AT_MOST) or not 0.0 <= limit <= highest:
            raise UsageError(
                f"--require {part.strip()!r} is not understood. Give figures with what they must reach, such as "
                "sensitivity=0.9,specificity=0.9,auroc=0.95; known are "
                f"{', '.join(AT_LEAST)} (0 to 1) and percent_gs_mae (points, at most)."
            )
        requirements.append(Requirement(name, limit))
    names = [requirement.name for requirement in requirements]
    if len(set(names)) < len(names):
        raise UsageError(f"--require {text!r} names a figure twice. Give each once.")
    return requirements
