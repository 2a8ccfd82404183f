"""What decoding one crop costs, by decoder: alone, on two threads, and as the pipeline does it.

    python -m benchmarks.speed.decoders                   72 drawn full-size RGBA crops
    python -m benchmarks.speed.decoders --images DIR      your PNG files

Every decoder must give the same RGB pixels on every file, or the script stops. Three tables' worth of figures each:
milliseconds a crop on one thread; how many times faster two threads are (1 means that the GIL is held, 2 that it is
not); and crops/s of two threads that read, decode, assess and enhance, which is what the choice was based on.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.lib.common import (
    alternate,
    log,
    markdown_table,
    paired_ratio,
    parser,
    set_results_directory,
    user_crops,
    write_result,
)
from glomedge.imaging import decoders, enhance, images, quality
from glomedge.imaging.formats import read_header

Pixels = npt.NDArray[np.uint8]
Decode = Callable[[bytes], Pixels]


def rgb_of(samples: Pixels) -> Pixels:
    """Opaque RGBA or RGB to RGB."""
    return np.asarray(cv2.cvtColor(samples, cv2.COLOR_RGBA2RGB), np.uint8) if samples.shape[2] == 4 else samples


def with_kornia(data: bytes) -> Pixels:
    """kornia_rs through our header walk, as glomedge calls it."""
    return rgb_of(np.asarray(decoders.with_fast_png(data, read_header(data)), np.uint8))


def with_opencv(data: bytes) -> Pixels:
    """OpenCV through our header walk, as glomedge calls it where kornia_rs is not installed."""
    return rgb_of(np.asarray(decoders.with_opencv(data, read_header(data)), np.uint8))


def with_glomedge(data: bytes) -> Pixels:
    """All of ``images.decode``: header, limits, decoder, alpha, orientation."""
    return images.decode(data).pixels_hwc


def with_pillow(data: bytes) -> Pixels:
    """Pillow."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.convert("RGB"))


def with_spng(data: bytes) -> Pixels:
    """libspng by imagecodecs; it releases the GIL."""
    import imagecodecs

    return rgb_of(np.asarray(imagecodecs.spng_decode(data), np.uint8))


def available() -> dict[str, Decode]:
    """Decoders that can run here, by name."""
    ways: dict[str, Decode] = {"opencv": with_opencv, "pillow": with_pillow, "images.decode": with_glomedge}
    if decoders.fast_png_decoder() is not None:
        ways = {"kornia_rs": with_kornia, **ways}
    try:
        import imagecodecs

        if imagecodecs.SPNG.available:
            ways["imagecodecs spng"] = with_spng
    except ImportError:
        log("imagecodecs is not installed: spng left out")
    return ways


def on_threads(work: Callable[[bytes], object], files: list[bytes], threads: int) -> Callable[[], None]:
    """A run of ``work`` over all files on the given number of threads."""

    def run() -> None:
        if threads == 1:
            for data in files:
                work(data)
            return
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(work, files))

    return run


def whole_way(decode: Decode) -> Callable[[bytes], object]:
    """What a decode thread of the pipeline does with the bytes of a file."""

    def run(data: bytes) -> object:
        pixels = decode(data)
        return quality.assess(pixels), enhance.enhance(pixels)

    return run


def main() -> int:
    """Measure, print, and write the result."""
    options = parser(__doc__)
    options.add_argument("--images", type=Path, metavar="DIR", help="PNG files instead of drawn ones")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    count, rounds = (12, 3) if arguments.quick else (72, 9)
    folder = arguments.images or user_crops(count)
    paths = sorted(folder.rglob("*.png"))[:count]
    files = [images.read(path) for path in paths]
    if not files:
        log(f"no PNG files in {folder}")
        return 1
    ways = available()
    reference = [with_opencv(data) for data in files]
    for name, decode in ways.items():
        if not all(np.array_equal(decode(data), pixels) for data, pixels in zip(files, reference, strict=True)):
            log(f"{name} gives other pixels than OpenCV: not measured")
            return 1
    mean_pixels = int(np.mean([pixels.shape[0] * pixels.shape[1] for pixels in reference]))
    cv2.setNumThreads(1)  # as the pipeline sets it: its threads are the parallelism

    runs = {}
    for name, decode in ways.items():
        runs[f"{name}|1"] = on_threads(decode, files, 1)
        runs[f"{name}|2"] = on_threads(decode, files, 2)
        runs[f"{name}|way"] = on_threads(whole_way(decode), files, 2)
    samples = alternate(runs, rounds=rounds)

    rows: list[list[object]] = []
    for name in ways:
        scaling = paired_ratio(samples[f"{name}|1"], samples[f"{name}|2"])
        one = float(np.median(samples[f"{name}|1"])) / len(files) * 1e3
        whole = len(files) / float(np.median(samples[f"{name}|way"]))
        rows.append([name, one, f"{scaling.value:.2f} ({scaling.low:.2f} to {scaling.high:.2f})", whole])
    rows.sort(key=lambda row: -float(str(row[3])))
    header = [
        "decoder",
        "ms a crop, one thread",
        "two threads against one",
        "crops/s, decode + assess + enhance, two threads",
    ]
    size = f"{len(files)} PNG, mean {mean_pixels:,} pixels, {np.mean([len(data) for data in files]) / 1e6:.2f} MB."
    text = markdown_table(header, rows) + f"\n{size} All give the same pixels. Medians of {rounds} alternating rounds."
    write_result("decoders", {"rows": rows, "samples_s": samples, "crops": len(files)}, text, title="Decoders")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
