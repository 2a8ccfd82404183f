"""bfloat16 where the processor does not have it: many times slower, so said before hours are spent."""

from __future__ import annotations

from pathlib import Path

import pytest

from glomedge.model.spec import ComputeDtype
from glomedge_export.training import run
from glomedge_export.training.listener import Silent
from glomedge_export.training.options import FitOptions, TrainOptions
from helpers.labelled import write_crops


class _StoppedError(Exception):
    """Nothing here trains."""


class _Notes(Silent):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)

    def preparing(self, what: str, done: int, total: int) -> None:
        raise _StoppedError


@pytest.mark.parametrize(
    ("compute_dtype", "native", "said"), [("bfloat16", False, 1), ("bfloat16", True, 0), ("float32", False, 0)]
)
def test_emulation_is_said_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compute_dtype: ComputeDtype, native: bool, said: int
) -> None:
    monkeypatch.setattr(run, "has_native_bf16", lambda: native)
    listener = _Notes()
    options = TrainOptions(
        data=write_crops(tmp_path / "data"), output=tmp_path / "out", fit=FitOptions(compute_dtype=compute_dtype)
    )
    with pytest.raises(_StoppedError):
        run.train(options, listener)
    assert sum("no bfloat16 instructions" in note and "float32" in note for note in listener.notes) == said
