"""How training reports its progress."""

from __future__ import annotations

from typing import Protocol

from glomedge_export.training.checkpoint import EpochRow


class Listener(Protocol):
    """Receives the progress of a training run; for progress bars and logs (``glomedge.cli.progress``)."""

    def step(self, epoch: int, done: int, steps: int) -> None:
        """A step of an epoch of the fit is done."""

    def epoch(self, row: EpochRow) -> None:
        """An epoch of the fit is done."""

    def preparing(self, what: str, done: int, total: int) -> None:
        """Work other than an epoch is in progress."""

    def note(self, text: str) -> None:
        """Something the user should know."""


class Silent:
    """A listener that does nothing."""

    def step(self, epoch: int, done: int, steps: int) -> None:
        """Ignore."""

    def epoch(self, row: EpochRow) -> None:
        """Ignore."""

    def preparing(self, what: str, done: int, total: int) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""
