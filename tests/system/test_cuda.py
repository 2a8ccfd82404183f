"""cuda.py: the driver's CUDA against the wheel's, and which TensorRT lies where."""

from __future__ import annotations

from pathlib import Path

import pytest

from glomedge.system import cuda, gpu, libraries

NEEDED = ("libcublas.so.13", "libcudart.so.13", "libcuda.so.1")


@pytest.mark.parametrize(
    ("needed", "major"),
    [(NEEDED, 13), (("libcudart.so.12",), 12), (("libcudart.so.11.0",), 11), (("libcudart.so",), None), ((), None)],
)
def test_the_cuda_of_a_library_is_read_from_what_it_links(needed: tuple[str, ...], major: int | None) -> None:
    assert cuda.cuda_major(needed) == major


@pytest.mark.parametrize(
    ("runs", "major", "says"),
    [
        ((12, 8), 13, "Install NVIDIA driver 580.65 or newer, or older"),
        ((11, 4), 13, "Install NVIDIA driver 580.65 or newer"),
        ((11, 4), 12, "Install NVIDIA driver 525.60 or newer"),
        ((13, 0), 14, "Install an NVIDIA driver for CUDA 14"),
        # Minor version compatibility: any driver of the major version, and each newer one.
        ((13, 0), 13, None),
        ((12, 0), 12, None),
        ((13, 2), 12, None),
        (None, 13, None),
    ],
)
def test_a_driver_that_is_too_old_is_told_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, runs: tuple[int, int] | None, major: int, says: str | None
) -> None:
    monkeypatch.setattr(cuda, "driver_cuda", lambda: runs)
    found = cuda.driver_too_old((f"libcudart.so.{major}",), "the wheel", "older")
    assert (None if found is None else found[1]) == says


@pytest.fixture
def no_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libraries, "installed", lambda *_: ())
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)


def put(root: Path, *names: str) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for name in names:
        (root / name).write_bytes(b"\x7fELF")
    return root


@pytest.mark.usefixtures("no_packages")
def test_each_tensorrt_is_found_once_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    system = put(tmp_path / "usr/lib/x86_64-linux-gnu", "libnvinfer.so.11", "libnvinfer.so.11.0.0", "libnvinfer.so")
    (system / "libnvinfer.so.8").symlink_to("libnvinfer.so.8.6.1")  # what an uninstalled package left
    (system / "libnvinfer.so.9").touch()
    named = put(tmp_path / "TensorRT-10/lib", "libnvinfer.so.10.16.0")
    monkeypatch.setenv("LD_LIBRARY_PATH", f":{named}")
    found = cuda.installed_tensorrt(tmp_path)
    assert list(map(str, found)) == [f"TensorRT 10 ({named})", f"TensorRT 11 ({system})"]


@pytest.mark.parametrize(
    ("here", "says"),
    [
        ((), None),
        (
            (cuda.TensorRT("10", "/opt/tensorrt/lib", pip=False),),
            "TensorRT 10 (/opt/tensorrt/lib) is not where the loader looks: add that folder to LD_LIBRARY_PATH",
        ),
        (
            (cuda.TensorRT("10.16.0", "tensorrt-cu13", pip=True),),
            "TensorRT 10.16.0 (tensorrt-cu13) lacks its libraries: reinstall 'tensorrt-cu13==10.*' from NVIDIA's index",
        ),
        (
            (cuda.TensorRT("11.0.0", "tensorrt", pip=True), cuda.TensorRT("11.0.0", "tensorrt-cu13", pip=True)),
            "TensorRT 11.0.0 (tensorrt), TensorRT 11.0.0 (tensorrt-cu13) is here, and TensorRT 10 is needed. pip "
            "uninstall -y tensorrt tensorrt-cu13, then install 'tensorrt-cu13==10.*' from NVIDIA's index",
        ),
    ],
)
def test_the_cure_follows_the_tensorrt_that_is_there(
    monkeypatch: pytest.MonkeyPatch, here: tuple[cuda.TensorRT, ...], says: str | None
) -> None:
    monkeypatch.setattr(cuda, "installed_tensorrt", lambda: here)
    assert cuda.tensorrt_cure(("libnvinfer.so.10", "libnvonnxparser.so.10"), NEEDED) == says
    assert cuda.tensorrt_cure(("libcudnn.so.9",), NEEDED) is None


def test_the_driver_without_nvml_is_its_kernel_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = tmp_path / "version"
    monkeypatch.setattr(gpu, "_KERNEL_MODULE", module)
    monkeypatch.setattr(gpu, "driver_cuda", lambda: (12, 8))
    assert gpu._driver_without_nvml() == "of CUDA 12.8"
    module.write_text("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (x)\n")
    assert gpu._driver_without_nvml() == "580.65.06"
