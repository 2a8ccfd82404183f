"""What classifying in the browser costs (``glomedge export-page``), and how its answers differ from glomedge's.

    python -m benchmarks.speed.browser_page --model M.onnx --onnxruntime-web DIR [--crops 24] [--rounds 3]

Writes the page, opens it from disk in Chromium, gives it drawn crops, and compares its ``predictions.csv`` with
``Engine.infer``, one crop at a time. Processor seconds are those of the browser with all its processes, because other
programs on the machine lengthen the clock's time; opening and self-test are apart.
"""

from __future__ import annotations

import csv
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil

import glomedge
from benchmarks.lib.common import WORK, markdown_table, parser, set_results_directory, user_crops, write_result
from benchmarks.speed.report_browser import browser
from glomedge.imaging.enhance import enhance
from glomedge.imaging.images import decode
from glomedge.model.file import read_model_file
from glomedge_export.browser_page.write import write_browser_page

_PATIENCE_S = 900.0


def cpu_s(process: int) -> float:
    """Of a process and all below it."""
    spent = 0.0
    root = psutil.Process(process)
    for each in (root, *root.children(recursive=True)):
        times = each.cpu_times()
        spent += times.user + times.system
    return spent


def until(holds: Callable[[], bool]) -> None:
    """Wait for the page."""
    end_s = time.monotonic() + _PATIENCE_S
    while not holds():
        if time.monotonic() > end_s:
            raise SystemExit("the page did not answer")
        time.sleep(0.2)


def visit(page: Path, crops: list[Path], rounds: int) -> tuple[float, list[float], dict[str, float]]:
    """Processor seconds of opening the page, of each round over the crops, and the probabilities by file name."""
    with tempfile.TemporaryDirectory() as folder, browser((1000, 900), Path(folder) / "profile") as chrome:
        pid, spent = chrome.service.process.pid, []

        def text(identity: str) -> str:
            return str(chrome.find_element("id", identity).text)

        before = cpu_s(pid)
        chrome.get(page.resolve().as_uri())
        until(lambda: "Ready" in text("said") or bool(text("wrong")))
        if text("wrong"):
            raise SystemExit(text("wrong"))
        opened = cpu_s(pid) - before
        for _ in range(rounds):
            begin = cpu_s(pid)
            chrome.find_element("id", "files").send_keys("\n".join(map(str, crops)))
            time.sleep(1)
            until(lambda: "a second" in text("said") and not chrome.find_element("id", "work").is_displayed())
            spent.append(cpu_s(pid) - begin)
        chrome.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": folder})
        chrome.find_element("id", "download").click()
        until((Path(folder) / "predictions.csv").is_file)
        with (Path(folder) / "predictions.csv").open(newline="", encoding="utf-8") as handle:
            found = {row["path"]: float(row["probability"]) for row in csv.DictReader(handle)}
    return opened, spent, found


def expected(model: Path, crops: list[Path]) -> dict[str, float]:
    """What glomedge gives on this machine's CPU."""
    with glomedge.load(model, provider="cpu") as engine:
        images = {path.name: enhance(decode(path.read_bytes()).pixels_hwc, engine.spec.recipe) for path in crops}
        return {name: float(engine.infer(image[np.newaxis]).probability[0]) for name, image in images.items()}


def main() -> int:
    """Measure, print, and write the result."""
    options = parser(__doc__)
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--onnxruntime-web", type=Path, required=True, help="the npm package, unpacked")
    options.add_argument("--crops", type=int, default=24)
    options.add_argument("--rounds", type=int, default=3)
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    page = write_browser_page(WORK / "page", arguments.model, arguments.onnxruntime_web)
    crops = sorted(user_crops(arguments.crops).rglob("*.png"))
    opened_s, rounds_s, found = visit(page, crops, arguments.rounds)
    wanted = expected(arguments.model, crops)
    differences = np.abs([found[name] - wanted[name] for name in wanted])
    precision = read_model_file(arguments.model).spec.precision
    a_crop = float(np.median(rounds_s)) / len(crops)
    row: list[Any] = [
        precision, page.stat().st_size / 1e6, opened_s, a_crop, 1 / a_crop,
        f"{differences.max():.1e}", f"{differences.mean():.1e}",
    ]  # fmt: skip
    header = [
        "page", "MB", "opening, CPU s", "CPU s a crop", "crops a CPU-second", "largest difference", "mean difference",
    ]  # fmt: skip
    text = markdown_table(header, [row])
    text += (
        f"\nChromium, {len(crops)} drawn crops, median of {len(rounds_s)} rounds; differences of the probability from "
        "Engine.infer on this machine's CPU."
    )
    data = {"opening_cpu_s": opened_s, "rounds_cpu_s": rounds_s, "differences": differences.tolist()}
    write_result(f"browser_page_{precision}", data, text, title=f"In the browser, {precision}")
    print(text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
