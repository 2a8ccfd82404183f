"""What a run needs to resume after a kill: the state after the last complete epoch, written whole or not at all.

Two files in the checkpoint folder, both NumPy archives read without pickle: ``last.npz`` (all weights, optimizer
state, history as JSON) and ``best-<epoch>.npz`` (the weights of the best epoch so far). ``last.npz`` names the best
epoch and is renamed into place after that epoch's file, so a kill between the two leaves the older pair intact.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import numpy.typing as npt

from glomedge.errors import OutputError
from glomedge.files.writing import TEMPORARY, replacing

Arrays = list[npt.NDArray[Any]]

PRETRAINING_FOLDER = "pretraining"
"""Inside the checkpoint folder: the state while all layers are trained (``pretrain.py``)."""


_BEGUN = "begun"


def mark_begun(folder: Path) -> None:
    """Note in the checkpoint folder that a run has begun to replace a finished one, which is no result of it.

    Until the first epoch is complete there is no checkpoint that would say so.
    """
    (folder / _BEGUN).touch()


def is_begun(folder: Path) -> bool:
    """Whether a run that replaces a finished one was begun and has not ended."""
    return (folder / _BEGUN).exists()


def unmark_begun(folder: Path) -> None:
    """Remove the note: the run has ended."""
    (folder / _BEGUN).unlink(missing_ok=True)


@dataclass(frozen=True)
class EpochRow:
    """One line of history.csv. Losses in nats, accuracies at 0.5, both over crops; seconds of wall clock."""

    epoch: int
    loss: float
    accuracy: float
    val_loss: float
    val_accuracy: float
    seconds: float


@dataclass(frozen=True)
class Checkpoint:
    """The state after an epoch.

    Attributes:
        weights: of every model variable, in ``model.variables`` order.
        optimizer: of every optimizer variable.
        history: one row for each epoch done.
        settings: what the run was started with; another run's checkpoint is refused.
    """

    weights: Arrays
    optimizer: Arrays
    history: tuple[EpochRow, ...]
    settings: dict[str, Any]


@dataclass(frozen=True)
class Checkpointing:
    """Where a run keeps its checkpoints, and when it may continue from one.

    Attributes:
        folder: written after every epoch.
        settings: what a run must have in common with the one it resumes (data, split, recipe, options of the fit).
        resume: continue from the checkpoint where there is one.
    """

    folder: Path
    settings: dict[str, Any] = field(default_factory=dict)
    resume: bool = False


def best_epoch(history: Sequence[EpochRow]) -> int:
    """The epoch (from 1) of least validation loss; the first of equals."""
    return min(history, key=lambda row: (row.val_loss, row.epoch)).epoch


class Checkpoints:
    """Reads and writes the checkpoint folder of one run; ``keep_best`` also keeps the weights of the best epoch."""

    def __init__(self, directory: Path, *, keep_best: bool = True) -> None:
        self.directory = directory
        self._keep_best = keep_best

    @property
    def _last(self) -> Path:
        return self.directory / "last.npz"

    def _best(self, epoch: int) -> Path:
        return self.directory / f"best-{epoch}.npz"

    def exist(self) -> bool:
        """Whether there is a state to resume from."""
        return self._last.exists()

    def save(self, checkpoint: Checkpoint) -> None:
        """Write the state after an epoch; where that epoch is the best so far its weights are kept as well.

        Raises:
            OutputError: the folder cannot be written.
        """
        best = best_epoch(checkpoint.history) if self._keep_best else None
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            if best is not None and best == checkpoint.history[-1].epoch:
                _write(self._best(best), {f"w{i}": array for i, array in enumerate(checkpoint.weights)})
            meta = {"settings": checkpoint.settings, "history": [asdict(row) for row in checkpoint.history]}
            arrays = {"meta": np.array(json.dumps(meta))}
            arrays |= {f"w{i}": array for i, array in enumerate(checkpoint.weights)}
            arrays |= {f"o{i}": array for i, array in enumerate(checkpoint.optimizer)}
            _write(self._last, arrays)
        except OSError as error:
            raise OutputError(
                f"The checkpoint cannot be written to {self.directory} ({error.strerror}). Free space there, or "
                "choose another --output; then continue with --resume."
            ) from error
        for old in self.directory.glob("best-*.npz"):
            if best is not None and old != self._best(best):
                old.unlink(missing_ok=True)

    def load(self, settings: dict[str, Any]) -> Checkpoint | None:
        """The last complete epoch's state, None if there is none.

        Raises:
            OutputError: the checkpoint is damaged, or of a run with other settings (which are named).
        """
        arrays = _read(self._last)
        if arrays is None:
            return None
        meta = json.loads(str(arrays["meta"]))
        theirs: dict[str, Any] = meta["settings"]
        mine = json.loads(json.dumps(settings))
        differing = sorted(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))
        if differing:
            listed = "; ".join(f"{key}: {theirs.get(key)!r} before, {mine.get(key)!r} now" for key in differing)
            raise OutputError(
                f"The run in {self.directory} was started otherwise ({listed}), so it cannot be resumed. Give the "
                "same options and data as before, or start again with --overwrite."
            )
        history = tuple(EpochRow(**row) for row in meta["history"])
        return Checkpoint(_numbered(arrays, "w"), _numbered(arrays, "o"), history, theirs)

    def load_best(self, epoch: int) -> Arrays:
        """The weights of the best epoch. Raises OutputError where they are gone or damaged."""
        arrays = _read(self._best(epoch))
        if arrays is None:
            raise OutputError(f"{self._best(epoch)} is missing. Start the training again with --overwrite.")
        return _numbered(arrays, "w")

    def clear(self) -> None:
        """Remove the checkpoint files (of an earlier run, or once the run is complete)."""
        for path in [self._last, *self.directory.glob("best-*.npz"), *self.directory.glob(f".*{TEMPORARY}*")]:
            path.unlink(missing_ok=True)


def _write(path: Path, arrays: dict[str, npt.NDArray[Any]]) -> None:
    with replacing(path) as temporary, temporary.open("wb") as handle:
        np.savez(handle, allow_pickle=False, **arrays)


def _read(path: Path) -> dict[str, npt.NDArray[Any]] | None:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return dict(archive)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError, BadZipFile) as error:
        raise OutputError(
            f"The checkpoint {path} is damaged ({error}). Start the training again with --overwrite."
        ) from error


def _numbered(arrays: dict[str, npt.NDArray[Any]], prefix: str) -> Arrays:
    count = sum(1 for name in arrays if name.startswith(prefix) and name[1:].isdigit())
    return [arrays[f"{prefix}{i}"] for i in range(count)]
