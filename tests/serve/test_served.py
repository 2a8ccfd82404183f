"""What is opened to be served: batch and threads are those of the device that will run the model."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from glomedge.engine import providers
from glomedge.serve import served
from glomedge.serve.audit import Log
from glomedge.serve.core import Core
from glomedge.serve.metrics import Metrics
from glomedge.serve.options import ServeOptions
from glomedge.system.gpu import Gpu
from helpers.builders import build_tiny_model


@pytest.mark.parametrize(("target", "batch", "threads"), [("openvino", 4, 1), ("any", 32, 2)])
def test_a_file_for_the_cpu_on_a_machine_with_cuda_is_served_as_on_a_cpu(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, target: str, batch: int, threads: int
) -> None:
    monkeypatch.setattr(providers, "MOST_RUN_THREADS", 1)
    monkeypatch.setattr(providers, "session_gpu", lambda: Gpu("NVIDIA L4", "8.9", 1 << 34))
    for name in ("cuda", "tensorrt", "tensorrt-rtx", "openvino"):
        says = (lambda: None) if name in ("cuda", "openvino") else (lambda: "no library")
        # What opens is the CPU's session: the file is opened for real, whichever provider it goes to.
        changed = dataclasses.replace(providers.PROVIDERS[name], unusable=says, open=providers.PROVIDERS["cpu"].open)
        monkeypatch.setitem(providers.PROVIDERS, name, changed)
    path = tmp_path / "model.onnx"
    build_tiny_model(path, target=target)
    options = ServeOptions(model=path, optimise="throughput")
    model = served.open_model(options)
    core = Core(options, model, Log(None, lambda: None), Metrics())
    core.close()
    assert model.engine.runtime.concurrency == len(core._batcher._threads) == threads
    assert core._batcher._most_crops == batch
