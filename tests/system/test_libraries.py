"""libraries.py: what is missing is read from the library itself and reported with the package that provides it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from glomedge.engine import providers
from glomedge.engine.backends import nvidia_machine
from glomedge.system import libraries
from glomedge.system.telemetry import import_onnxruntime

ort = import_onnxruntime()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ELF libraries are Linux's")
def test_needed_libraries_agree_with_binutils() -> None:
    library = next((Path(ort.__file__).parent / "capi").glob("onnxruntime_pybind11_state*.so"))
    try:
        printed = subprocess.run(["readelf", "-d", str(library)], capture_output=True, text=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("readelf (binutils) is not installed")
    expected = [line.split("[")[1].rstrip("]") for line in printed.splitlines() if "(NEEDED)" in line]
    assert list(libraries.needed_libraries(library)) == expected
    assert expected
    assert libraries.missing_libraries(library) == ()


def test_a_file_that_is_no_library_needs_nothing(tmp_path: Path) -> None:
    path = tmp_path / "noise.so"
    for content in (b"", b"\x7fELF", b"not a library" * 20):
        path.write_bytes(content)
        assert libraries.needed_libraries(path) == ()


@pytest.mark.parametrize(
    ("library", "others", "words"),
    [
        ("libnvinfer.so.10", ("libcudart.so.13",), "tensorrt-cu13==10.*"),
        ("libnvinfer.so.11", ("libcudart.so.12",), "tensorrt-cu12==11.*"),
        ("libcudnn.so.9", (), "onnxruntime-gpu[cuda,cudnn]"),
        ("libcuda.so.1", (), "NVIDIA driver"),
        ("libnvidia-ml.so.1", (), "NVIDIA driver"),
        ("libunheardof.so.3", (), "system's packages"),
    ],
)
def test_what_brings_a_library(library: str, others: tuple[str, ...], words: str) -> None:
    assert words in libraries.brought_by(library, others)


def test_two_runtimes_in_one_environment_are_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    both = (libraries.Package("onnxruntime", "1.32.0"), libraries.Package("onnxruntime-gpu", "1.31.1"))
    monkeypatch.setattr(libraries, "onnxruntime_packages", lambda: both)
    reason = providers.named("cuda").unusable()
    assert reason is not None
    assert "onnxruntime 1.32.0 and onnxruntime-gpu 1.31.1 are both installed" in reason
    assert f"pip uninstall -y onnxruntime onnxruntime-gpu, then {nvidia_machine.install_gpu()}" in reason


def test_packages_are_found_by_their_metadata() -> None:
    found = {package.name: package.version for package in libraries.installed("numpy", "no-such-package-here")}
    assert found == {"numpy": np.__version__}
    assert [package.version for package in libraries.onnxruntime_packages()] == [ort.__version__]
