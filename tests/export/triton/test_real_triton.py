"""The repository in a real tritonserver 2.51 on the CPU, asked by NVIDIA's own client (``make triton-server``).

That server has no backend ``onnxruntime``: a stand-in (tests/tools/triton_standin.py) loads the same files by the same
configuration. What only NVIDIA's own backend does, TensorRT above all, is not tested here.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import glomedge
from benchmarks.lib.servers import TRITON, triton_installed, triton_server
from glomedge.imaging.enhance import enhance
from glomedge.model.file import read_model_file
from glomedge_export.triton.config import Device, Serving
from glomedge_export.triton.repository import write_repository
from helpers.builders import build_tiny_model, build_tiny_other
from helpers.colour_crops import random_crop
from helpers.paths import ROOT

pytestmark = pytest.mark.slow
TOOLS = ROOT / "tests" / "tools"


@pytest.fixture(scope="module")
def installed() -> Path:
    """The folder with server, stand-in and client."""
    pytest.importorskip("onnx", reason="needs the package onnx")
    if not triton_installed():
        pytest.skip("needs a tritonserver: make triton-server (x86-64 Linux)")
    return TRITON


def client(installed: Path, *arguments: str) -> Any:
    done = subprocess.run(
        [str(installed / "client" / "bin" / "python"), str(TOOLS / "triton_client.py"), *arguments],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def repository(folder: Path, device: Device = "cpu", **build: Any) -> Path:
    build_tiny_model(folder / "model.onnx", **build)
    write_repository(folder / "repository", folder / "model.onnx", Serving(device))
    return folder / "repository"


@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_nvidias_own_message_takes_every_field(installed: Path, tmp_path: Path, device: Device) -> None:
    build_tiny_other(tmp_path / "other.onnx", 96, 6, with_map=False)
    write_repository(tmp_path / "other", tmp_path / "other.onnx", Serving(device))
    folders = [repository(tmp_path, device), tmp_path / "other"]
    paths = [str(path) for folder in folders for path in sorted(folder.glob("*/config.pbtxt"))]
    found = client(installed, "parse", *paths)
    assert [config.get("name") for config in found] == ["glomedge", "glomedge_crop", "glomedge_enhance"] * 2
    # protobuf's JSON has int64 as text.
    assert found[0]["input"][0]["dims"] == ["224", "224", "3"]
    assert found[3]["input"][0]["dims"] == ["96", "96", "3"]
    broken = tmp_path / "broken.pbtxt"
    broken.write_text(Path(paths[0]).read_text().replace("max_batch_size", "max_batchsize"))
    assert "max_batchsize" in client(installed, "parse", str(broken))[0]["error"]


def test_the_answers_are_glomedges(installed: Path, tmp_path: Path) -> None:
    folder = repository(tmp_path)
    sizes = [(224, 224), (448, 448), (600, 577), (100, 90), (300, 90), (1, 1)]
    crops = {f"crop{seed}": random_crop(seed, *size) for seed, size in enumerate(sizes)}
    np.savez(tmp_path / "crops.npz", **crops)  # type: ignore[arg-type]  # names are arrays
    with triton_server(folder, tmp_path / "log") as server:
        assert server.process.poll() is None, (tmp_path / "log").read_text()[-3000:]
        known = client(
            installed,
            "infer",
            str(server.http_port),
            str(server.grpc_port),
            str(tmp_path / "crops.npz"),
            str(tmp_path / "out.npz"),
        )
    file = read_model_file(tmp_path / "model.onnx")
    assert known["model_sha256"] == file.sha256
    assert known["notice"] == file.spec.notice
    answers = np.load(tmp_path / "out.npz")
    assert len(answers) == 2 * len(crops) * 3
    engine = glomedge.load(tmp_path / "model.onnx", provider="cpu")
    for kind in ("http", "grpc"):
        for name, crop in crops.items():
            image = enhance(crop, file.spec.recipe)
            assert np.array_equal(answers[f"{kind}/{name}/glomedge_enhance/image"], image[np.newaxis])
            expected = engine.infer(image[np.newaxis])
            assert expected.activation is not None
            probability = answers[f"{kind}/{name}/glomedge_crop/probability"]
            assert probability.shape == (1, 1)
            assert abs(float(probability[0, 0]) - float(expected.probability[0])) <= 1e-6
            activation = answers[f"{kind}/{name}/glomedge_crop/activation"]
            assert np.abs(activation - expected.activation).max() <= 1e-5


def test_the_configuration_for_a_gpu_loads_but_for_the_gpu(installed: Path, tmp_path: Path) -> None:
    folder = repository(tmp_path, "gpu")
    path = folder / "glomedge" / "config.pbtxt"
    assert "tensorrt" in path.read_text()
    path.write_text(path.read_text().replace("KIND_GPU", "KIND_CPU"))
    with triton_server(folder, tmp_path / "log") as server:
        assert server.process.poll() is None, (tmp_path / "log").read_text()[-3000:]


def _wrong_side(text: str) -> str:
    return text.replace("dims: 224", "dims: 225")


def _wrong_batch(text: str) -> str:
    return text.replace("preferred_batch_size: 32", "preferred_batch_size: 33")


def _wrong_output(text: str) -> str:
    return re.sub(r'name: "activation"', 'name: "map"', text)


@pytest.mark.parametrize(("mutate", "words"), [
    (_wrong_side, "225"),
    (_wrong_batch, "preferred"),
    (_wrong_output, "map"),
])  # fmt: skip
def test_a_configuration_that_does_not_fit_is_refused(
    installed: Path, tmp_path: Path, mutate: Callable[[str], str], words: str
) -> None:
    folder = repository(tmp_path)
    path = folder / "glomedge" / "config.pbtxt"
    changed = mutate(path.read_text())
    assert changed != path.read_text()
    path.write_text(changed)
    with triton_server(folder, tmp_path / "log") as server:
        assert server.process.wait(timeout=60) != 0
    assert words in (tmp_path / "log").read_text()
