"""A Jetson is recognised by what its system shows, and gets no advice that cannot work there."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from glomedge.cli import app
from glomedge.engine import doctor, providers
from glomedge.engine.backends import nvidia_machine
from glomedge.system import libraries
from glomedge.system.jetson import Jetson, find_jetson
from helpers.paths import ROOT

MODEL = b"NVIDIA Jetson AGX Orin Developer Kit\0"
RELEASE = b"# R39 (release), REVISION: 2.0, GCID: 1, BOARD: generic, EABI: aarch64, DATE: Mon Jun  1\n# KERNEL\n"


def write_root(root: Path, model: bytes | None, release: bytes | None) -> Path:
    """A file system with just the two files that are looked at."""
    for name, content in (("proc/device-tree/model", model), ("etc/nv_tegra_release", release)):
        if content is not None:
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(content)
    return root


@pytest.mark.parametrize(
    ("model", "release", "expected"),
    [
        (MODEL, RELEASE, "NVIDIA Jetson AGX Orin Developer Kit, Jetson Linux R39.2.0"),
        (MODEL, None, "NVIDIA Jetson AGX Orin Developer Kit"),  # a container
        (None, RELEASE, "NVIDIA Jetson, Jetson Linux R39.2.0"),
        (None, b"", "NVIDIA Jetson"),
        (None, b"\xff unreadable", "NVIDIA Jetson"),
        (b"Raspberry Pi 5 Model B Rev 1.0\0", None, None),
        (None, None, None),
    ],
)
def test_a_jetson_is_known_by_its_release_file_or_its_device_tree(
    tmp_path: Path, model: bytes | None, release: bytes | None, expected: str | None
) -> None:
    found = find_jetson(write_root(tmp_path, model, release))
    assert (None if found is None else str(found)) == expected


def test_this_machine_is_judged_by_its_own_files() -> None:
    assert (find_jetson() is None) == (find_jetson(Path("/")) is None)


@pytest.fixture
def on_a_jetson(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jetson:
    """glomedge looks at the files of a Jetson."""
    root = write_root(tmp_path, MODEL, RELEASE)
    for module in (nvidia_machine, doctor):
        monkeypatch.setattr(module, "find_jetson", lambda: find_jetson(root))
    board = find_jetson(root)
    assert board is not None
    return board


@pytest.mark.parametrize("packages", [(), ("onnxruntime",), ("onnxruntime", "onnxruntime-gpu")])
@pytest.mark.parametrize("name", ["cuda", "tensorrt"])
def test_gpu_advice_on_a_jetson_is_the_page_and_no_pip_install(
    monkeypatch: pytest.MonkeyPatch, on_a_jetson: Jetson, name: str, packages: tuple[str, ...]
) -> None:
    installed = tuple(libraries.Package(package, "1.31.1") for package in packages)
    monkeypatch.setattr(libraries, "onnxruntime_packages", lambda: installed)
    if packages == ("onnxruntime",) and libraries.installed("onnxruntime-gpu"):
        pytest.skip("the wheel here has the GPU providers")
    reason = providers.PROVIDERS[name].unusable()
    assert reason is not None
    assert str(on_a_jetson) in reason
    assert "docs/jetson.md" in reason
    assert "pip install" not in reason
    assert "[gpu]" not in reason


def test_tensorrt_for_rtx_is_not_recommended_on_a_jetson(on_a_jetson: Jetson) -> None:
    reason = providers.PROVIDERS["tensorrt-rtx"].unusable()
    assert reason is not None
    assert "does not run on a Jetson" in reason
    assert "pip install" not in reason


def test_a_missing_library_on_a_jetson_is_not_to_be_had_from_pip(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_a_jetson: Jetson
) -> None:
    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libx.so").touch()
    monkeypatch.setattr(libraries, "module_folder", lambda module: tmp_path)
    monkeypatch.setattr(libraries, "missing_libraries", lambda *_: ("libnvinfer.so.10",))
    reason = providers.builtin_unusable("tensorrt", "CPUExecutionProvider", nvidia_machine.INSTALL_GPU, "libx.so")
    assert reason is not None
    assert "missing libnvinfer.so.10" in reason
    assert "docs/jetson.md" in reason
    assert "pip install" not in reason


def test_doctor_names_the_board_and_the_page(on_a_jetson: Jetson) -> None:
    said = " ".join(CliRunner().invoke(app, ["doctor"], env={"COLUMNS": "200"}).stdout.split())
    assert f"board {on_a_jetson}; see docs/jetson.md" in said
    assert "[gpu]" not in said
    assert doctor.diagnose().to_json_object()["jetson"] == str(on_a_jetson)
    assert (ROOT / "docs" / "jetson.md").is_file()


def test_elsewhere_doctor_says_nothing_of_a_jetson() -> None:
    if find_jetson() is not None:
        pytest.skip("this is a Jetson")
    assert "jetson" not in CliRunner().invoke(app, ["doctor"]).stdout.lower()
