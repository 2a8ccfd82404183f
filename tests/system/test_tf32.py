"""TF32 is forbidden before any of NVIDIA's libraries is loaded; where one had read the variable, that is said."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from glomedge.system import tf32
from glomedge.system.gpu import session_gpu
from helpers.paths import ROOT

Look = Callable[..., list[object]]

_BEGIN = """
import ctypes, json, os, sys
from pathlib import Path
import glomedge
from glomedge.engine.backends import nvidia, nvidia_machine
from glomedge.system import libraries, tf32
from helpers.wheels import request_for
model, folder = Path(sys.argv[1]), Path(sys.argv[2])
if len(sys.argv) > 3:
    ctypes.CDLL(sys.argv[3])
"""
_CUDA = """
(folder / "capi").mkdir()
(folder / "capi" / libraries.CUDA_LIBRARY).touch()
libraries.module_folder = lambda name: folder
libraries.preload_cuda()
"""
# The plugin's module says what it saw while it was imported.
_RTX = """
package = folder / nvidia_machine.RTX_MODULE
package.mkdir()
look = "import os; os.environ['SEEN'] = os.environ.get('NVIDIA_TF32_OVERRIDE', 'nothing')"
(package / "__init__.py").write_text(look)
sys.path.insert(0, str(folder))
nvidia_machine.find_jetson = nvidia_machine._not_an_rtx_gpu = lambda: None
try:
    {call}
except AttributeError:
    pass  # the module holds nothing
os.environ[tf32.VARIABLE] = os.environ["SEEN"]
"""
_END = """
print(json.dumps([os.environ.get(tf32.VARIABLE), tf32.note("fp32"), tf32.note("fp16")]))
"""


@pytest.fixture
def look(tiny_model: Path, tmp_path: Path) -> Look:
    """The variable and the notes in a process that has done ``what``; an argument is a library to load before."""

    def look(what: str, *arguments: str, setting: str | None = None) -> list[object]:
        environment = {name: value for name, value in os.environ.items() if name != tf32.VARIABLE}
        environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
        if setting is not None:
            environment[tf32.VARIABLE] = setting
        command = [sys.executable, "-c", _BEGIN + what + _END, str(tiny_model), str(tmp_path), *arguments]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        answer: list[object] = json.loads(done.stdout)
        return answer

    return look


@pytest.mark.parametrize("provider", ["cpu", "auto"])
def test_a_load_on_the_cpu_leaves_the_variable_alone(look: Look, provider: str) -> None:
    """A process that goes on to train with PyTorch on the GPU keeps its TF32."""
    if provider == "auto" and session_gpu() is not None:
        pytest.skip("auto takes this machine's GPU")
    assert look(f"glomedge.load(model, {provider!r})")[0] is None


@pytest.mark.parametrize(
    "attempt",
    [
        _CUDA,
        "nvidia.load_tensorrt()",
        "nvidia.engine_key(request_for(model), 'tensorrt', '', {})",
        _RTX.format(call="nvidia_machine.tensorrt_rtx_unusable()"),
        _RTX.format(call="nvidia.open_tensorrt_rtx(request_for(model))"),
    ],
    ids=["cuda", "tensorrt", "key", "rtx", "rtx opened"],
)
def test_an_attempt_on_nvidias_libraries_forbids_tf32(look: Look, attempt: str) -> None:
    assert look(attempt) == ["0", [], []]


def test_a_users_setting_is_kept_and_said_of_fp32_alone(look: Look) -> None:
    setting, of_fp32, of_fp16 = look(_CUDA, setting="1")
    assert (setting, of_fp16) == ("1", [])
    assert "NVIDIA_TF32_OVERRIDE is 1" in str(of_fp32)


def test_what_was_loaded_before_is_said(look: Look, tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make a library with")
    library = tmp_path / "libcublas.so.13"
    subprocess.run([compiler, "-shared", "-o", str(library), "-x", "c", "/dev/null"], check=True)
    setting, of_fp32, of_fp16 = look(_CUDA, str(library))
    assert (setting, of_fp16) == (None, [])
    assert "another package loaded CUDA's libraries before glomedge" in str(of_fp32)
    assert "NVIDIA_TF32_OVERRIDE=0" in str(of_fp32)


def test_a_system_that_does_not_list_its_libraries_has_loaded_none(tmp_path: Path) -> None:
    assert not tf32.already_loaded(tmp_path / "absent")
