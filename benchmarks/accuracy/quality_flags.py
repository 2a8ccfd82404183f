"""How often each quality flag is raised: on real crops (should not), and on degraded copies of them (should).

    python -m benchmarks.accuracy.quality_flags DATA            DATA: a folder with public.csv and its two class folders
    python -m benchmarks.accuracy.quality_flags DATA --synthetic DRAWN    and on crops drawn by `glomedge synth` as well

The thresholds in glomedge/imaging/quality.py were chosen with all these crops in view, with a margin beyond what they
measure: the false-flag rate is that of these two centres and says less about a third. Degradations are applied to every
crop.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.lib.common import markdown_table, parser, set_results_directory, summarise, write_result
from glomedge.cases.summary import case_of, wilson_interval
from glomedge.imaging import images
from glomedge.imaging.quality import assess, measure

Pixels = npt.NDArray[np.uint8]
FLAGS = ("blank", "blurred", "masked", "stain", "too_small")
FOLDERS = {0: "non_globally_sclerotic_glomeruli", 1: "globally_sclerotic_glomeruli"}


def blurred(sigma_px: float) -> Callable[[Pixels], Pixels]:
    """Gaussian blur; sigma at 224 px, the size of the real crops."""
    return lambda rgb: np.asarray(cv2.GaussianBlur(rgb, (0, 0), sigma_px), np.uint8)


def hue_turned(degrees: int) -> Callable[[Pixels], Pixels]:
    """All hues rotated."""

    def run(rgb: Pixels) -> Pixels:
        hsv: Pixels = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
        hsv[..., 0] = (hsv[..., 0].astype(np.int16) + degrees // 2) % 180
        return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB), np.uint8)

    return run


def saturated(factor: float) -> Callable[[Pixels], Pixels]:
    """Blend against luma; 0 is gray."""

    def run(rgb: Pixels) -> Pixels:
        luma: npt.NDArray[np.float32] = cv2.cvtColor(rgb, cv2.COLOR_RGB2GRAY)[..., None].astype(np.float32)
        return np.clip(luma + factor * (rgb - luma), 0, 255).astype(np.uint8)

    return run


def levels(gain: float, offset: float) -> Callable[[Pixels], Pixels]:
    """Linear change of brightness."""
    return lambda rgb: np.asarray(np.clip(rgb * gain + offset, 0, 255), np.uint8)


def noisy(rgb: Pixels, sigma: float, seed: int = 0) -> Pixels:
    """Gaussian noise, the same on each call."""
    noise = np.random.default_rng(seed).normal(0.0, sigma, rgb.shape)
    return np.clip(rgb + noise, 0, 255).astype(np.uint8)


def shrunk(side_px: int) -> Callable[[Pixels], Pixels]:
    """Area-averaged to this side."""
    return lambda rgb: np.asarray(cv2.resize(rgb, (side_px, side_px), interpolation=cv2.INTER_AREA), np.uint8)


def enlarged(side_px: int) -> Callable[[Pixels], Pixels]:
    """Lanczos to this side: the same picture in the pixels of a finer scan."""
    return lambda rgb: np.asarray(cv2.resize(rgb, (side_px, side_px), interpolation=cv2.INTER_LANCZOS4), np.uint8)


def jpeg(quality: int) -> Callable[[Pixels], Pixels]:
    """Through JPEG and back."""

    def run(rgb: Pixels) -> Pixels:
        _, data = cv2.imencode(".jpg", rgb[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, quality))
        return images.decode(data.tobytes()).pixels_hwc

    return run


def chained(*steps: Callable[[Pixels], Pixels]) -> Callable[[Pixels], Pixels]:
    """The changes applied in order."""

    def run(rgb: Pixels) -> Pixels:
        for step in steps:
            rgb = step(rgb)
        return rgb

    return run


def painted(colour: tuple[int, int, int], axes: float = 1.0) -> Callable[[Pixels], Pixels]:
    """One colour outside an ellipse whose axes are this many times the picture's sides."""

    def run(rgb: Pixels) -> Pixels:
        height_px, width_px = rgb.shape[:2]
        inside = np.zeros((height_px, width_px), np.uint8)
        half = (round(width_px * axes / 2), round(height_px * axes / 2))
        cv2.ellipse(inside, (width_px // 2, height_px // 2), half, 0, 0, 360, 1, -1)
        return np.where(inside[..., None] == 1, rgb, np.array(colour, np.uint8))

    return run


def padded(colour: tuple[int, int, int]) -> Callable[[Pixels], Pixels]:
    """The lower fifth in one colour, as beyond the edge of a slide."""

    def run(rgb: Pixels) -> Pixels:
        out = rgb.copy()
        out[-(rgb.shape[0] // 5) :] = colour
        return out

    return run


BLACK, WHITE, GLASS = (0, 0, 0), (255, 255, 255), (244, 244, 244)

# (what was done, the flag it should raise, how)
DEGRADED: list[tuple[str, str, Callable[[Pixels], Pixels]]] = [
    *[(f"Gaussian blur, sigma {s:g} px of 224", "blurred", blurred(s)) for s in (1.0, 1.5, 2.0, 3.0, 4.0, 6.0)],
    ("blur 3, then noise 3", "blurred", lambda rgb: noisy(blurred(3.0)(rgb), 3.0)),
    ("blur 3, then JPEG 75", "blurred", chained(blurred(3.0), jpeg(75))),
    ("blur 3, scanned at 577 px", "blurred", chained(blurred(3.0), enlarged(577))),
    ("gray", "stain", saturated(0.0)),
    ("saturation x 0.3", "stain", saturated(0.3)),
    ("saturation x 3", "stain", saturated(3.0)),
    ("saturation x 4", "stain", saturated(4.0)),
    *[(f"hue {d:+d} degrees", "stain", hue_turned(d)) for d in (30, -30, 60, -60, 90, -90, 120, 180)],
    ("inverted", "stain", lambda rgb: np.asarray(255 - rgb, np.uint8)),
    ("red and blue swapped", "stain", lambda rgb: np.ascontiguousarray(rgb[..., ::-1])),
    ("brightness x 0.2", "stain", levels(0.2, 0.0)),
    ("contrast x 0.2 towards white", "stain", levels(0.2, 204.0)),
    ("black outside an ellipse", "masked", painted(BLACK)),
    ("white outside an ellipse", "masked", painted(WHITE)),
    ("black outside an ellipse of 1.3 times the sides", "masked", painted(BLACK, 1.3)),
    ("white outside an ellipse of 1.3 times the sides", "masked", painted(WHITE, 1.3)),
    ("black outside an ellipse, then JPEG 75", "masked", chained(painted(BLACK), jpeg(75))),
    ("white outside an ellipse, then JPEG 75", "masked", chained(painted(WHITE), jpeg(75))),
    ("green outside an ellipse", "masked", painted((0, 255, 0))),
    ("the gray of glass outside an ellipse", "masked", painted(GLASS)),
    ("lower fifth black", "masked", padded(BLACK)),
    ("lower fifth white", "masked", padded(WHITE)),
    ("40 px a side", "too_small", shrunk(40)),
    ("63 px a side", "too_small", shrunk(63)),
]
# Changes that a good crop may undergo on its way here: none of the flags should be raised.
HARMLESS: list[tuple[str, Callable[[Pixels], Pixels]]] = [
    ("scanned at 577 px", enlarged(577)),
    ("scanned at 1,000 px", enlarged(1000)),
    ("shrunk to 128 px", shrunk(128)),
    ("JPEG 90", jpeg(90)),
    ("JPEG 75", jpeg(75)),
    ("noise 3", lambda rgb: noisy(rgb, 3.0)),
    ("brightness x 0.85", levels(0.85, 0.0)),
    ("brightness x 1.1", levels(1.1, 0.0)),
    ("saturation x 0.7", saturated(0.7)),
    ("saturation x 1.3", saturated(1.3)),
    ("hue +10 degrees", hue_turned(10)),
    ("hue -10 degrees", hue_turned(-10)),
]


def blanks() -> Iterable[tuple[str, Pixels]]:
    """Fields without tissue: uniform, noisy, unevenly lit, with a little debris."""
    for size in (224, 577):
        for name, colour in {
            "white": (245, 243, 246), "gray glass": (212, 210, 214), "black": (6, 6, 6), "pink glass": (238, 222, 232),
            "plain PAS pink": (190, 90, 150),
        }.items():  # fmt: skip
            flat = np.broadcast_to(np.array(colour, np.uint8), (size, size, 3))
            shade = np.linspace(0.9, 1.0, size)[None, :, None]
            dirty = flat.copy()
            cv2.circle(dirty, (size // 4, size // 3), size // 25, (120, 60, 110), -1)
            yield f"{name}", np.ascontiguousarray(flat)
            yield f"{name}, noise", noisy(flat, 4.0)
            yield f"{name}, uneven light, noise", noisy((flat * shade).astype(np.uint8), 2.0)
            if name in ("white", "gray glass", "pink glass"):
                yield f"{name}, debris", noisy(dirty, 2.0)


def percent(k: int, n: int) -> str:
    """``k/n`` with its Wilson interval."""
    low, high = wilson_interval(k, n)
    return f"{100 * k / n:.1f}% ({100 * low:.1f} to {100 * high:.1f})"


def load(folder: Path) -> list[tuple[str, Pixels]]:
    """(name, pixels) of every PNG under a folder, sorted."""
    return [(path.name, images.decode(images.read(path)).pixels_hwc) for path in sorted(folder.rglob("*.png"))]


def rate(crops: list[Pixels], change: Callable[[Pixels], Pixels] | None, wanted: str | None) -> tuple[int, int]:
    """How many crops raise ``wanted`` (any flag when None) after the change, of how many."""

    def one(rgb: Pixels) -> bool:
        flags = assess(rgb if change is None else change(rgb))
        return bool(flags) if wanted is None else wanted in flags

    with ThreadPoolExecutor(2) as pool:
        return sum(pool.map(one, crops)), len(crops)


Named = tuple[str, Pixels]


def _flags_of(kind: str, crops: list[Pixels]) -> list[object]:
    """A row: how many crops raise each flag, and what share raises any."""
    return [kind, len(crops), *(rate(crops, None, flag)[0] for flag in FLAGS), percent(*rate(crops, None, None))]


def _false_flags(real: dict[int, list[Named]]) -> list[list[object]]:
    rows = [
        _flags_of("globally sclerotic" if label else "not globally sclerotic", [rgb for _, rgb in crops])
        for label, crops in real.items()
    ]
    return [*rows, _flags_of("all real crops", [rgb for crops in real.values() for _, rgb in crops])]


def _worst_slide(real: dict[int, list[Named]]) -> tuple[int, str]:
    """How many slides there are, and the share of flagged crops on the worst of them."""
    by_slide: dict[str, list[Pixels]] = {}
    for crops in real.values():
        for name, rgb in crops:
            by_slide.setdefault(case_of(name).slide, []).append(rgb)
    flagged = [rate(crops, None, None) for _, crops in sorted(by_slide.items())]
    return len(by_slide), percent(*max(flagged, key=lambda counts: counts[0] / counts[1]))


def _detection(crops: list[Pixels]) -> tuple[list[list[object]], list[str], int]:
    """A row for each degradation, the blank fields that were missed, and how many blank fields there are."""
    rows: list[list[object]] = [
        [name, flag, percent(*rate(crops, change, flag)), percent(*rate(crops, change, None))]
        for name, flag, change in DEGRADED
    ]
    fields = list(blanks())
    missed = [name for name, rgb in fields if "blank" not in assess(rgb)]
    hits = percent(len(fields) - len(missed), len(fields))
    return [*rows, ["fields without tissue", "blank", hits, hits]], missed, len(fields)


def main() -> int:
    """Measure, print, and write the result."""
    options = parser(__doc__)
    options.add_argument("data", type=Path, metavar="DATA")
    options.add_argument("--synthetic", type=Path, metavar="DRAWN")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    real = {label: load(arguments.data / folder) for label, folder in FOLDERS.items()}
    if arguments.quick:
        real = {label: crops[::10] for label, crops in real.items()}
    everything = [rgb for crops in real.values() for _, rgb in crops]
    false_rows = _false_flags(real)
    if arguments.synthetic:
        drawn = [rgb for _, rgb in load(arguments.synthetic)]
        false_rows.append(_flags_of("crops drawn by glomedge synth", drawn))
    slides, worst = _worst_slide(real)

    harmless_rows = [[name, percent(*rate(everything, change, None))] for name, change in HARMLESS]
    detection_rows, missed, blank_fields = _detection(everything)
    measures = {
        name: [float(getattr(measure(rgb), name)) for rgb in everything]
        for name in ("tissue_fraction", "hue_degrees", "chroma", "lightness", "structure", "fine", "coarse")
    }
    range_rows = [[name, *[float(v) for v in np.percentile(x, (0, 1, 50, 99, 100))]] for name, x in measures.items()]

    costs: list[float] = []
    large = enlarged(577)(everything[0])
    for _ in range(50 if arguments.quick else 300):
        begin = time.perf_counter()
        assess(large)
        costs.append(time.perf_counter() - begin)
    cost = summarise(costs)

    text = "\n".join(
        [
            "False flags (each column counts crops; the last one is any flag, with its 95% Wilson interval):\n",
            markdown_table(["crops", "n", *FLAGS, "any flag"], false_rows),
            f"Worst of {slides} slides: {worst}.\n",
            "Any flag after a change that a good crop may undergo:\n",
            markdown_table(["change", "any flag"], harmless_rows),
            "Detection:\n",
            markdown_table(["degradation", "flag", "that flag", "any flag"], detection_rows),
            f"Blank fields missed: {', '.join(missed) or 'none'}.\n",
            "What real crops measure:\n",
            markdown_table(["measure", "least", "1%", "median", "99%", "most"], range_rows),
            f"One 577 x 577 crop costs {1e3 * cost.p50:.2f} ms (median of {len(costs)}, one thread).",
        ]
    )
    write_result(
        "quality_flags",
        {"false_flags": false_rows, "harmless": harmless_rows, "detection": detection_rows, "ranges": range_rows,
         "blank_fields": blank_fields, "cost_s": costs},
        text,
        title="Quality flags",
    )  # fmt: skip
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
