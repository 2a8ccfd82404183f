from __future__ import annotations

from pathlib import Path

import pytest

from glomedge.engine.options import EngineOptions
from glomedge.runs.folder import Options
from helpers.builders import build_tiny_model
from helpers.run_kit import write_crops


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """A run over 30 crops, two of them broken, not begun."""
    write_crops(tmp_path / "crops", 30, broken=2)
    build_tiny_model(tmp_path / "model.onnx")
    return Options(tmp_path / "crops", tmp_path / "model.onnx", tmp_path / "out", engine=EngineOptions("cpu"))
