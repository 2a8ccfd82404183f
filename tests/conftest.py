"""Fixtures shared by the whole suite."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from glomedge.system.telemetry import silence_tensorflow
from helpers.paths import ROOT

# Before any test module is collected: some import Keras by themselves.
silence_tensorflow()

# A busy machine is not a defect: examples have no time limit of their own, tests do (pytest-timeout).
settings.register_profile("suite", deadline=None)
settings.load_profile("suite")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The 830 labelled real crops (``GLOMEDGE_DATA``, else beside the checkout); skips where absent."""
    path = Path(os.environ.get("GLOMEDGE_DATA", ROOT.parent / "shared" / "data" / "glomeruli"))
    if not (path / "public.csv").is_file():
        pytest.skip(f"real crops not found at {path}: set GLOMEDGE_DATA to a folder with public.csv")
    return path


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complete model file that runs in a millisecond (builders.build_tiny_model); do not write to it."""
    from helpers.builders import build_tiny_model

    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    build_tiny_model(path)
    return path


@pytest.fixture(autouse=True, scope="session")
def _own_engine_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Engines that tests build never land in the user's own cache; subprocesses inherit this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("xdg-cache")))
        yield


@pytest.fixture
def not_root() -> Iterator[Path]:
    """An empty folder of an ordinary user; root reads everything, so this process steps down while the test runs."""
    # Not below tmp_path, whose parents belong to root and let nobody else through.
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o777)
    as_root = os.geteuid() == 0
    if as_root:
        os.seteuid(65534)
    try:
        yield folder
    finally:
        if as_root:
            os.seteuid(0)
        for path in folder.rglob("*"):
            path.chmod(0o700)
        shutil.rmtree(folder)
