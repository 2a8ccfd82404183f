"""The programs under ``docs/examples`` give the pixels and the answers of glomedge."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

import glomedge
from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.imaging.enhance import enhance
from glomedge.imaging.images import decode
from glomedge.model.file import read_model_file
from glomedge.system.telemetry import import_onnxruntime
from helpers.builders import build_tiny_model, tiny_graph
from helpers.colour_crops import random_crop
from helpers.paths import ROOT

JAVASCRIPT = ROOT / "docs" / "examples" / "javascript"
CPP = ROOT / "docs" / "examples" / "cpp" / "classify.cpp"


def crops(folder: Path) -> list[Path]:
    """PNG files of every kind that a decoder can get wrong, and more than one batch of them."""
    folder.mkdir()
    for seed, size in enumerate([(224, 224), (448, 448), (600, 577), (100, 90), (300, 90), (672, 448)]):
        Image.fromarray(random_crop(seed, *size)).save(folder / f"rgb{seed}.png")
    smooth = random_crop(1, 250, 260)
    alpha = np.linspace(0, 255, 260).astype(np.uint8)
    rgba = np.dstack([smooth, np.broadcast_to(alpha, smooth.shape[:2])])
    Image.fromarray(rgba).save(folder / "alpha.png")
    Image.fromarray(smooth[..., 0]).save(folder / "gray.png")
    Image.fromarray(smooth).quantize(200).save(folder / "palette.png")
    deep = np.random.default_rng(0).integers(0, 65536, (240, 230, 3), np.uint16)
    assert cv2.imwrite(str(folder / "deep.png"), deep)
    return sorted(folder.iterdir())


@pytest.mark.slow
def test_javascript(tmp_path: Path) -> None:
    """Installs the npm packages that the example names, about 290 MB, into a temporary folder."""
    pytest.importorskip("onnx", reason="needs the package onnx")
    from glomedge_export.enhancement.files import Companions, made

    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        pytest.skip("needs Node.js and npm")
    for name in ("package.json", "classify.mjs"):
        shutil.copy(JAVASCRIPT / name, tmp_path)
    installed = subprocess.run(
        [npm, "install", "--no-audit", "--no-fund"],
        cwd=tmp_path, env=os.environ | {"ONNXRUNTIME_NODE_INSTALL": "skip"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    if installed.returncode != 0:
        pytest.skip(f"npm cannot install the example's packages here: {installed.stderr[-200:]}")
    model = tmp_path / "model.onnx"
    spec = build_tiny_model(model, recipe="seed")
    files = made(Companions(enhancement=True), model, tiny_graph(), spec, read_model_file(model).sha256)
    (tmp_path / "enhance.onnx").write_bytes(files[tmp_path / "enhance.onnx"][0])
    named = crops(tmp_path / "crops")
    ran = subprocess.run(
        [node, "classify.mjs", "enhance.onnx", "model.onnx", *map(str, named)],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert RESEARCH_USE_NOTICE in ran.stderr
    answers = [json.loads(line) for line in ran.stdout.splitlines()]
    assert [answer["file"] for answer in answers] == [str(path) for path in named]
    engine = glomedge.load(model, provider="cpu")
    for path, answer in zip(named, answers, strict=True):
        image = enhance(decode(path.read_bytes()).pixels_hwc, spec.recipe)
        assert answer["image_sha256"] == hashlib.sha256(image.tobytes()).hexdigest(), path.name
        expected = float(engine.infer(image[np.newaxis]).probability[0])
        assert abs(answer["probability"] - expected) <= 1e-6, path.name


def test_cpp(tmp_path: Path) -> None:
    """Against the library of the Python package, whose wheel has no headers; neither has any other package."""
    pytest.importorskip("onnx", reason="needs the package onnx")
    from glomedge_export.enhancement.files import Companions, made

    compiler, include = shutil.which("g++"), os.environ.get("GLOMEDGE_ONNXRUNTIME_INCLUDE")
    if compiler is None or include is None:
        pytest.skip("needs g++, and the headers of an ONNX Runtime release in GLOMEDGE_ONNXRUNTIME_INCLUDE")
    (library,) = (Path(import_onnxruntime().__file__).parent / "capi").glob("libonnxruntime.so.*")
    program = tmp_path / "classify"
    subprocess.run(
        [compiler, "-std=c++17", "-O1", "-Wall", str(CPP), "-isystem", include, str(library),
         f"-Wl,-rpath,{library.parent}", "-o", str(program)], check=True,
    )  # fmt: skip
    model = tmp_path / "model.onnx"
    spec = build_tiny_model(model, recipe="seed")
    files = made(Companions(enhancement=True), model, tiny_graph(), spec, read_model_file(model).sha256)
    (tmp_path / "enhance.onnx").write_bytes(files[tmp_path / "enhance.onnx"][0])
    pictures = {
        f"{seed}.ppm": random_crop(seed, *size) for seed, size in enumerate([(224, 224), (600, 577), (90, 300)])
    }
    for name, pixels in pictures.items():
        Image.fromarray(pixels).save(tmp_path / name)
    environment = os.environ | {"LD_LIBRARY_PATH": str(_linked(library, tmp_path))}
    ran = subprocess.run(
        [program, "enhance.onnx", "model.onnx", *pictures],
        cwd=tmp_path, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    assert RESEARCH_USE_NOTICE in ran.stderr
    answers = {answer["file"]: answer["probability"] for answer in map(json.loads, ran.stdout.splitlines())}
    assert list(answers) == list(pictures)
    engine = glomedge.load(model, provider="cpu")
    for name, pixels in pictures.items():
        expected = float(engine.infer(enhance(pixels, spec.recipe)[np.newaxis]).probability[0])
        assert abs(answers[name] - expected) <= 1e-6, name
    (tmp_path / "cut.ppm").write_bytes(b"P6 90 90 255\n123")
    for name in ("cut.ppm", "none.ppm"):
        wrong = subprocess.run(
            [program, "enhance.onnx", "model.onnx", name], cwd=tmp_path, env=environment, check=False
        )
        assert wrong.returncode == 1


def _linked(library: Path, folder: Path) -> Path:
    """A folder in which the library has the name that programs ask for, as in a release of ONNX Runtime."""
    (folder / "lib").mkdir()
    (folder / "lib" / "libonnxruntime.so.1").symlink_to(library)
    return folder / "lib"


def test_the_examples_can_be_parsed_and_say_for_what_they_are() -> None:
    node = shutil.which("node")
    assert RESEARCH_USE_NOTICE in CPP.read_text("utf-8")
    for path in JAVASCRIPT.glob("*.mjs"):
        assert RESEARCH_USE_NOTICE in path.read_text("utf-8")
        if node is not None:
            subprocess.run([node, "--check", str(path)], check=True)
