from __future__ import annotations

from pathlib import Path

import pytest

from glomedge.cluster.options import CohortOptions
from glomedge.engine.options import EngineOptions
from glomedge.runs.manifest import write_manifest
from glomedge.runs.options import Options
from helpers.builders import build_tiny_model
from helpers.run_kit import write_crops


@pytest.fixture
def cohort(tmp_path: Path) -> CohortOptions:
    """A run over 90 crops of three biopsies, two of them broken, in parts of 16; not begun."""
    write_crops(tmp_path / "crops", 90, broken=2)
    build_tiny_model(tmp_path / "model.onnx")
    write_manifest(tmp_path / "crops", tmp_path / "crops.parquet")
    run = Options(
        tmp_path / "crops", tmp_path / "model.onnx", engine=EngineOptions("cpu"), inputs=tmp_path / "crops.parquet"
    )
    return CohortOptions(run, str(tmp_path / "out"), cpus_per_worker=1, part_rows=16)
