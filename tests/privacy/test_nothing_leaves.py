"""Nothing leaves the machine, and nothing is written outside the output folder and glomedge's own cache.

Each command runs in a fresh home with CI unset: onnxruntime and OpenVINO are silent by themselves where CI is set.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path

import pytest

from helpers import drawn_slides
from helpers.labelled import write_crops
from helpers.traced import Left, created_outside, has_strace, leaves_the_machine, run_traced

MAIN = "from glomedge.cli import main; main()"
PYTHON = """
import sys
import glomedge
with glomedge.load(sys.argv[1], provider="cpu") as model:
    print(model.predict([sys.argv[2]]))
"""
KERAS = pytest.mark.keras
OPENVINO = pytest.mark.openvino

COMMANDS = [
    pytest.param(["info", "model.onnx"], id="info"),
    pytest.param(["doctor"], marks=OPENVINO, id="doctor"),
    pytest.param(
        [
            "infer",
            "data",
            "-m",
            "model.onnx",
            "--provider",
            "cpu",
            "-o",
            "out",
            "--decode-in",
            "processes",
            "--workers",
            "2",
        ],
        id="infer",
    ),
    pytest.param(
        ["infer", "data", "-m", "model.onnx", "--provider", "openvino", "-o", "out"], marks=OPENVINO, id="openvino"
    ),
    pytest.param(["evaluate", "data", "-m", "model.onnx", "--provider", "cpu"], id="evaluate"),
    pytest.param(["label", "data", "-m", "model.onnx", "--provider", "cpu", "-o", "out"], id="label"),
    pytest.param(["warm", "model.onnx", "--provider", "openvino"], marks=OPENVINO, id="warm"),
    pytest.param(
        ["bench", "-m", "model.onnx", "--provider", "cpu", "--images", "data", "--duration", "0.1", "-o", "out"],
        id="bench",
    ),
    pytest.param(["synth", "out", "--crops", "6", "--cases", "3"], id="synth"),
    pytest.param(["synth-slide", "out", "--glomeruli", "2", "--cases", "1"], id="synth-slide"),
    pytest.param(["crop", "data/slide.svs", "--annotations", "data/slide.csv", "-o", "out"], id="crop"),
    pytest.param(
        ["train", "data", "-o", "out", "--weights", "none", "--epochs", "1", "--batch-size", "2"],
        marks=KERAS,
        id="train",
    ),
    pytest.param(["demo", "out"], marks=[KERAS, pytest.mark.slow], id="demo"),  # export is one of its steps
]


def _check(done: Left) -> None:
    assert done.returncode == 0, done.text[-3000:]
    assert done.files == ()
    # None where strace is missing: the files alone are looked at.
    assert not done.calls
    assert not done.created


@pytest.fixture
def root(tmp_path: Path, tiny_model: Path) -> Path:
    work = tmp_path / "work"
    work.mkdir()
    write_crops(work / "data")
    drawn_slides.write(work / "data" / "slide.svs")
    (work / "data" / "slide.csv").write_text("x,y,width,height\n10,20,300,280\n")
    shutil.copyfile(tiny_model, tmp_path / "model.onnx")
    return tmp_path


@pytest.mark.parametrize("arguments", COMMANDS)
def test_a_command_keeps_to_its_folders(root: Path, arguments: list[str]) -> None:
    if "openvino" in arguments and importlib.util.find_spec("openvino") is None:
        pytest.skip("OpenVINO is not installed: pip install openvino")
    if arguments[0] in ("train", "demo") and importlib.util.find_spec("tensorflow") is None:
        pytest.skip("needs TensorFlow: pip install 'glomedge[export]'")
    if arguments[0] in ("infer", "crop") and importlib.util.find_spec("openslide") is None:
        pytest.skip("needs OpenSlide: pip install 'glomedge[slides]'")
    given = [str(root / "model.onnx") if part == "model.onnx" else part for part in arguments]
    _check(run_traced(MAIN, given, root, timeout_s=1800))


def test_the_python_interface_keeps_to_them_too(root: Path) -> None:
    crop = next((root / "work" / "data").rglob("*.png"))
    _check(run_traced(PYTHON, [root / "model.onnx", crop], root))


def test_files_and_calls_are_found(tmp_path: Path) -> None:
    # The address is one of those kept for documentation (RFC 5737); connecting a UDP socket sends nothing.
    code = """
import os, pathlib, socket
pathlib.Path.home().joinpath("deviceid").write_text("1")
pathlib.Path(os.environ["HOME"]).parent.parent.joinpath(os.environ["HOME"].split("/")[-2] + ".elsewhere").write_text("")
socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(("192.0.2.1", 53))
"""
    root = tmp_path / "one"
    root.mkdir()
    done = run_traced(code, [], root)
    assert done.returncode == 0, done.text
    assert done.files == ("home/deviceid",)
    if not has_strace():
        pytest.skip("strace is not installed, or not allowed here: system calls cannot be looked at")
    assert done.calls is not None
    assert len(done.calls) == 1
    assert done.created == (str(tmp_path / "one.elsewhere"),)


@pytest.mark.parametrize(
    ("line", "leaves"),
    [
        ('7 connect(5, {sa_family=AF_UNIX, sun_path="/run/nscd/socket"}, 110) = -1 ENOENT', False),
        ('7 connect(5, {sa_family=AF_INET, sin_port=htons(80), sin_addr=inet_addr("127.0.0.1")}, 16) = 0', False),
        ('7 connect(5, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("10.1.1.1")}, 16) = -1 E', True),
        ('7 connect(5, {sa_family=AF_INET6, sin6_port=htons(443), sin6_flowinfo=htonl(0), inet_pton(AF_INET6, "::1", &s'
         "in6_addr), sin6_scope_id=0}, 28) = 0", False),
        ('7 connect(5, {sa_family=AF_INET6, sin6_port=htons(443), sin6_flowinfo=htonl(0), inet_pton(AF_INET6, "2001:db8'
         '::1", &sin6_addr), sin6_scope_id=0}, 28) = -1 ENETUNREACH', True),
        ('7 sendto(5, "x", 1, 0, {sa_family=AF_INET, sin_port=htons(53), sin_addr=inet_addr("192.0.2.1")}, 16) = 1',
         True),
        ('7 sendto(5, "x", 1, 0, NULL, 0) = 1', False),
        ('7 openat(AT_FDCWD, "/connect(", O_RDONLY) = 3', False),
    ],
)  # fmt: skip
def test_which_addresses_are_elsewhere(line: str, leaves: bool) -> None:
    assert leaves_the_machine(line) is leaves


@pytest.mark.parametrize(
    ("line", "path"),
    [
        ('7 openat(AT_FDCWD, "/elsewhere/x/.nv/a", O_RDWR|O_CREAT|O_EXCL, 0600) = 3', "/elsewhere/x/.nv/a"),
        ('7 openat(AT_FDCWD, "/elsewhere/x/.nv/a", O_RDWR|O_CREAT|O_EXCL, 0600) = -1 EACCES (Permission denied)', ""),
        ('7 openat(AT_FDCWD, "/elsewhere/x/.nv/a", O_RDONLY|O_CLOEXEC) = 3', ""),
        ('7 mkdir("/elsewhere/x/intel", 0777) = 0', "/elsewhere/x/intel"),
        ('7 openat(AT_FDCWD, "/allowed/tmp/b", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 3', ""),
        ('7 openat(AT_FDCWD, "/dev/null", O_WRONLY|O_CREAT|O_TRUNC, 0666) = 3', ""),
    ],
)
def test_which_files_are_elsewhere(line: str, path: str) -> None:
    assert created_outside(line, Path("/allowed")) == path
