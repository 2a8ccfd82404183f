"""The labelling page in a real browser: keys, touch, zoom, undo, what it keeps and what it saves."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glomedge.engine.options import EngineOptions
from glomedge.runs.label import LabelOptions, prepare_labelling
from helpers.builders import build_tiny_model

CROPS = 6


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six crops of 300 x 200 pixels, one of them of a name that a spreadsheet would run."""
    import cv2

    folder = tmp_path_factory.mktemp("page")
    (folder / "crops").mkdir()
    for index in range(CROPS):
        pixels = np.full((200, 300, 3), 40 * index, np.uint8)
        name = f"=S-{index}_PAS, ä.png" if index == 0 else f"S-10{index}_PAS_1of1_{index:024x}.png"
        cv2.imwrite(str(folder / "crops" / name), pixels)
    build_tiny_model(folder / "model.onnx", recipe="plain")
    options = LabelOptions(folder / "crops", folder / "model.onnx", folder / "out", engine=EngineOptions("cpu"))
    made = prepare_labelling(options)
    assert made is not None
    return made.page


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A phone with a touch screen and a keyboard."""
    if shutil.which("chromedriver") is None:
        pytest.skip("Chromium and ChromeDriver are not installed (Debian: chromium chromium-driver)")
    pytest.importorskip("selenium", reason="selenium is not installed: pip install 'glomedge[dev]'")
    from benchmarks.speed.report_browser import browser

    with browser((390, 844), tmp_path_factory.mktemp("profile")) as driver:
        yield driver


class Reader:
    """One who labels, on a page just opened."""

    def __init__(self, chrome: Any, page: Path, name: str, *, fresh: bool = True, begin_text: str = "Start") -> None:
        self.chrome = chrome
        self._open(page, name, fresh=fresh)
        # Chromium may show a page what another one has stored a moment later.
        for _ in range(20):
            if self.text("begin") == begin_text:
                break
            time.sleep(0.25)
            self._open(page, name, fresh=False)
        assert self.text("begin") == begin_text
        self.part("begin").click()

    def _open(self, page: Path, name: str, *, fresh: bool) -> None:
        self.chrome.get(page.as_uri())
        if fresh:
            self.chrome.execute_script("localStorage.clear()")
            self.chrome.refresh()
        field = self.part("reader")
        field.clear()
        field.send_keys(name)

    def part(self, identity: str) -> Any:
        return self.chrome.find_element("id", identity)

    def text(self, identity: str) -> str:
        return str(self.part(identity).text)

    def keys(self, keys: str) -> None:
        self.chrome.find_element("tag name", "body").send_keys(keys)

    def tap(self, identity: str) -> None:
        box = self.part(identity).rect
        self.touch("touchStart", [(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)])
        self.touch("touchEnd", [])

    def touch(self, kind: str, points: list[tuple[float, float]]) -> None:
        places = [{"x": x, "y": y, "id": index} for index, (x, y) in enumerate(points)]
        self.chrome.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": places})

    def until(self, holds: Callable[[], bool]) -> None:
        """Wait for what a touch or a picture brings about; fails after 20 s."""
        for _ in range(400):
            if holds():
                return
            time.sleep(0.05)
        raise AssertionError("it never happened")

    def width(self) -> float:
        return float(self.part("picture").rect["width"])

    def saved(self, folder: Path, button: str = "save") -> list[dict[str, str]]:
        self.chrome.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(folder)})
        self.part(button).click()
        self.until((folder / "labels.csv").is_file)
        with (folder / "labels.csv").open(encoding="utf-8", newline="") as handle:
            return list(csv.DictReader(handle))


def chosen(page: Path) -> list[dict[str, str]]:
    with (page.parent / "chosen.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_keys_label_and_the_table_is_what_recalibrate_reads(chrome: Any, page: Path, tmp_path: Path) -> None:
    reader = Reader(chrome, page, "=Ada, B.")
    assert reader.text("place") == "1 of 6"
    reader.keys("gn1")
    assert reader.text("done") == "3 labelled"
    reader.keys("u0")
    assert reader.text("place") == "6 of 6"
    reader.keys("g")
    assert reader.text("counts") == "3 globally sclerotic, 2 not, 1 unsure."
    rows = reader.saved(tmp_path, "finish")
    assert [row["ground truth"] for row in rows] == ["1", "0", "1", "unsure", "0", "1"]
    assert [(row["name"], row["weight"]) for row in rows] == [(row["name"], row["weight"]) for row in chosen(page)]
    assert {row["reader"] for row in rows} == {"'=Ada, B."}
    from glomedge.cases.labels import read_site_labels

    found = read_site_labels(tmp_path / "labels.csv")
    assert found.readers == ("=Ada, B.",)
    assert len(found.labels) == 5


def test_fingers_label_undo_and_look_back(chrome: Any, page: Path, tmp_path: Path) -> None:
    reader = Reader(chrome, page, "Bo")
    reader.tap("gs")
    reader.until(lambda: reader.text("place") == "2 of 6")
    reader.tap("other")
    reader.until(lambda: reader.text("place") == "3 of 6")
    reader.tap("undo")
    reader.until(lambda: reader.text("place") == "2 of 6")
    assert reader.text("done") == "1 labelled"
    reader.tap("unsure")
    reader.until(lambda: reader.text("done") == "2 labelled")
    reader.tap("back")
    reader.until(lambda: reader.text("place") == "2 of 6")
    assert reader.part("unsure").get_attribute("aria-pressed") == "true"
    assert [row["ground truth"] for row in reader.saved(tmp_path)] == ["1", "unsure"]


def test_undo_goes_all_the_way_back_also_from_the_end(chrome: Any, page: Path) -> None:
    reader = Reader(chrome, page, "Cy")
    reader.keys("gggnnn")
    assert reader.part("end").is_displayed()
    reader.keys("z")
    assert reader.text("place") == "6 of 6"
    reader.keys("zzzzz")
    assert (reader.text("place"), reader.text("done")) == ("1 of 6", "0 labelled")
    assert not reader.part("undo").is_enabled()


def test_labels_are_kept_by_reader_without_saving(chrome: Any, page: Path) -> None:
    first = Reader(chrome, page, "Dee")
    first.keys("gn")
    first.until(lambda: first.text("done") == "2 labelled")
    other = Reader(chrome, page, "Eve", fresh=False)
    assert other.text("done") == "0 labelled"
    again = Reader(chrome, page, "Dee", fresh=False, begin_text="Continue (2 labelled)")
    assert (again.text("place"), again.text("done")) == ("3 of 6", "2 labelled")


def test_a_crop_has_its_own_size_and_zooms_by_keys_buttons_and_two_fingers(chrome: Any, page: Path) -> None:
    reader = Reader(chrome, page, "Flo")
    reader.until(lambda: reader.width() == 300)
    reader.keys("++")
    assert reader.width() == pytest.approx(300 * 1.25**2, abs=1)
    reader.tap("own")
    reader.until(lambda: reader.width() == 300)
    box = reader.part("stage").rect
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    reader.touch("touchStart", [(x - 40, y), (x + 40, y)])
    for spread in (50, 60, 70, 80):
        reader.touch("touchMove", [(x - spread, y), (x + spread, y)])
    reader.touch("touchEnd", [])
    reader.until(lambda: reader.width() == pytest.approx(600, rel=0.1))
    assert reader.text("done") == "0 labelled"


def test_a_name_is_needed_and_a_key_held_down_labels_once(chrome: Any, page: Path) -> None:
    nobody = Reader(chrome, page, " ")
    assert nobody.part("start").is_displayed()
    reader = Reader(chrome, page, "Gil")
    chrome.execute_script(
        "for (const repeat of [false, true, true]) dispatchEvent(new KeyboardEvent('keydown', {key: 'g', repeat}))"
    )
    assert reader.text("done") == "1 labelled"


def test_nothing_is_fetched_and_nothing_goes_wrong(chrome: Any, page: Path) -> None:
    Reader(chrome, page, "Hal").keys("gn+-")
    names = chrome.execute_script("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert [name for name in names if not name.startswith("data:")] == []
    assert [entry for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"] == []
