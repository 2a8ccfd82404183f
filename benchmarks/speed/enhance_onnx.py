"""The cost of colour enhancement as ONNX (``glomedge export --with-preprocessing``) beside ``glomedge.enhance``.

    python -m benchmarks.speed.enhance_onnx

One crop after another in one thread; the figures are CPU time of that thread, which other work on the machine hardly
changes. Crops are full-size smoothed noise; the cost does not depend on what they show.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import cv2
import numpy as np

from benchmarks.lib.common import alternate, markdown_table, paired_ratio, parser, set_results_directory, write_result
from benchmarks.speed.enhance import RECIPES, Pixels, crop
from glomedge.imaging.enhance import enhance
from glomedge.model.spec import Recipe
from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.enhancement.graph import enhancement_graph

SIDES_PX = (224, 600, 1200)
CROPS = 10


def in_cpu_time(crops: list[Pixels], way: Callable[[Pixels], object]) -> Callable[[], float]:
    """A way that times itself: CPU seconds of the calling thread for all crops."""

    def go() -> float:
        begin = time.thread_time()
        for pixels in crops:
            way(pixels)
        return time.thread_time() - begin

    return go


def as_onnx(name: str) -> Callable[[Pixels], object]:
    """The recipe's graph on onnxruntime's CPU provider, one thread."""
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    graph = enhancement_graph(Recipe.named(name)).SerializeToString()
    session = ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda pixels: session.run(["image"], {"crop": pixels})


def main() -> None:
    options = parser(__doc__).parse_args()
    set_results_directory(options.results)
    cv2.setNumThreads(1)
    out = np.empty((224, 224, 3), np.uint8)
    graphs = {name: as_onnx(name) for name in RECIPES}
    samples_s: dict[str, list[float]] = {}
    rows: list[list[object]] = []
    for side_px in SIDES_PX:
        crops = [crop(side_px, seed) for seed in range(CROPS)]
        ways: dict[str, Callable[[], object]] = {}
        for name in RECIPES:
            ways[f"{side_px} {name}"] = in_cpu_time(crops, lambda pixels, name=name: enhance(pixels, name, out))  # type: ignore[misc]
            ways[f"{side_px} {name}, ONNX"] = in_cpu_time(crops, graphs[name])
        samples = alternate(ways, rounds=5 if options.quick else 15)
        samples_s |= samples
        for name in RECIPES:
            ours, onnx = samples[f"{side_px} {name}"], samples[f"{side_px} {name}, ONNX"]
            ratio = paired_ratio(onnx, ours)
            rows.append(
                [
                    side_px,
                    name,
                    1e3 * float(np.median(ours)) / CROPS,
                    1e3 * float(np.median(onnx)) / CROPS,
                    f"{ratio.value:.1f} ({ratio.low:.1f} to {ratio.high:.1f})",
                ]
            )
    table = markdown_table(
        ["side, px", "recipe", "glomedge.enhance, ms", "ONNX, ms", "ONNX costs times as much (95%)"], rows
    )
    print(table)
    write_result(
        "enhance_onnx",
        {"crops_per_sample": CROPS, "samples_s": samples_s},
        table,
        title="Enhancement as ONNX, CPU time",
    )


if __name__ == "__main__":
    main()
