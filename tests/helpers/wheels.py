"""The onnxruntime that is installed here, worked out from the wheel itself, and requests for its providers."""

from __future__ import annotations

from pathlib import Path

import pytest

from glomedge.engine.runner import SessionRequest
from glomedge.model.file import read_model_file
from glomedge.model.spec import BatchProfile
from glomedge.system import gpu, libraries
from glomedge.system.telemetry import import_onnxruntime

ort = import_onnxruntime()

GPU_WHEEL = [package.name for package in libraries.onnxruntime_packages()] == ["onnxruntime-gpu"]
HAS_GPU = bool(gpu.find_gpus().devices)
CAPI = Path(ort.__file__).parent / "capi"

cpu_only = pytest.mark.skipif(HAS_GPU, reason="this machine has a GPU: the provider may run")
cpu_wheel = pytest.mark.skipif(GPU_WHEEL, reason="the wheel here is onnxruntime-gpu")
gpu_wheel = pytest.mark.skipif(not GPU_WHEEL, reason="the wheel here is onnxruntime")


def request_for(path: Path, **changes: object) -> SessionRequest:
    """A request to open that model; ``changes`` replace any field."""
    fields: dict[str, object] = {
        "file": read_model_file(path),
        "threads": 1,
        "concurrency": 1,
        "profile": BatchProfile(min=1, opt=8, max=32),
    }
    return SessionRequest(**(fields | changes))  # type: ignore[arg-type]  # a table of keyword arguments
