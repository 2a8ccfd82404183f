"""How training reports its progress."""

from __future__ import annotations

from glomedge_export.training.checkpoint import EpochRow


class Listener:
    """Told how a training run goes, for progress bars and logs. This one ignores everything; override what you need."""

    def step(self, epoch: int, done: int, steps: int) -> None:
        """A step of an epoch of the fit is done."""

    def epoch(self, row: EpochRow) -> None:
        """An epoch of the fit is done."""

    def preparing(self, what: str, done: int, total: int) -> None:
        """Something other than an epoch of the fit is under way."""

    def note(self, text: str) -> None:
        """Something the user should know."""
