"""``glomedge export-page``: the page in a real browser, opened from disk, gives the answers of glomedge."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

import glomedge
from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cases.prevalence import wilson_interval
from glomedge.cli import build
from glomedge.errors import OutputError, UsageError
from glomedge.imaging.enhance import enhance
from glomedge.imaging.images import decode
from helpers.builders import build_tiny_model
from helpers.colour_crops import random_crop

pytest.importorskip("onnx", reason="needs the package onnx")

from glomedge_export.browser_page.write import Runtime, write_browser_page

NPM_VERSION = "1.30.0"


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """onnxruntime-web: of the folder in GLOMEDGE_ONNXRUNTIME_WEB, or installed by npm (140 MB)."""
    if given := os.environ.get("GLOMEDGE_ONNXRUNTIME_WEB"):
        return Path(given)
    npm = shutil.which("npm")
    if npm is None:
        pytest.skip("needs npm, or onnxruntime-web in the folder GLOMEDGE_ONNXRUNTIME_WEB")
    folder = tmp_path_factory.mktemp("npm")
    command = [npm, "install", "--ignore-scripts", "--no-audit", "--no-fund", f"onnxruntime-web@{NPM_VERSION}"]
    installed = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if installed.returncode != 0:
        pytest.skip(f"npm cannot install onnxruntime-web here: {installed.stderr[-200:]}")
    return folder / "node_modules" / "onnxruntime-web"


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if shutil.which("chromedriver") is None:
        pytest.skip("Chromium and ChromeDriver are not installed (Debian: chromium chromium-driver)")
    pytest.importorskip("selenium", reason="selenium is not installed: pip install 'glomedge[dev]'")
    from benchmarks.speed.report_browser import browser

    with browser((1100, 900), tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def crops(folder: Path) -> list[Path]:
    """PNG of each kind that the page decodes, in a folder of their own."""
    folder.mkdir()
    for seed, size in enumerate([(224, 224), (448, 448), (600, 577), (100, 90), (300, 90)]):
        Image.fromarray(random_crop(seed, *size)).save(folder / f"rgb{seed}.png")
    smooth = random_crop(1, 250, 260)
    alpha = np.linspace(0, 255, 260).astype(np.uint8)
    Image.fromarray(np.dstack([smooth, np.broadcast_to(alpha, smooth.shape[:2])])).save(folder / "alpha.png")
    Image.fromarray(smooth[..., 0]).save(folder / "gray.png")
    Image.fromarray(smooth).quantize(200).save(folder / "palette.png")
    Image.fromarray(smooth).quantize(200).save(folder / "palette_with_a_key.png", transparency=bytes(range(200)))
    Image.fromarray(np.dstack([smooth[..., 0], smooth[..., 1]]), "LA").save(folder / "gray_alpha.png")
    return sorted(folder.iterdir())


def refused(folder: Path) -> list[Path]:
    """What the page answers with a reason."""
    folder.mkdir()
    deep = np.random.default_rng(0).integers(0, 65536, (240, 230, 3), np.uint16)
    assert cv2.imwrite(str(folder / "deep.png"), deep)
    Image.fromarray(random_crop(2, 20, 90)).save(folder / "small.png")
    good = crops(folder / "good")[-1].read_bytes()
    (folder / "cut.png").write_bytes(good[:-30])
    (folder / "damaged.png").write_bytes(good[:200] + b"?" + good[201:])
    (folder / "text.png").write_bytes(b"no picture")
    shutil.rmtree(folder / "good")
    return sorted(folder.iterdir())


class Visit:
    """Somebody who has opened the page from disk."""

    def __init__(self, chrome: Any, page: Path) -> None:
        self.chrome = chrome
        chrome.get(page.as_uri())
        self.wait(lambda: "Ready" in self.text("said") or bool(self.text("wrong")))

    def wait(self, done: Any) -> None:
        from selenium.webdriver.support.wait import WebDriverWait

        WebDriverWait(self.chrome, 300).until(lambda _: done())

    def text(self, identity: str) -> str:
        return str(self.chrome.find_element("id", identity).text)

    def classify(self, files: list[Path], folder: Path) -> list[dict[str, str]]:
        """The rows of the table that is offered."""
        self.chrome.find_element("id", "files").send_keys("\n".join(map(str, files)))
        self.wait(lambda: "a second" in self.text("said") or bool(self.text("wrong")))
        assert self.text("wrong") == ""
        self.chrome.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
        self.chrome.find_element("id", "download").click()
        self.wait((folder / "predictions.csv").is_file)
        with (folder / "predictions.csv").open(newline="", encoding="utf-8") as handle:
            found = list(csv.DictReader(handle))
        (folder / "predictions.csv").unlink()
        return found


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["seed", "published", "plain"])
def test_the_answers_are_those_of_glomedge(recipe: str, package: Path, chrome: Any, tmp_path: Path) -> None:
    model = tmp_path / "model.onnx"
    spec = build_tiny_model(model, recipe=recipe)
    page = write_browser_page(tmp_path / "page", model, package)
    named = crops(tmp_path / "crops")
    visit = Visit(chrome, page)
    rows = visit.classify([*named, *refused(tmp_path / "refused")], tmp_path)
    answered = {row["path"]: row for row in rows if row["status"] == "ok"}
    assert sorted(answered) == [path.name for path in named]
    engine = glomedge.load(model, provider="cpu")
    for path in named:
        image = enhance(decode(path.read_bytes()).pixels_hwc, spec.recipe)
        expected = float(engine.infer(image[np.newaxis]).probability[0])
        row = answered[path.name]
        assert abs(float(row["probability"]) - expected) <= 1e-6, path.name
        assert row["label"] == str(int(expected >= spec.threshold))
        assert (row["class_name"], row["notice"]) == (spec.class_names[int(row["label"])], RESEARCH_USE_NOTICE)
    messages = {row["path"]: row["message"] for row in rows if row["status"] != "ok"}
    assert {name: bool(re.search(words, messages[name])) for name, words in {
        "deep.png": "16 bits", "small.png": "less than 32", "cut.png": "too early", "damaged.png": "damaged",
        "text.png": "neither PNG nor JPEG",
    }.items()} == dict.fromkeys(messages, True)  # fmt: skip
    positive = sum(row["label"] == "1" for row in answered.values())
    low, high = (100 * end for end in wilson_interval(positive, len(named)))
    assert f"{positive} of {len(named)} globally sclerotic: {10 * positive:.1f}%" in visit.text("summary")
    assert f"({low:.1f} to {high:.1f})" in visit.text("summary").replace("95% interval ", "")
    assert [entry for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"] == []


@pytest.mark.slow
def test_a_jpeg_is_classified_and_a_page_with_another_network_refuses(
    package: Path, chrome: Any, tmp_path: Path
) -> None:
    model = tmp_path / "model.onnx"
    spec = build_tiny_model(model)
    page = write_browser_page(tmp_path / "page", model, package)
    photo = tmp_path / "photo.jpg"
    cv2.imwrite(str(photo), cv2.GaussianBlur(random_crop(1, 300, 280), (0, 0), 3))
    (row,) = Visit(chrome, page).classify([photo], tmp_path)
    image = enhance(decode(photo.read_bytes()).pixels_hwc, spec.recipe)
    expected = float(glomedge.load(model, provider="cpu").infer(image[np.newaxis]).probability[0])
    assert abs(float(row["probability"]) - expected) <= 2e-3, "the browser's own decoder"
    text = page.read_text("utf-8")
    settings = json.loads(re.search(r'id="settings">(.*?)</script>', text)[1])  # type: ignore[index]
    told = f'"golden_probability": {settings["golden_probability"]}'
    assert text.count(told) == 1
    page.write_text(text.replace(told, '"golden_probability": 0.123'), "utf-8")
    other = Visit(chrome, page)
    assert "does not give the answers of glomedge" in other.text("wrong")
    assert not chrome.find_element("id", "pick-files").is_enabled()
    # What the browser is told to let out: nothing.
    sent = chrome.execute_async_script(
        "const done = arguments[0]; fetch('http://127.0.0.1:9/').then(() => done('sent'), e => done(e.name));"
    )
    assert sent == "TypeError"
    assert any("connect-src" in entry["message"] for entry in chrome.get_log("browser"))


def stand_in_package(folder: Path, name: str = "onnxruntime-web") -> Path:
    """A folder that looks like the package; what is in it runs nowhere."""
    (folder / "dist").mkdir(parents=True)
    (folder / "package.json").write_text(json.dumps({"name": name, "version": "1.2.3"}))
    for file in ("ort.wasm.bundle.min.mjs", "ort-wasm-simd-threaded.wasm"):
        (folder / "dist" / file).write_bytes(b"x")
    return folder


def test_one_file_with_everything_inside(tiny_model: Path, tmp_path: Path) -> None:
    given = stand_in_package(tmp_path / "onnxruntime-web")
    assert Runtime.read(given).version == "1.2.3"
    arguments = ["export-page", str(tmp_path / "out"), "-m", str(tiny_model), "--onnxruntime-web", str(given)]
    done = CliRunner().invoke(build(["export-page"]), [*arguments, "--json"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.output)["page"] == str(tmp_path / "out" / "index.html")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["index.html"]
    text = (tmp_path / "out" / "index.html").read_text("utf-8")
    assert RESEARCH_USE_NOTICE in text
    assert "connect-src 'none'" in text
    assert "ONNX Runtime Web 1.2.3" in text
    assert re.search(r"(src|href)=", text) is None, "nothing from outside"


def test_what_cannot_be_a_page(tiny_model: Path, tmp_path: Path) -> None:
    given = stand_in_package(tmp_path / "whole")
    other = stand_in_package(tmp_path / "other", "onnxruntime-node")
    (part := stand_in_package(tmp_path / "part") / "dist" / "ort-wasm-simd-threaded.wasm").unlink()
    for folder, words in ((other, "is not the npm package"), (part.parents[1], "threaded.wasm cannot be read"),
                          (tmp_path / "none", "package.json cannot be read")):  # fmt: skip
        with pytest.raises(UsageError, match=rf"{words}.*npm install --ignore-scripts onnxruntime-web"):
            write_browser_page(tmp_path / "out", tiny_model, folder)
    build_tiny_model(tmp_path / "model.onnx", target="openvino")
    with pytest.raises(UsageError, match=r"laid out for openvino.*--target onnxruntime"):
        write_browser_page(tmp_path / "out", tmp_path / "model.onnx", given)
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_bytes(b"kept")
    with pytest.raises(OutputError, match=r"file cannot be written.*Name another OUT"):
        write_browser_page(tmp_path / "file", tiny_model, given)
    assert (tmp_path / "file").read_bytes() == b"kept"
