"""Cold start: from starting a process to its first answer about one image file, for each model and provider.

    python -m benchmarks.speed.cold_start [--artifacts artifacts]

Warm disk; the first start of each pair also builds what the provider caches and is reported separately. The goal is
0.4 s for int8 on two cores. The child's clock separates import, load (with the self-test) and answer.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

from benchmarks.lib.common import ROOT, log, markdown_table, parser, set_results_directory, write_result
from benchmarks.lib.prepare import artifacts as prepared_artifacts
from glomedge.bench import cold_start
from glomedge.engine import golden
from glomedge.engine.options import EngineOptions
from glomedge.errors import GlomedgeError

GOAL_S = 0.4
WAYS = (
    ("int8", "model.int8.onnxruntime.onnx", "cpu"),
    ("fp32", "model.onnx", "cpu"),
    ("int8", "model.int8.openvino.onnx", "openvino"),
    ("fp32", "model.onnx", "openvino"),
)


def import_seconds() -> float:
    """Wall-clock seconds of a whole process that does nothing but ``import glomedge.engine.engine``."""
    begin = time.perf_counter()
    code = "import sys; sys.path.append(sys.argv[1]); import glomedge.engine.engine"
    subprocess.run([sys.executable, "-P", "-c", code, str(ROOT)], check=True)
    return time.perf_counter() - begin


def main() -> None:
    """Parse, measure, write."""
    options = parser(__doc__)
    options.add_argument("--artifacts", type=Path, help="folder of exported files [default: make bench's]")
    options.add_argument("--starts", type=int, default=20, help="starts of each pair that count")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    artifacts = arguments.artifacts or prepared_artifacts()
    starts = 4 if arguments.quick else arguments.starts
    import_s = [import_seconds() for _ in range(starts + 1)][1:]
    log(f"  import glomedge.engine.engine: {float(np.median(import_s)):.2f} s")
    rows: list[list[object]] = []
    measured: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as scratch:
        image = Path(scratch) / "crop.png"
        image.write_bytes(cv2.imencode(".png", np.ascontiguousarray(golden.draw_crop(0)[..., ::-1]))[1].tobytes())
        for index, (precision, file, provider) in enumerate(WAYS):
            name = f"{precision} {provider}"
            model = artifacts / file
            if not model.is_file():
                log(f"  {name}: no {file}")
                continue
            try:
                found = cold_start.measure(
                    model, EngineOptions(provider), image, scratch=Path(scratch) / str(index), repeats=starts
                )
            except GlomedgeError as error:
                measured[name] = {"refused": str(error)}
                log(f"  {name}: {error}")
                continue
            measured[name] = found.model_dump(mode="json")
            steps = ", ".join(f"{step} {seconds:.2f}" for step, seconds in found.steps_s.items())
            rows.append([name, f"{found.median_s:.2f}", f"{found.first_s:.2f}", steps])
            log(f"  {name}: {found.median_s:.2f} s")
    if not rows:
        raise SystemExit(f"no exported model in {artifacts.name}: run glomedge export, or give --artifacts")
    write_result(
        "cold_start",
        {"goal_s": GOAL_S, "goal": "int8 cpu", "import_s": import_s, "ways": measured},
        markdown_table(["model, provider", "seconds (median)", "first start ever", "of which"], rows)
        + f"\n{starts} starts each. A process that does nothing but `import glomedge.engine.engine`: "
        f"{float(np.median(import_s)):.2f} s.\n",
        title="Cold start: process start to first prediction",
    )


if __name__ == "__main__":
    main()
