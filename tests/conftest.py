"""Fixtures shared by the whole suite."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The 830 labelled crops of FACTS (``GLOMEDGE_DATA``, else beside the checkout); skips where absent."""
    path = Path(os.environ.get("GLOMEDGE_DATA", ROOT.parent / "shared" / "data" / "glomeruli"))
    if not (path / "public.csv").is_file():
        pytest.skip(f"real crops not found at {path}: set GLOMEDGE_DATA to a folder with public.csv")
    return path
