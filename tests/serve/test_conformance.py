"""NVIDIA's own client asks ``glomedge serve`` and a real tritonserver 2.51, by the same code, for the same answers.

``make triton-server`` makes both client and server, in build/triton. The tritonserver serves what ``export-triton``
writes; its backend ``onnxruntime`` is a stand-in (tests/tools/triton_standin.py).
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pytest

import glomedge
from benchmarks.lib.servers import TRITON, triton_installed, triton_server
from glomedge_export.triton.config import Serving
from glomedge_export.triton.repository import write_repository
from helpers.paths import ROOT
from helpers.server import serving
from helpers.v2 import crop_png, enhanced

pytestmark = pytest.mark.slow

PROTOCOLS = ("http", "http in JSON", "grpc")
ROUNDING = 1e-6
"""Between batches of one network: each size has kernels of its own."""


@dataclass(frozen=True)
class Addresses:
    """A server that runs: which it is, and where."""

    name: str
    http: str
    grpc: str


@dataclass(frozen=True)
class Told:
    """What one server said: ``answers`` of pixels by protocol and output, and the rest."""

    by_protocol: dict[str, Any]
    answers: dict[str, npt.NDArray[np.float32]]


@pytest.fixture(scope="module", params=["glomedge", "tritonserver"])
def server(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Addresses]:
    """Each of the two, with the same model file."""
    pytest.importorskip("onnx", reason="needs the package onnx")
    if not triton_installed():
        pytest.skip("tritonclient and tritonserver need environments of their own: make triton-server (x86-64 Linux)")
    if request.param == "glomedge":
        with serving(tiny_model, "--grpc-port", "0") as running:
            yield Addresses(request.param, f"127.0.0.1:{running.port}", f"127.0.0.1:{running.grpc_port}")
        return
    folder = tmp_path_factory.mktemp("triton")
    write_repository(folder / "repository", tiny_model, Serving("cpu"))
    with triton_server(folder / "repository", folder / "log") as other:
        assert other.process.poll() is None, (folder / "log").read_text()[-3000:]
        yield Addresses(request.param, f"127.0.0.1:{other.http_port}", f"127.0.0.1:{other.grpc_port}")


def ask(server: Addresses, folder: Path, pixels: npt.NDArray[np.uint8], files: list[bytes] | None = None) -> Told:
    """The client in its own environment, on those crops."""
    for index, data in enumerate(files or []):
        (folder / f"{index:03d}.png").write_bytes(data)
    np.save(folder / "pixels.npy", pixels)
    done = subprocess.run(
        [TRITON / "client" / "bin" / "python", ROOT / "tests" / "tools" / "served_client.py", server.http, server.grpc,
         folder],
        capture_output=True, text=True, check=False, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    with np.load(folder / "answers.npz") as answers:
        return Told(json.loads(done.stdout), dict(answers))


def check(told: Told, model: Path, pixels: npt.NDArray[np.uint8]) -> None:
    """Every protocol gave the engine's answers."""
    with glomedge.load(model, provider="cpu") as engine:
        expected = engine.infer(pixels)
    assert expected.activation is not None
    assert np.ptp(expected.probability) > 0.01
    for protocol in PROTOCOLS:
        probability, activation = told.answers[f"{protocol}/probability"], told.answers[f"{protocol}/activation"]
        count = len(probability)
        assert count == (min(8, len(pixels)) if protocol == "http in JSON" else len(pixels))
        assert (str(probability.dtype), probability.shape) == ("float32", (count, 1))
        assert np.abs(probability[:, 0] - expected.probability[:count]).max() <= ROUNDING
        assert activation.shape == (count, 7, 7)
        assert np.abs(activation - expected.activation[:count]).max() <= 10 * ROUNDING


def test_answers_metadata_and_refusals(server: Addresses, tiny_model: Path, tmp_path: Path) -> None:
    pixels = enhanced(7, 42)
    told = ask(server, tmp_path, pixels)
    check(told, tiny_model, pixels)
    for protocol in PROTOCOLS:
        found = told.by_protocol[protocol]
        metadata = found["metadata"]
        assert metadata["healthy"]
        assert (metadata["name"], metadata["versions"]) == ("glomedge", ["1"])
        expected = {
            "images": ["UINT8", [-1, 224, 224, 3]],
            "probability": ["FP32", [-1, 1]],
            "activation": ["FP32", [-1, 7, 7]],
        }
        assert {name: metadata["tensors"][name] for name in expected} == expected
        assert [name for name, status in found["refusals"].items() if status is None] == []


def test_the_real_crops(server: Addresses, tiny_model: Path, tmp_path: Path, real_data: Path) -> None:
    with glomedge.load(tiny_model, provider="cpu") as engine:
        recipe = engine.spec.recipe
    paths = sorted(real_data.rglob("*.png"))
    assert len(paths) == 830
    pixels = np.stack(
        [glomedge.enhance(cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB), recipe) for path in paths]
    )
    check(ask(server, tmp_path, pixels), tiny_model, pixels)


def test_files_are_answered_as_by_predict(server: Addresses, tiny_model: Path, tmp_path: Path) -> None:
    if server.name != "glomedge":
        pytest.skip("decoding is no part of the repository for Triton: it takes pixels")
    files = [crop_png(seed) for seed in range(4)]
    files.insert(2, b"\x89PNG\r\n\x1a\n\0broken")
    with glomedge.load(tiny_model, provider="cpu") as engine:
        expected = engine.predict(files)
    told = ask(server, tmp_path, enhanced(1, 2), files)
    for protocol in PROTOCOLS:
        found = told.by_protocol[protocol]["files"]
        assert found["status"] == [item.status for item in expected]
        assert found["label"] == [-1 if item.label is None else item.label for item in expected]
        probability = np.frombuffer(bytes.fromhex(found["probability_hex"]), "<f4")
        assert [None if np.isnan(value) else float(value) for value in probability] == [
            item.probability for item in expected
        ]
