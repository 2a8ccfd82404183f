"""SIGKILL and ``--resume`` of a run over slides: the same bytes as one that was never disturbed."""

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
from helpers.slide_runs import write_outlined

# 25 inputs in batches of 2: a journal of some 30 writes, then two for each of the files.
_EVENTS = 84


def everything(folder: Path) -> dict[str, bytes]:
    """The files whose bytes must not depend on how a run came about."""
    return outputs(folder) | {path.name: path.read_bytes() for path in (folder / "annotations").iterdir()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Options, dict[str, bytes]]:
    folder = tmp_path_factory.mktemp("kill")
    write_outlined(folder / "slides")
    write_crops(folder / "slides", 4, broken=1)
    build_tiny_model(folder / "model.onnx")
    options = Options(
        folder / "slides", folder / "model.onnx", folder / "whole", engine=EngineOptions("cpu", batch_size=2),
        formats=("csv", "geojson", "dsa"),
    )  # fmt: skip
    assert run_in_child(options) == 2
    return options, everything(options.output)


@pytest.mark.parametrize("point", range(6))
def test_killed_run_resumes_to_the_same_bytes(
    whole: tuple[Options, dict[str, bytes]], tmp_path: Path, point: int
) -> None:
    options, expected = whole
    run = replace(options, output=tmp_path / "out")
    share = float(np.random.default_rng(point).random())
    assert run_in_child(run, KillAt(1 + point * _EVENTS // 6, share)) == -signal.SIGKILL
    assert run_in_child(replace(run, resume=True)) == 2
    assert everything(run.output) == expected
    assert len(expected) == 2 + 7
