"""Every picture of the README and of ``docs/``, remade: ``python -m benchmarks.pictures.remake [--demo FOLDER]``.

Crops and recipes are drawn here. The report and the answers on a slide are those of a run of ``glomedge demo``; without
``--demo`` these two are left as they are. The report is photographed by headless Chromium.

Look at what came out before you commit it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.pictures import slide_answers
from glomedge.imaging.enhance import enhance
from glomedge.imaging.images import decode
from glomedge_export.synthetic.dataset import FOLDERS, write_dataset

IMAGES = Path(__file__).resolve().parents[2] / "docs" / "images"
RECIPES = ("plain", "seed", "published")
_CROPS, _CASES, _SEED = 12, 3, 5
_CELL_PX, _SIDE_PX, _GAP_PX, _TITLE_PX = 200, 224, 16, 34
_JPEG_QUALITY = 88
_REPORT_PX = (1100, 1500)

Pixels = npt.NDArray[np.uint8]


def _crops_by_class(folder: Path, positive_fraction: float) -> list[list[Path]]:
    """Crops that are not globally sclerotic, then those that are."""
    write_dataset(folder, crops=_CROPS, cases=_CASES, seed=_SEED, positive_fraction=positive_fraction)
    return [sorted((folder / name).glob("*.png")) for name in FOLDERS]


def _write(name: str, rgb: Pixels) -> Path:
    picture = IMAGES / name
    if not cv2.imwrite(str(picture), cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]):
        raise SystemExit(f"{picture} cannot be written.")
    return picture


def synthetic(folder: Path) -> Path:
    """Six crops of either class: not globally sclerotic above."""

    def cell(crop: Path) -> Pixels:
        pixels = decode(crop.read_bytes()).pixels_hwc
        return np.asarray(cv2.resize(pixels, (_CELL_PX, _CELL_PX), interpolation=cv2.INTER_AREA), np.uint8)

    return _write("synthetic.jpg", np.vstack([np.hstack(list(map(cell, row))) for row in _crops_by_class(folder, 0.5)]))


def recipes(folder: Path) -> Path:
    """One crop of either class under each recipe."""
    width = len(RECIPES) * _SIDE_PX + (len(RECIPES) - 1) * _GAP_PX
    page = np.full((_TITLE_PX + 2 * _SIDE_PX + _GAP_PX, width, 3), 255, np.uint8)
    crops = _crops_by_class(folder, 0.35)
    for column, recipe in enumerate(RECIPES):
        left = column * (_SIDE_PX + _GAP_PX)
        cv2.putText(page, recipe, (left + 4, 24), cv2.FONT_HERSHEY_SIMPLEX, 0.7, (0, 0, 0), 1, cv2.LINE_AA)
        for row, (crop, *_) in enumerate(crops):
            upper = _TITLE_PX + row * (_SIDE_PX + _GAP_PX)
            pixels = enhance(decode(crop.read_bytes()).pixels_hwc, recipe)
            page[upper : upper + _SIDE_PX, left : left + _SIDE_PX] = pixels
    return _write("recipes.jpg", page)


def report(demo: Path) -> Path:
    """The upper part of the report of the demo's run."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        raise SystemExit("The report is photographed by Chromium, which is not installed: apt-get install chromium.")
    picture, page = IMAGES / "report.png", demo / "predictions" / "report.html"
    width, height = _REPORT_PX
    with tempfile.TemporaryDirectory() as profile:
        subprocess.run(
            [
                chromium, "--headless", "--no-sandbox", "--hide-scrollbars", f"--user-data-dir={profile}",
                f"--window-size={width},{height}", f"--screenshot={picture}", page.resolve().as_uri(),
            ],
            check=True, capture_output=True, timeout=300,
        )  # fmt: skip
    return picture


def answers(demo: Path) -> Path:
    """The demo's answers on its first slide."""
    first = min((demo / "on-slides" / "annotations").glob("*.geojson"), default=None)
    if first is None:
        raise SystemExit(f"{demo} holds no answers on slides: run glomedge demo with the extra slides.")
    picture = IMAGES / "slide_answers.jpg"
    slide_answers.draw(demo / "slides" / f"{first.stem}.svs", first, picture)
    return picture


def main(arguments: Sequence[str] | None = None) -> int:
    """Remake the pictures and print their paths."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--demo", type=Path, help="folder of a finished glomedge demo")
    demo: Path | None = options.parse_args(arguments).demo
    for draw in (synthetic, recipes):
        with tempfile.TemporaryDirectory() as folder:
            print(draw(Path(folder)))
    if demo is None:
        print("report.png and slide_answers.jpg stay as they are: they need --demo.")
    else:
        print(report(demo))
        print(answers(demo))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
