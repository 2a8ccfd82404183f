"""What a training run does with what an earlier one left; nothing here trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from glomedge.errors import DatasetError, OutputError
from glomedge_export.training import run
from glomedge_export.training.checkpoint import Checkpoint, Checkpoints
from glomedge_export.training.listener import Silent
from glomedge_export.training.options import TrainOptions
from helpers.labelled import write_crops


class _Killed(BaseException):
    """The process ends here."""


class _UntilEnhancing(Silent):
    def preparing(self, what: str, done: int, total: int) -> None:
        raise _Killed


def _train(data: Path, out: Path, *, resume: bool = False, overwrite: bool = False) -> None:
    run.train(TrainOptions(data=data, output=out, resume=resume, overwrite=overwrite), _UntilEnhancing())


def _finished(out: Path) -> None:
    out.mkdir(parents=True)
    (out / "model.keras").write_bytes(b"model of the finished run")


def _stopped(out: Path) -> None:
    Checkpoints(out / "checkpoint", keep_best=False).save(Checkpoint([], [], (), {"run": "before"}))


@pytest.mark.parametrize("before", [_finished, _stopped])
def test_a_killed_overwrite_is_resumed_not_the_run_before(tmp_path: Path, before: Callable[[Path], None]) -> None:
    data, out = write_crops(tmp_path / "data"), tmp_path / "out"
    before(out)
    with pytest.raises(_Killed):
        _train(data, out, overwrite=True)
    assert not Checkpoints(out / "checkpoint").exist()
    with pytest.raises(OutputError, match=r"already holds a stopped training run: continue .* with --resume"):
        _train(data, out)
    with pytest.raises(_Killed):  # not: has finished
        _train(data, out, resume=True)
    (data / "public.csv").unlink()
    with pytest.raises(DatasetError):
        _train(data, out, overwrite=True)
    with pytest.raises(OutputError, match="already holds a stopped"):
        _train(data, out)


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    data, out = write_crops(tmp_path / "data"), tmp_path / "out"
    _finished(out)
    with pytest.raises(OutputError, match="has finished"):
        _train(data, out, resume=True)


def test_an_overwrite_that_was_refused_changes_nothing(tmp_path: Path) -> None:
    data, out = write_crops(tmp_path / "data"), tmp_path / "out"
    _finished(out)
    _stopped(out)
    (data / "public.csv").unlink()
    with pytest.raises(DatasetError):
        _train(data, out, overwrite=True)
    assert Checkpoints(out / "checkpoint").exist()
    Checkpoints(out / "checkpoint").clear()
    with pytest.raises(OutputError, match="has finished"):
        _train(data, out, resume=True)


def test_an_overwrite_that_is_stopped_while_it_reads_replaces_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, out = write_crops(tmp_path / "data"), tmp_path / "out"
    _finished(out)

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "read_dataset", stopped)
    with pytest.raises(KeyboardInterrupt):
        _train(data, out, overwrite=True)
    with pytest.raises(OutputError, match=r"already holds a trained model"):
        _train(data, out)
    with pytest.raises(OutputError, match="has finished"):
        _train(data, out, resume=True)
