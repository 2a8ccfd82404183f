"""Progress on standard error: bars if it is a terminal, and permanent lines.

Every command uses this. Long-running functions are given a callable: ``progress(stage, done, total)`` for several
stages, ``progress.stage(name)`` for one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress as Bars
    from rich.progress import TaskID

    from glomedge_export.training.checkpoint import EpochRow


class Progress:
    """A context manager; the bars are removed at its end. Without a terminal only ``line`` prints."""

    def __init__(self) -> None:
        self._bars: Bars | None = None
        self._tasks: dict[str, TaskID] = {}
        self._console: Console | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
            from rich.progress import Progress as RichProgress

            self._bars = RichProgress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=self._terminal(),
                transient=True,
            )
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, stage: str, done: int, total: int, text: str | None = None) -> None:
        """Move the bar of a stage; ``text`` is shown in place of the stage's name."""
        if self._bars is None:
            return
        if stage not in self._tasks:
            # A resumed run starts far in: begin the bar there, or the remaining time is extrapolated from a jump.
            self._tasks[stage] = self._bars.add_task(text or stage, total=total, completed=max(0, done - 1))
        self._bars.update(self._tasks[stage], description=text or stage, completed=done, total=total)

    def stage(self, name: str) -> Callable[[int, int], None] | None:
        """Called with done and total, moves the bar of that stage; None if there is no terminal to show it on."""
        if self._bars is None:
            return None
        return lambda done, total: self(name, done, total)

    def end(self, stage: str) -> None:
        """Remove the bar of a stage."""
        if self._bars is not None and stage in self._tasks:
            self._bars.remove_task(self._tasks.pop(stage))

    def line(self, text: str) -> None:
        """Print a line on standard error, terminal or not."""
        self._terminal().print(text, markup=False, soft_wrap=True)

    def pause(self, show: Callable[[], None]) -> None:
        """Hide the bars while something else prints."""
        if self._bars is not None:
            self._bars.stop()
        show()
        if self._bars is not None:
            self._bars.start()

    def _terminal(self) -> Console:
        if self._console is None:
            from rich.console import Console

            self._console = Console(stderr=True, highlight=False)
        return self._console


class TrainingProgress(Progress):
    """Progress of a training run: a line per epoch, and one bar over all epochs with the total time left."""

    def __init__(self, epochs: int) -> None:
        super().__init__()
        self.epochs = epochs

    def step(self, epoch: int, done: int, steps: int) -> None:
        """A step of an epoch is done."""
        text = f"Training, epoch {epoch}/{self.epochs}"
        self("training", (epoch - 1) * steps + done, self.epochs * steps, text)

    def epoch(self, row: EpochRow) -> None:
        """An epoch is done."""
        self.line(
            f"epoch {row.epoch}/{self.epochs}: loss {row.loss:.4f}, accuracy {row.accuracy:.4f}, validation loss "
            f"{row.val_loss:.4f}, validation accuracy {row.val_accuracy:.4f}, {row.seconds:.0f} s"
        )

    def preparing(self, what: str, done: int, total: int) -> None:
        """Work other than an epoch; its bar is removed when it is done."""
        self(what, done, total)
        if done >= total:
            self.end(what)

    def note(self, text: str) -> None:
        """Something the user should know."""
        self.line(text)
