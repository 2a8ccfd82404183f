"""TF32 is forbidden before any of NVIDIA's libraries is loaded; where one had read the variable, that is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from glomedge.system import tf32
from helpers.paths import ROOT

_LOOK = """
import ctypes, json, os, sys
if len(sys.argv) > 1:
    ctypes.CDLL(sys.argv[1])
from glomedge.system import tf32
from glomedge.system.telemetry import import_onnxruntime
import_onnxruntime()
print(json.dumps([os.environ.get(tf32.VARIABLE), tf32.note("fp32"), tf32.note("fp16")]))
"""


def look(*arguments: str, setting: str | None = None) -> list[object]:
    """The variable and the notes in a process that imports onnxruntime; an argument is a library to load before."""
    environment = {name: value for name, value in os.environ.items() if name != tf32.VARIABLE}
    environment["PYTHONPATH"] = str(ROOT)
    if setting is not None:
        environment[tf32.VARIABLE] = setting
    done = subprocess.run(
        [sys.executable, "-c", _LOOK, *arguments], env=environment, capture_output=True, text=True, check=True
    )
    answer: list[object] = json.loads(done.stdout)
    return answer


def test_importing_onnxruntime_forbids_tf32() -> None:
    assert look() == ["0", [], []]


def test_a_users_setting_is_kept_and_said_of_fp32_alone() -> None:
    setting, of_fp32, of_fp16 = look(setting="1")
    assert (setting, of_fp16) == ("1", [])
    assert "NVIDIA_TF32_OVERRIDE is 1" in str(of_fp32)


def test_what_was_loaded_before_is_said(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a library with")
    library = tmp_path / "libcublas.so.13"
    subprocess.run([compiler, "-shared", "-o", str(library), "-x", "c", "/dev/null"], check=True)
    setting, of_fp32, of_fp16 = look(str(library))
    assert (setting, of_fp16) == (None, [])
    assert "another package loaded CUDA's libraries before glomedge" in str(of_fp32)
    assert "NVIDIA_TF32_OVERRIDE=0" in str(of_fp32)


def test_a_system_that_does_not_list_its_libraries_has_loaded_none(tmp_path: Path) -> None:
    assert not tf32.already_loaded(tmp_path / "absent")
