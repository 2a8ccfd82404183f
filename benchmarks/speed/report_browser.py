"""How ``report.html`` behaves in a real browser: size, load, first paint, worst frame while scrolling through.

    .venv/bin/python -m benchmarks.speed.report_browser [--crops 830 10000] [--model M] [--screenshots DIR]

Needs Chromium and ChromeDriver (Debian: ``chromium chromium-driver``), driven by selenium. For each size one run of
``glomedge infer`` on drawn full-size crops, then the page at the width of a desk and of a phone, in a fresh
browser each time; the median of the rounds. ``--screenshots`` keeps the screenshots and the page printed on A4.
"""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.print_page_options import PrintOptions

from benchmarks.lib.common import (
    ROOT,
    find_model,
    log,
    markdown_table,
    parser,
    set_results_directory,
    user_crops,
    write_result,
)

WIDTHS_PX = {"desk": (1280, 900), "phone": (390, 844)}
_PAINT = """
const load = performance.getEntriesByType('navigation')[0].loadEventEnd;
const paint = performance.getEntriesByName('first-contentful-paint')[0];
return {load_ms: load, paint_ms: paint ? paint.startTime : null, height_px: document.body.scrollHeight,
        wide_px: document.documentElement.scrollWidth, seen_px: window.innerWidth,
        figures: document.querySelectorAll('figure').length};
"""
# One screen after another, a frame each, to the end: the longest time between two frames is what a reader would feel.
_SCROLL = """
const done = arguments[arguments.length - 1];
let last = performance.now(), worst = 0, frames = 0;
function step(now) {
  worst = Math.max(worst, now - last); last = now; frames += 1;
  const before = window.scrollY;
  window.scrollBy(0, window.innerHeight * 0.8);
  if (window.scrollY > before && frames < 3000) requestAnimationFrame(step);
  else done({worst_frame_ms: worst, frames: frames});
}
requestAnimationFrame(now => { last = now; requestAnimationFrame(step); });
"""


@contextmanager
def browser(size_px: tuple[int, int], profile: Path) -> Iterator[webdriver.Chrome]:
    """One headless Chromium with an empty profile and a window (or phone screen) of that size."""
    driver = shutil.which("chromedriver")
    if driver is None:
        # Without a path selenium would download a driver.
        raise SystemExit("no chromedriver here: install Chromium and ChromeDriver (Debian: chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
        "--disable-background-networking", "--disable-component-update", "--hide-scrollbars",
        f"--user-data-dir={profile}", f"--window-size={size_px[0]},{size_px[1]}",
    ):  # fmt: skip
        options.add_argument(argument)
    if size_px[0] < 500:  # narrower than Chromium lets a window be
        metrics = {"width": size_px[0], "height": size_px[1], "pixelRatio": 2.0, "touch": True, "mobile": True}
        options.add_experimental_option("mobileEmulation", {"deviceMetrics": metrics})
    chrome = webdriver.Chrome(options=options, service=Service(driver))
    try:
        chrome.set_script_timeout(120)
        yield chrome
    finally:
        chrome.quit()


def report_of(crops: int, model: Path, output: Path) -> Path:
    """The report of one run."""
    command = [sys.executable, "-m", "glomedge", "infer", str(user_crops(crops)), "-m", str(model), "--provider", "cpu"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([*command, "-o", str(output)], capture_output=True, text=True, check=False, env=environment)
    if done.returncode != 0:
        raise SystemExit(f"glomedge infer failed:\n{done.stderr[-2000:]}")
    return output / "report.html"


def seen(page: Path, name: str, pictures: Path | None) -> dict[str, Any]:
    """One fresh browser, one look."""
    with tempfile.TemporaryDirectory() as profile, browser(WIDTHS_PX[name], Path(profile)) as chrome:
        chrome.get(page.as_uri())
        found: dict[str, Any] = chrome.execute_script(_PAINT)
        if pictures is not None:
            chrome.save_screenshot(str(pictures / f"{page.parent.name}-{name}.png"))
        found |= chrome.execute_async_script(_SCROLL)
        if pictures is not None:
            chrome.save_screenshot(str(pictures / f"{page.parent.name}-{name}-end.png"))
            if name == "desk" and page.stat().st_size < 8e6:
                a4 = PrintOptions()
                a4.set_page_size(PrintOptions.A4)
                a4.background = True
                (pictures / f"{page.parent.name}.pdf").write_bytes(base64.b64decode(chrome.print_page(a4)))
    if found["wide_px"] > found["seen_px"]:
        raise SystemExit(f"the page is {found['wide_px']} px wide on a screen of {found['seen_px']}")
    return found


def main() -> None:
    """Measure and write ``report_browser.json`` and ``.md``."""
    options = parser(__doc__)
    options.add_argument("--crops", type=int, nargs="+", default=[830, 10000])
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--model", type=Path, help="default: an int8 file of artifacts/, else the one others find")
    options.add_argument("--screenshots", type=Path)
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    model = arguments.model or find_model()
    rounds = 2 if arguments.quick else arguments.rounds
    pages, rows = [], []
    if arguments.screenshots is not None:
        arguments.screenshots.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        for crops in [96] if arguments.quick else arguments.crops:
            page = report_of(crops, model, Path(scratch) / str(crops))
            size_mb = page.stat().st_size / 1e6
            for name in WIDTHS_PX:
                looks = [seen(page, name, arguments.screenshots if index == 0 else None) for index in range(rounds)]
                medians = {
                    key: median(look[key] for look in looks) for key in ("paint_ms", "load_ms", "worst_frame_ms")
                }
                pages.append({"crops": crops, "size_mb": size_mb, "screen": name, "looks": looks})
                rows.append(
                    (crops, looks[0]["figures"], round(size_mb, 1), f"{name}, {WIDTHS_PX[name][0]} px",
                     *(round(medians[key] / 1000, 2) for key in ("paint_ms", "load_ms", "worst_frame_ms")))
                )  # fmt: skip
                log(f"  {rows[-1]}")
    header = ("crops", "pictures", "MB", "screen", "first paint, s", "loaded, s", "worst frame while scrolling, s")
    text = f"{rounds} fresh browsers each, medians.\n\n{markdown_table(header, rows)}"
    write_result("report_browser", {"pages": pages, "rounds": rounds}, text, title="The report in headless Chromium")


if __name__ == "__main__":
    main()
