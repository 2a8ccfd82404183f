"""One server for all tests that leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from helpers.server import Server, serving


@pytest.fixture(scope="package")
def server(tiny_model: Path) -> Iterator[Server]:
    """Small limits, so that they are reached."""
    with serving(tiny_model, "--max-body", "8", "--max-crops", "16", "--queue", "64") as running:
        yield running
        assert running.process.poll() is None, "the server has ended by itself"


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose every call takes a noticeable time; do not write to it."""
    from helpers.slow_model import build_slow_model

    path = tmp_path_factory.mktemp("slow") / "slow.onnx"
    build_slow_model(path)
    return path
