"""The page that classifies in the browser refuses the JPEGs that glomedge refuses before it decodes."""

from __future__ import annotations

import base64
import io
import shutil
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from glomedge.errors import ImageError
from glomedge.imaging.images import decode
from helpers.colour_crops import random_crop

# A worker without its models: what it decodes fails one step later.
_ASK = """
const [source, data, done] = arguments;
const worker = new Worker(URL.createObjectURL(new Blob([source], {type: "text/javascript"})));
worker.onmessage = event => done(event.data.error ?? "no error");
worker.postMessage({id: 0, bytes: Uint8Array.from(atob(data), c => c.charCodeAt(0)).buffer});
"""


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if shutil.which("chromedriver") is None:
        pytest.skip("Chromium and ChromeDriver are not installed (Debian: chromium chromium-driver)")
    pytest.importorskip("selenium", reason="selenium is not installed: pip install 'glomedge[dev]'")
    from benchmarks.speed.report_browser import browser

    with browser((800, 600), tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def saved(image: Image.Image, **options: Any) -> bytes:
    target = io.BytesIO()
    image.save(target, "jpeg", **options)
    return target.getvalue()


def test_a_jpeg_that_glomedge_refuses_before_it_decodes(chrome: Any, tmp_path: Path) -> None:
    image = Image.fromarray(random_crop(1, 200, 180))
    good = saved(image)
    scan = good.index(b"\xff\xda")
    wrong = {
        "CMYK": saved(image.convert("CMYK")),
        "too early": good[: len(good) // 2],
        "the file ends too early": good[: scan - 30],
        "is damaged": good[:2] + b"?" + good[3:],
        "more scans": good[:-2] + b"\xff\xda" * 501 + b"\xff\xd9",
        "8-bit PNG": good.replace(b"\xff\xc0\x00\x11\x08", b"\xff\xc0\x00\x11\x0c"),
    }
    (tmp_path / "empty.html").write_text("<!DOCTYPE html><title>empty</title>")
    chrome.get((tmp_path / "empty.html").as_uri())
    source = resources.files("glomedge.reports").joinpath("templates", "browser_worker.js").read_text("utf-8")

    def said(data: bytes) -> str:
        return str(chrome.execute_async_script(_ASK, source, base64.b64encode(data).decode()))

    for words, data in wrong.items():
        with pytest.raises(ImageError):
            decode(data)
        assert words in said(data), words
    for data in (good, saved(image.convert("L")), saved(image, progressive=True, restart_marker_rows=1)):
        decode(data)
        assert "of undefined" in said(data), "decoded; there is no model"
