"""NVIDIA's own client understands the server, over HTTP and gRPC, and gets the answers of ``predict``."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import glomedge
from helpers.paths import ROOT
from helpers.server import serving
from helpers.v2 import crop_png, enhanced

pytestmark = pytest.mark.slow

PYTHON = Path(os.environ.get("GLOMEDGE_TRITON_PYTHON", ROOT / "build" / "triton" / "client" / "bin" / "python"))


def test_the_answers_are_those_of_predict(tiny_model: Path, tmp_path: Path) -> None:
    if not PYTHON.is_file():
        pytest.skip("tritonclient needs an environment of its own: make triton-server")
    files = [crop_png(seed) for seed in range(4)]
    files.insert(2, b"\x89PNG\r\n\x1a\n\0broken")
    for index, data in enumerate(files):
        (tmp_path / f"{index}.png").write_bytes(data)
    pixels = enhanced(7, 3)
    np.save(tmp_path / "pixels.npy", pixels)
    with glomedge.load(tiny_model, provider="cpu") as engine:
        expected, network = engine.predict(files), engine.infer(pixels)
    assert network.activation is not None
    with serving(tiny_model, "--grpc-port", "0") as server:
        script = ROOT / "tests" / "tools" / "served_client.py"
        addresses = [f"127.0.0.1:{server.port}", f"127.0.0.1:{server.grpc_port}"]
        done = subprocess.run(
            [PYTHON, script, *addresses, tmp_path], capture_output=True, text=True, check=False, timeout=300
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert {line["id"] for line in server.audit()} == {"conformance"}
    found = json.loads(done.stdout)
    assert list(found) == ["http", "http in JSON", "grpc"]
    for told in found.values():
        of_files, of_pixels = told["image"], told["images"]
        assert of_files["status"] == [item.status for item in expected]
        assert of_files["label"] == [-1 if item.label is None else item.label for item in expected]
        probability = np.frombuffer(bytes.fromhex(of_files["probability_hex"]), "<f4")
        assert [None if np.isnan(value) else float(value) for value in probability] == [
            item.probability for item in expected
        ]
        assert (of_files["shape"], of_pixels["shape"]) == ([5, 1], [3, 1])
        assert of_pixels["probability_hex"] == network.probability.tobytes().hex()
        assert of_pixels["activation_hex"] == network.activation.tobytes().hex()
