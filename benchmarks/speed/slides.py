"""What reading glomeruli from a slide costs beside OpenSlide alone, and what reading their outlines costs.

    python -m benchmarks.speed.slides [--quick]             a drawn slide, JPEG tiles, 0.25 microns per pixel
    python -m benchmarks.speed.slides --slide S --mpp 0.25  your slide; boxes are drawn at random
    python -m benchmarks.speed.slides --outlines 100000     only reading so many outlines, with the peak of memory

Rates are per second of CPU time of the process, because other programs on the machine lengthen the clock's time. Both
ways must give the same pixels, or the script stops. Slide and outlines are drawn anew each time, the same ones.
With ``--outlines`` each file is read once in a process of its own; its memory is the highest resident set while reading
less that before, when everything is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.lib.common import (
    ROOT,
    WORK,
    alternate,
    log,
    markdown_table,
    paired_ratio,
    parser,
    set_results_directory,
    write_result,
)
from glomedge.slides.annotations.reading import read_outlines
from glomedge.slides.reader import Box, Slide, openslide_module
from glomedge_export.synthetic.annotation_files import FORMATS, DrawnOutline
from glomedge_export.synthetic.slide import write_slides

_MIN_SIDE_PX, _MAX_SIDE_PX = 256, 560
ALONE, OURS = "OpenSlide alone", "glomedge"


def cpu_seconds(run: Callable[[], object]) -> Callable[[], float]:
    """A way that times itself by the CPU time of the process."""

    def timed() -> float:
        begin = time.process_time()
        run()
        return time.process_time() - begin

    return timed


def drawn_slide() -> Path:
    """The largest of some drawn slides."""
    drawn = write_slides(WORK / "slides", glomeruli=60, cases=1, seed=1)
    return max((drawn.directory / name for name in drawn.slides), key=lambda path: path.stat().st_size)


def boxes_on(slide: Slide, count: int) -> list[Box]:
    """Boxes of the size of glomeruli at 0.25 microns per pixel, anywhere on the slide."""
    rng = np.random.default_rng(0)
    info = slide.info
    boxes = []
    for width, height in rng.integers(_MIN_SIDE_PX, _MAX_SIDE_PX, (count, 2)).tolist():
        x, y = rng.integers(0, [info.width_px - width, info.height_px - height]).tolist()
        boxes.append(Box(x, y, width, height))
    return boxes


def regions(path: Path, boxes: Sequence[Box], mpp: float | None, rounds: int) -> dict[str, list[float]]:
    """CPU seconds of each round: OpenSlide as its documentation shows, and glomedge; each opens the slide itself.

    The two take turns at every box, since other programs disturb a whole round more or less.
    """
    _one_round(path, boxes, mpp, 0)  # fills the caches of the disk
    spent = [_one_round(path, boxes, mpp, number) for number in range(rounds)]
    return {name: [each[name] for each in spent] for name in (ALONE, OURS)}


def _one_round(path: Path, boxes: Sequence[Box], mpp: float | None, number: int) -> dict[str, float]:
    begin = time.process_time()
    plain = openslide_module().OpenSlide(str(path))
    opened = time.process_time()
    with plain, Slide(path, mpp) as slide:
        spent = {ALONE: opened - begin, OURS: time.process_time() - opened}
        for place, box in enumerate(boxes):
            ways = {
                ALONE: partial(plain.read_region, (box.x, box.y), 0, (box.width, box.height)),
                OURS: partial(slide.read, box),
            }
            for name in (ALONE, OURS) if (place + number) % 2 else (OURS, ALONE):
                spent[name] += cpu_seconds(ways[name])()
    return spent


def same_pixels(path: Path, boxes: Sequence[Box], mpp: float | None) -> bool:
    """Whether glomedge gives OpenSlide's pixels (of opaque regions)."""
    with openslide_module().OpenSlide(str(path)) as plain, Slide(path, mpp) as slide:
        return all(
            np.array_equal(
                slide.read(box).pixels_hwc,
                np.asarray(plain.read_region((box.x, box.y), 0, (box.width, box.height)))[..., :3],
            )
            for box in boxes[:20]
        )


def outline_files(count: int) -> dict[str, Path]:
    """A file of ``count`` outlines of 24 points in each format."""
    turns = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    circle = np.round(np.stack([200 * np.cos(turns), 200 * np.sin(turns)], 1), 2)
    outlines = [
        DrawnOutline(f"{number:024x}", "globally_sclerotic_glomeruli", circle + 300 + number) for number in range(count)
    ]
    files = {}
    for ending, text_of in FORMATS.items():
        files[ending] = WORK / "outlines" / f"many{ending}"
        files[ending].parent.mkdir(parents=True, exist_ok=True)
        files[ending].write_text(text_of(outlines), encoding="utf-8")
    return files


_READ_ONE_FILE = """
import json, pathlib, sys, time

def status_kb(key):
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))

from glomedge.slides.annotations.reading import read_outlines
small, large = map(pathlib.Path, sys.argv[1:])
sum(1 for _ in read_outlines(small))  # so that everything is imported
before_kb, begin = status_kb("VmRSS"), time.process_time()
count = sum(1 for _ in read_outlines(large))
cpu_s = time.process_time() - begin
print(json.dumps({"outlines": count, "cpu_s": cpu_s, "memory_mb": (status_kb("VmHWM") - before_kb) / 1024}))
"""


def read_in_a_process(small: Path, large: Path) -> dict[str, float]:
    """CPU seconds and memory (MB, the peak above what the program had before) of reading one file of outlines."""
    done = subprocess.run(
        [sys.executable, "-c", _READ_ONE_FILE, str(small), str(large)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout)
    return found


def measure_outlines(count: int) -> None:
    """Read ``count`` outlines in each format, print, and write the result."""
    small = {ending: path.rename(path.with_name(f"few{ending}")) for ending, path in outline_files(10).items()}
    data, rows = {}, []
    for ending, path in outline_files(count).items():
        found = read_in_a_process(small[ending], path)
        if found["outlines"] != count:
            raise SystemExit(f"{path.name}: {found['outlines']} outlines were read, not {count}")
        data[ending] = {"file_mb": path.stat().st_size / 1e6, **found}
        rows.append([ending, data[ending]["file_mb"], found["cpu_s"], found["memory_mb"]])
        path.unlink()
    text = markdown_table([f"{count:,} outlines of 24 points", "MB", "CPU seconds", "MB of memory"], rows)
    text += "\nEach file read once in a process of its own; memory is the peak above what the program had before."
    write_result("slides_outlines", {"files": data}, text, title="Reading many outlines")
    print(text)


def main() -> int:
    """Measure, print, and write the result."""
    options = parser(__doc__)
    options.add_argument("--slide", type=Path, help="a slide of your own instead of a drawn one")
    options.add_argument("--mpp", type=float, help="its microns per pixel, where it does not say")
    options.add_argument("--outlines", type=int, metavar="N", help="only reading N outlines, with the peak of memory")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    if arguments.outlines:
        measure_outlines(arguments.outlines)
        return 0
    count, outlines, rounds = (40, 500, 3) if arguments.quick else (200, 10_000, 7)
    path = arguments.slide or drawn_slide()
    with Slide(path, arguments.mpp) as slide:
        boxes = boxes_on(slide, count)
    if not same_pixels(path, boxes, arguments.mpp):
        log("glomedge gives other pixels than OpenSlide: not measured")
        return 1
    samples = regions(path, boxes, arguments.mpp, rounds)
    share = paired_ratio(samples[ALONE], samples[OURS])
    rates = [[name, count / float(np.median(seconds))] for name, seconds in samples.items()]

    files = outline_files(outlines)
    reading: dict[str, Callable[[], float]] = {
        ending: cpu_seconds(lambda path=file: sum(1 for _ in read_outlines(path)))  # type: ignore[misc]
        for ending, file in files.items()
    }
    read = alternate(reading, rounds=min(rounds, 3))
    costs = [
        [ending, files[ending].stat().st_size / 1e6, outlines / float(np.median(seconds))]
        for ending, seconds in read.items()
    ]
    text = (
        markdown_table(["regions at level 0", "regions a CPU-second"], rates)
        + f"\nglomedge reaches {share.value:.2f} ({share.low:.2f} to {share.high:.2f}) of OpenSlide's rate, with RGB "
        f"pixels on the slide's background. {count} regions of {_MIN_SIDE_PX} to {_MAX_SIDE_PX} pixels a side, medians "
        f"of {rounds} rounds in which the two take turns at each region.\n\n"
        + markdown_table([f"{outlines:,} outlines of 24 points", "MB", "outlines a CPU-second"], costs)
    )
    data = {"regions": rates, "regions_samples_s": samples, "outlines": costs, "outlines_samples_s": read}
    write_result("slides", data, text, title="Slides")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
