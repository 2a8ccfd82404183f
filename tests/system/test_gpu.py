"""NVML as the real package nvidia-ml-py reads it, from a small library that stands in for the driver's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from glomedge.system import gpu
from helpers.paths import ROOT

_ASK = """
import dataclasses, json
from glomedge.bench.energy import EnergyMeter, gpu_memory_bytes
from glomedge.system.environment import gpus
from glomedge.system.gpu import find_gpus
with EnergyMeter(__import__("pathlib").Path("/nowhere")) as meter:
    pass
print(json.dumps({
    "found": dataclasses.asdict(find_gpus()), "recorded": gpus(), "source": meter.source, "joules": meter.joules,
    "memory": [gpu_memory_bytes(pid) for pid in (1234, 99, 7)],
}))
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a ``libnvidia-ml.so.1``."""
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler to make the driver's library with")
    folder = tmp_path_factory.mktemp("driver")
    source = ROOT / "tests" / "helpers" / "fake_nvml.c"
    library = folder / "libnvidia-ml.so.1"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
    return folder


def ask(driver: Path, **variables: str) -> dict[str, Any]:
    path = os.pathsep.join([str(ROOT), str(ROOT / "export")])
    environment = {**os.environ, "LD_LIBRARY_PATH": str(driver), "PYTHONPATH": path, **variables}
    done = subprocess.run([sys.executable, "-c", _ASK], env=environment, capture_output=True, text=True, check=True)
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def test_gpus_of_the_driver_are_found(driver: Path) -> None:
    answer = ask(driver)
    assert answer["found"] == {
        "driver": "570.86",
        "problem": "",
        "nvml": True,
        "devices": [
            {"name": "NVIDIA L4", "compute_capability": "8.9", "memory_bytes": 23034 << 20},
            {"name": "NVIDIA Orin", "compute_capability": "8.7", "memory_bytes": 0},
        ],
    }
    # The form that nvidia-smi gave to earlier records.
    assert answer["recorded"][0] == {
        "name": "NVIDIA L4",
        "memory_mib": "23034",
        "driver": "570.86",
        "compute_capability": "8.9",
        "power_limit_w": "72.50",
    }
    assert answer["recorded"][1]["power_limit_w"] == "[N/A]"


def test_energy_and_memory_of_a_process_are_read(driver: Path) -> None:
    answer = ask(driver)
    assert answer["source"] == "NVML"
    assert answer["joules"] == {"gpu-0": 2.5}
    assert answer["memory"] == [300 << 20, 5 << 20, None]


def test_a_driver_that_does_not_answer_is_named(driver: Path) -> None:
    answer = ask(driver, FAKE_NVML_NO_DRIVER="1")
    assert answer["found"]["devices"] == []
    assert answer["found"]["problem"] == (
        "the NVIDIA driver does not answer (nvmlInit: Driver Not Loaded); run nvidia-smi"
    )
    assert (answer["recorded"], answer["source"], answer["memory"]) == ([], "", [None] * 3)


def test_a_missing_package_is_named(driver: Path, tmp_path: Path) -> None:
    (tmp_path / "pynvml.py").write_text("raise ImportError('not installed')\n")
    path = os.pathsep.join([str(tmp_path), str(ROOT), str(ROOT / "export")])
    assert "pip install nvidia-ml-py" in ask(driver, PYTHONPATH=path)["found"]["problem"]


def test_no_driver_is_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "_library", lambda *_: None)
    assert gpu.find_gpus() == gpu.Gpus("", (), "no NVIDIA driver: libnvidia-ml.so.1 is not on this system", nvml=False)
