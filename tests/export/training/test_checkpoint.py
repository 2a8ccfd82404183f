"""Checkpoints: whole or absent, of this run or refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glomedge.errors import OutputError
from glomedge_export.training import checkpoint as module
from glomedge_export.training.checkpoint import Checkpoint, Checkpoints, EpochRow, best_epoch

SETTINGS: dict[str, Any] = {"seed": 1, "recipe": {"name": "seed"}}


def rows(*val_losses: float) -> tuple[EpochRow, ...]:
    return tuple(EpochRow(i, 0.5, 0.8, loss, 0.7, 1.5) for i, loss in enumerate(val_losses, start=1))


def state(value: float, *val_losses: float) -> Checkpoint:
    weights = [np.full((2, 3), value, np.float32), np.array([7, 8], np.uint32)]
    return Checkpoint(weights, [np.array(5, np.int64)], rows(*val_losses), SETTINGS)


def test_round_trip_and_best_epoch(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path / "made")
    for value, losses in ((1.0, (0.5,)), (2.0, (0.5, 0.3)), (3.0, (0.5, 0.3, 0.4))):
        checkpoints.save(state(value, *losses))
    back = checkpoints.load(SETTINGS)
    assert back is not None
    assert back.history == rows(0.5, 0.3, 0.4)
    np.testing.assert_array_equal(back.weights[0], np.full((2, 3), 3.0))
    assert [array.dtype for array in back.weights] == [np.float32, np.uint32]
    assert back.optimizer[0] == 5
    assert best_epoch(back.history) == 2
    np.testing.assert_array_equal(checkpoints.load_best(2)[0], np.full((2, 3), 2.0))
    assert sorted(path.name for path in (tmp_path / "made").iterdir()) == ["best-2.npz", "last.npz"]


def test_first_of_equal_epochs_is_best() -> None:
    assert best_epoch(rows(0.4, 0.3, 0.3)) == 2


def test_nothing_to_resume(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path).load(SETTINGS) is None


def test_kill_between_best_and_last_leaves_the_older_pair(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1.0, 0.5))
    real_write = module._write

    def killed(path: Path, arrays: Any) -> None:
        if path.name == "last.npz":
            raise KeyboardInterrupt
        real_write(path, arrays)

    monkeypatch.setattr(module, "_write", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.save(state(2.0, 0.5, 0.3))
    back = checkpoints.load(SETTINGS)
    assert back is not None
    assert len(back.history) == 1
    np.testing.assert_array_equal(checkpoints.load_best(1)[0], np.full((2, 3), 1.0))


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1.0, 0.5))
    with pytest.raises(OutputError, match=r"seed: 1 before, 2 now"):
        checkpoints.load({**SETTINGS, "seed": 2})
    with pytest.raises(OutputError, match="recipe"):
        checkpoints.load({**SETTINGS, "recipe": {"name": "plain"}})


@pytest.mark.parametrize("keep_bytes", [0, 10, 400])
def test_damaged_checkpoint_is_named(tmp_path: Path, keep_bytes: int) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1.0, 0.5))
    path = tmp_path / "last.npz"
    path.write_bytes(path.read_bytes()[:keep_bytes])
    with pytest.raises(OutputError, match=r"last\.npz is damaged"):
        checkpoints.load(SETTINGS)


def test_missing_best_weights_are_named(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"best-3\.npz is missing"):
        Checkpoints(tmp_path).load_best(3)


def test_unwritable_folder_is_an_output_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="--resume"):
        Checkpoints(tmp_path / "file" / "inside").save(state(1.0, 0.5))


def test_clear_removes_checkpoints_and_leftovers_only(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(state(1.0, 0.5))
    (tmp_path / ".last.npz.tmp").write_bytes(b"torn")
    (tmp_path / "lock").write_bytes(b"")
    checkpoints.clear()
    assert [path.name for path in tmp_path.iterdir()] == ["lock"]
