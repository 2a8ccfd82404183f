"""Small shared libraries that stand in for those of NVIDIA's driver, runtime and provider; compiled where needed."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from helpers.paths import ROOT


def compiled(source: str, library: Path) -> Path:
    """Compile ``tests/helpers/<source>`` to a shared library of that path; skips where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a library with")
    path = ROOT / "tests" / "helpers" / source
    subprocess.run([compiler, "-shared", "-fPIC", "-Wall", "-Werror", "-o", str(library), str(path)], check=True)
    return library
