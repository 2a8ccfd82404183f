"""The other picture of docs/slides.md: the first case of a report, with the overviews of its slides, in Chromium.

python -m benchmarks.pictures.report_overview REPORT.html docs/images/slide_report.jpg
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import cv2
import numpy as np

from benchmarks.speed.report_browser import browser

_SIZE_PX, _JPEG_QUALITY = (1000, 960), 85


def main() -> int:
    """Take the picture."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("report", "picture"):
        options.add_argument(name, type=Path)
    arguments = options.parse_args()
    with tempfile.TemporaryDirectory() as profile, browser(_SIZE_PX, Path(profile)) as chrome:
        chrome.get(arguments.report.resolve().as_uri())
        chrome.execute_script("document.getElementById('cases').scrollIntoView()")
        end_px = chrome.execute_script("return document.getElementById('case-0').getBoundingClientRect().bottom")
        png = chrome.get_screenshot_as_png()
    picture = cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR)
    how = [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY]
    if picture is None or not cv2.imwrite(str(arguments.picture), picture[: int(end_px)], how):
        raise SystemExit(f"{arguments.picture} cannot be written.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
