"""SIGKILL and ``--resume``: nothing lost, nothing duplicated, nothing different."""

from __future__ import annotations

import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glomedge.engine.options import EngineOptions
from glomedge.runs.folder import Options
from helpers.builders import build_tiny_model
from helpers.run_kit import KillAt, outputs, run_in_child, write_crops

# 26 crops in batches of 2: a journal of some 30 writes, then a handful for the files.
_EVENTS = 62


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Options, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("kill")
    write_crops(folder / "crops", 26, broken=2)
    build_tiny_model(folder / "model.onnx")
    options = Options(
        folder / "crops", folder / "model.onnx", folder / "whole", engine=EngineOptions("cpu", batch_size=2)
    )
    assert run_in_child(options) == 2
    return options, outputs(options.output)


def _killed_then_resumed(
    whole: tuple[Options, dict[str, bytes]], output: Path, kills: list[tuple[int, float]]
) -> list[int]:
    """Kill a run, kill its resumption and so on, then let it end; compare with the run that was never disturbed."""
    options, expected = whole
    options = replace(options, output=output)
    codes = []
    for event, share in kills:
        codes.append(run_in_child(options, KillAt(event, share)))
        options = replace(options, resume=True)
    assert run_in_child(replace(options, resume=True)) == 2
    assert outputs(output) == expected
    names = {path.name for path in output.iterdir()}
    assert names == {".glomedge", "predictions.csv", "cases.csv", "report.html", "run.json"}
    return codes


@pytest.mark.parametrize("point", range(20))
def test_killed_run_resumes_to_the_same_bytes(
    whole: tuple[Options, dict[str, bytes]], tmp_path: Path, point: int
) -> None:
    rng = np.random.default_rng(point)
    codes = _killed_then_resumed(whole, tmp_path / "out", [(1 + point * _EVENTS // 20, float(rng.random()))])
    # The kill must really have come in most of them; the last ones may lie beyond the end of the run.
    assert codes[0] == -signal.SIGKILL or point >= 16


@pytest.mark.slow
def test_500_kill_points(whole: tuple[Options, dict[str, bytes]], tmp_path: Path) -> None:
    rng = np.random.default_rng(500)
    killed = 0
    done = 0
    while killed < 500:
        kills = [(int(rng.integers(1, _EVENTS)), float(rng.random())) for _ in range(int(rng.integers(1, 4)))]
        codes = _killed_then_resumed(whole, tmp_path / f"out{done}", kills)
        killed += codes.count(-signal.SIGKILL)
        done += 1
