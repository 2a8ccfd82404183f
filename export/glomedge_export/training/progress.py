"""Progress of training on standard error: a bar with the time left on a terminal, one line per epoch elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from glomedge_export.training.checkpoint import EpochRow
from glomedge_export.training.listener import Listener


class TrainingProgress(Listener):
    """Prints to standard error, so that standard output stays for results.

    Use as a context manager; the bars are gone at its end.
    """

    def __init__(self, epochs: int) -> None:
        self.epochs = epochs
        self._console = Console(stderr=True, highlight=False)
        self._bar: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        if sys.stderr.isatty():
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._console,
                transient=True,
            )

    def __enter__(self) -> TrainingProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._bar is not None:
            self._bar.stop()

    def step(self, epoch: int, done: int, steps: int) -> None:
        """Move the bar over all epochs, so that the time left is that of the whole training."""
        self._move(
            f"Training, epoch {epoch}/{self.epochs}", "training", (epoch - 1) * steps + done, self.epochs * steps
        )

    def epoch(self, row: EpochRow) -> None:
        """One line an epoch."""
        self._console.print(
            f"epoch {row.epoch}/{self.epochs}: loss {row.loss:.4f}, accuracy {row.accuracy:.4f}, validation loss "
            f"{row.val_loss:.4f}, validation accuracy {row.val_accuracy:.4f}, {row.seconds:.0f} s",
            markup=False,
            soft_wrap=True,
        )

    def preparing(self, what: str, done: int, total: int) -> None:
        """Move the bar of something short."""
        self._move(what, what, done, total)
        if self._bar is not None and done >= total:
            self._bar.remove_task(self._tasks.pop(what))

    def note(self, text: str) -> None:
        """Print a line."""
        self._console.print(text, markup=False, soft_wrap=True)

    def _move(self, text: str, key: str, done: int, total: int) -> None:
        if self._bar is None:
            return
        if key not in self._tasks:
            # After --resume the first call is far in: start there, or the time left is guessed from a leap.
            self._tasks[key] = self._bar.add_task(text, total=total, completed=max(0, done - 1))
        self._bar.update(self._tasks[key], description=text, completed=done, total=total)
