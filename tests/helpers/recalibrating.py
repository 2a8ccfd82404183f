"""``glomedge recalibrate`` as a test asks for it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from glomedge.engine.options import EngineOptions
from glomedge.runs.recalibrate import RecalibrateOptions, Recalibration, recalibrate_models

CPU = EngineOptions(provider="cpu")


def options(folder: Path, *models: Path, **changed: Any) -> RecalibrateOptions:
    output = folder.parent / "new.onnx" if len(models) == 1 else folder.parent / "new"
    return replace(
        RecalibrateOptions(models, folder / "public.csv", folder, "North Lab", output, engine=CPU), **changed
    )


def run(asked: RecalibrateOptions) -> list[Recalibration]:
    made = recalibrate_models(asked)
    assert made is not None
    return made
