"""Which TensorRT is loaded: the system's where the loader finds the version that is wanted, else pip's of that one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from glomedge.engine.backends.nvidia_machine import TENSORRT_LIBRARY
from helpers.gpu_machines import Workshop
from helpers.paths import ROOT

_LOAD = """
import sys
from pathlib import Path
from glomedge.engine.backends import nvidia
from glomedge.system import libraries
folders = {"onnxruntime": Path(sys.argv[1]) / "onnxruntime", "tensorrt_libs": Path(sys.argv[1]) / "tensorrt_libs"}
libraries.module_folder = lambda name: folders[name] if folders[name].is_dir() else None
sys.path.insert(0, sys.argv[1])
nvidia.load_tensorrt()
print("tensorrt_libs" in sys.modules)
"""


@pytest.mark.parametrize(
    ("system", "pip", "imported"),
    [(None, None, False), (None, 10, True), (None, 11, False), (10, 11, False), (10, 10, False), (11, 10, True)],
)
def test_pips_tensorrt_is_loaded_where_it_is_the_one_that_is_wanted(
    tmp_path: Path, system: int | None, pip: int | None, imported: bool
) -> None:
    workshop, loader = Workshop(tmp_path), tmp_path / "lib"
    loader.mkdir()
    (loader / "libnvinfer.so.10").touch()  # the loader refuses it, whatever this machine has
    workshop.library(tmp_path / "onnxruntime" / "capi" / TENSORRT_LIBRARY, ["libnvinfer.so.10"])
    if system is not None:
        workshop.library(loader / f"libnvinfer.so.{system}")
    if pip is not None:
        workshop.library(tmp_path / "tensorrt_libs" / f"libnvinfer.so.{pip}")
        (tmp_path / "tensorrt_libs" / "__init__.py").touch()
    environment = {**os.environ, "LD_LIBRARY_PATH": str(loader), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", _LOAD, str(tmp_path)], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == [str(imported)]
