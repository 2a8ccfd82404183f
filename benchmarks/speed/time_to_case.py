"""Seconds from starting ``glomedge infer`` to ``cases.csv`` for a biopsy of 25, 50 and 100 full-size crops.

A whole process each time: interpreter, imports, model with its self-test, every file, the results on disk. The clock
starts before the process and stops when it has ended; when ``cases.csv`` appeared is read from its change time.
Biopsy sizes alternate, so that a slow moment of the machine hits all of them.

    .venv/bin/python -m benchmarks.speed.time_to_case [--quick] [--model FILE ...]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.common import (
    ROOT,
    WORK,
    alternate,
    log,
    markdown_table,
    parser,
    set_results_directory,
    user_crops,
    write_result,
)
from benchmarks.lib.prepare import artifacts as prepared_artifacts
from glomedge.bench.statistics import bootstrap_median

SIZES = (25, 50, 100)
GOALS_S = {25: 0.75, 100: 2.2}


def main() -> None:
    """Measure every model and size, write ``time_to_case.json`` and ``.md``."""
    options = parser(__doc__)
    options.add_argument("--model", type=Path, action="append", help="model files [default: fp32 and int8 of the CPU]")
    options.add_argument("--provider", default="cpu")
    options.add_argument("--rounds", type=int, default=7)
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    folder = prepared_artifacts() if not arguments.model else None
    models = arguments.model or [
        path for name in ("model.int8.onnxruntime.onnx", "model.onnx") if folder and (path := folder / name).is_file()
    ]
    rounds = 2 if arguments.quick else arguments.rounds
    biopsies = {size: one_biopsy(size) for size in SIZES}
    data: dict[str, Any] = {}
    rows = []
    for model in models:
        log(f"time to case: {model.name} ...")
        cases: dict[str, list[float]] = {str(size): [] for size in SIZES}

        def run(size: int, model: Path = model, cases: dict[str, list[float]] = cases) -> float:
            to_case_s, total_s = infer(biopsies[size], model, arguments.provider)
            cases[str(size)].append(to_case_s)
            return total_s

        samples = alternate({str(size): lambda size=size: run(size) for size in SIZES}, rounds=rounds)  # type: ignore[misc]
        cases = {size: values[-rounds:] for size, values in cases.items()}  # without the warm-up
        data[model.name] = {"to_cases_csv_s": cases, "whole_process_s": samples}
        for size in SIZES:
            estimate = bootstrap_median([[value] for value in cases[str(size)]])
            goal = GOALS_S.get(size)
            met = "" if goal is None or model is not models[0] else "yes" if estimate.value <= goal else "NO"
            rows.append(
                (
                    model.name, size, f"{estimate.value:.2f} ({estimate.low:.2f}-{estimate.high:.2f})",
                    f"{float(np.median(samples[str(size)])):.2f}", f"{goal:g}" if goal and met else "", met,
                )
            )  # fmt: skip
    text = markdown_table(
        ("model", "crops", "to cases.csv, s (95% interval)", "whole process, s", "goal, s", "met"), rows
    )
    mean_bytes = np.mean([path.stat().st_size for path in biopsies[100].iterdir()])
    text += (
        f"\n{rounds} rounds; RGBA PNG crops of {mean_bytes / 1e3:.0f} kB on average; provider {arguments.provider}.\n"
    )
    write_result("time_to_case", {"rounds": rounds, "models": data}, text, title="From process start to cases.csv")


def one_biopsy(size: int) -> Path:
    """A folder of ``size`` crops that all belong to one biopsy."""
    folder = WORK / f"biopsy-{size}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for index, path in enumerate(sorted(user_crops(100).rglob("*.png"))[:size]):
        os.link(path, folder / f"S-2026-000001_PAS_1of1_{index:024x}.png")
    return folder


def infer(folder: Path, model: Path, provider: str) -> tuple[float, float]:
    """One ``glomedge infer`` in a fresh process: seconds to ``cases.csv``, seconds to its end."""
    with tempfile.TemporaryDirectory(prefix="glomedge-case-") as scratch:
        output = Path(scratch) / "out"
        command = [
            sys.executable, "-m", "glomedge", "infer", str(folder), "--model", str(model), "--provider", provider,
            "--output", str(output),
        ]  # fmt: skip
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        # The change time is that of the rename which made the file appear; it is CLOCK_REALTIME, by ticks of 4 ms.
        wall_begin, begin = time.time(), time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
        total_s = time.perf_counter() - begin
        if done.returncode not in (0, 2):
            raise SystemExit(f"glomedge infer failed:\n{done.stderr[-2000:]}")
        return (output / "cases.csv").stat().st_ctime - wall_begin, total_s


if __name__ == "__main__":
    main()
