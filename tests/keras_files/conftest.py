"""Genuine Keras 2 files, unpacked once."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from helpers.keras2_files import Genuine, unpack


@pytest.fixture(scope="session")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Genuine]:
    """By Keras version."""
    return {found.version: found for found in unpack(tmp_path_factory.mktemp("genuine"))}


@pytest.fixture
def keras2(genuine: dict[str, Genuine]) -> Genuine:
    """The files of the last Keras 2."""
    return genuine["2.15.0"]


@pytest.fixture
def with_config(keras2: Genuine, tmp_path: Path) -> Callable[..., Path]:
    """Write a published Keras 2 file with another configuration; ``h5`` as HDF5 instead of an archive."""

    def write(change: Callable[[dict[str, Any]], Any], h5: bool = False) -> Path:
        if h5:
            path = tmp_path / "changed.h5"
            path.write_bytes((keras2.folder / "published.h5").read_bytes())
            with h5py.File(path, "r+") as opened:
                config = json.loads(opened.attrs["model_config"])
                opened.attrs["model_config"] = json.dumps(change(config) or config)
            return path
        path = tmp_path / "changed.keras"
        with zipfile.ZipFile(keras2.folder / "published.keras") as source, zipfile.ZipFile(path, "w") as target:
            for name in source.namelist():
                data = source.read(name)
                if name == "config.json":
                    config = json.loads(data)
                    data = json.dumps(change(config) or config).encode()
                target.writestr(name, data)
        return path

    return write
