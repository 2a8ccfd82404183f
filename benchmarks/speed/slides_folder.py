"""``glomedge infer`` on slides beside the same glomeruli as a folder of PNG crops: CPU time and crops a second.

    python -m benchmarks.speed.slides_folder --model artifacts/model.int8.onnx [--quick]

Slides are drawn (JPEG tiles, 0.25 microns per pixel), and their crops cut by ``glomedge crop``. Both commands run in
turn, as a user types them, without a report; both must give the same probabilities within
1e-5, or nothing is written. CPU time is
that of the whole command less that of the same command on two glomeruli, because other programs on the machine lengthen
the clock's time; where all cores compute, crops a second go with it.
"""

from __future__ import annotations

import csv
import json
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.common import (
    ROOT,
    WORK,
    alternate,
    file_sha256,
    find_model,
    log,
    markdown_table,
    paired_ratio,
    parser,
    set_results_directory,
    write_result,
)
from glomedge.slides.crop_slides import cut_slides
from glomedge.slides.pairs import find_pairs
from glomedge_export.synthetic.slide import write_slides

_SAME = 1e-5
"""Other neighbours in the last, smaller batches: the last bits of a float32 sum differ, as docs/infer.md says."""
_STAGES = ("decode", "enhance", "infer", "write")


def drawn(name: str, glomeruli: int) -> dict[str, Path]:
    """Slides with so many glomeruli, and the folder of their crops."""
    folder = WORK / "slides_folder" / name
    shutil.rmtree(folder, ignore_errors=True)
    slides = write_slides(folder / "slides", glomeruli=glomeruli, cases=max(1, glomeruli // 24), seed=1).directory
    shutil.rmtree(slides / "other-formats")
    cut_slides(find_pairs(slides), folder / "crops")
    return {"slides": slides, "folder of PNG": folder / "crops"}


def infer(source: Path, model: Path) -> tuple[float, dict[str, Any], list[float]]:
    """CPU seconds of one command, its run record, and its probabilities, sorted."""
    output = WORK / "slides_folder" / "out"
    shutil.rmtree(output, ignore_errors=True)
    command = ["infer", str(source), "--model", str(model), "--output", str(output), "--no-report", "--provider", "cpu"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-m", "glomedge", *command], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    with (output / "predictions.csv").open(encoding="utf-8", newline="") as handle:
        probabilities = sorted(float(row["probability"]) for row in csv.DictReader(handle))
    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu_s, json.loads((output / "run.json").read_bytes()), probabilities


def main() -> int:
    """Measure, print, and write the result."""
    options = parser(__doc__)
    options.add_argument("--model", type=Path, help="default: an exported model, as the other scripts find it")
    options.add_argument("--glomeruli", type=int, help="outlines in all (default: 480; with --quick 96)")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    model = (arguments.model or find_model("model.int8.onnx")).resolve()
    count, rounds = arguments.glomeruli or (96 if arguments.quick else 480), 3 if arguments.quick else 5
    few, many = drawn("few", 2), drawn("many", count)
    records: dict[str, dict[str, Any]] = {}
    answers: dict[str, list[float]] = {}

    def way(name: str, sources: dict[str, Path]) -> Callable[[], float]:
        def run() -> float:
            cpu_s, records[name], answers[name] = infer(sources[name], model)
            return cpu_s

        return run

    starts = alternate({name: way(name, few) for name in few}, rounds=rounds)
    samples = alternate({name: way(name, many) for name in many}, rounds=rounds)
    if not np.allclose(answers["slides"], answers["folder of PNG"], rtol=0.0, atol=_SAME):
        log("the probabilities differ: nothing is written")
        return 1
    of_crops = {
        name: [whole - float(np.median(starts[name])) for whole in seconds] for name, seconds in samples.items()
    }
    share = paired_ratio(of_crops["folder of PNG"], of_crops["slides"])
    rows = [
        [
            name,
            count / float(np.median(of_crops[name])),
            *(1000 * records[name]["times"]["cpu_s"][stage] / count for stage in _STAGES),
        ]
        for name in samples
    ]
    reached = f"{share.value:.2f} ({share.low:.2f} to {share.high:.2f})"
    text = markdown_table(["source", "crops a CPU-second", *(f"{stage}, ms a crop" for stage in _STAGES)], rows) + (
        f"\nA run on slides reaches {reached} of the rate of the folder's, with probabilities within {_SAME:g}. "
        f"{count} glomeruli, {records['slides']['model']['precision']}, medians of {rounds} alternating rounds, start "
        "of the command deducted; the milliseconds are those of the last round (run.json)."
    )
    data = {
        "samples_s": samples, "start_samples_s": starts, "share": share.value, "model_sha256": file_sha256(model),
        "records": {name: record["times"] for name, record in records.items()},
    }  # fmt: skip
    write_result("slides_folder", data, text, title="Slides beside folders of crops")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
