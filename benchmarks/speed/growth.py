"""How cost grows: ``glomedge infer`` on 100, 1,000 and 10,000 crops, on one core and on two.

Whole processes, held to their cores by CPU affinity. Above 200 crops the drawn ones repeat under new names (hard
links): every file is opened, hashed, decoded and answered, but the page cache holds 200 files' bytes, so this says
nothing about a disk. Sizes whose expected time does not fit ``--budget`` are left out and listed.

    .venv/bin/python -m benchmarks.speed.growth [--quick] [--budget 300]
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.lib.common import (
    ROOT,
    log,
    markdown_table,
    parser,
    results_directory,
    set_results_directory,
    usable_cores,
    user_crops,
    write_result,
)
from benchmarks.lib.prepare import artifacts as prepared_artifacts
from glomedge.system.telemetry import import_matplotlib

SIZES = (100, 1000, 10_000)


def main() -> None:
    """Measure every size on one and two cores, write ``growth.json``, ``.md`` and ``.png``."""
    options = parser(__doc__)
    options.add_argument("--model", type=Path, help="[default: the int8 file of the CPU]")
    options.add_argument("--provider", default="cpu")
    options.add_argument("--budget", type=float, default=420.0, help="seconds for everything")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    model = arguments.model or _default_model(prepared_artifacts())
    budget_s = 30.0 if arguments.quick else arguments.budget
    all_cores = sorted(os.sched_getaffinity(0))
    # Largest machine last: what was learnt on the small sizes decides whether the large ones fit.
    plan = [(size, count) for size in SIZES for count in sorted({1, min(2, usable_cores()), usable_cores()})]
    # Where not both of the last fit, the faster one says more.
    plan.sort(key=lambda item: (item[0], item[0] == SIZES[-1] and -item[1]))
    runs: list[dict[str, Any]] = []
    skipped: list[str] = []
    begin = time.perf_counter()
    rate: dict[int, float] = {}
    for size, count in plan:
        left_s = budget_s - (time.perf_counter() - begin)
        if count in rate and size / rate[count] > left_s:
            skipped.append(f"{size:,} crops on {count} core(s): about {size / rate[count]:.0f} s")
            continue
        repeats = 3 if size <= 100 else 1
        for _ in range(repeats):
            measured = infer(user_crops(size), model, arguments.provider, all_cores[:count])
            runs.append({"crops": size, "cores": count, **measured})
        rate[count] = size / measured["seconds"]
        peak_mb = measured["peak_rss_bytes"] / 2**20
        log(f"  {size:,} crops, {count} core(s): {measured['seconds']:.1f} s, {peak_mb:.0f} MB")
    rows = []
    for size, count in sorted(plan):
        mine = [r for r in runs if r["crops"] == size and r["cores"] == count]
        if mine:
            seconds = sorted(r["seconds"] for r in mine)[len(mine) // 2]
            peak = max(r["peak_rss_bytes"] for r in mine)
            rows.append((f"{size:,}", count, round(seconds, 1), round(size / seconds, 1), round(peak / 2**20)))
    text = markdown_table(("crops", "cores", "seconds", "crops/s", "peak RSS, MB"), rows)
    text += "\nProcess start and report included. Above 200 crops, files repeat by hard link."
    if skipped:
        text += "\nLeft out, as they would not fit the time allotted: " + "; ".join(skipped) + "."
    data = {"model": model.name, "provider": arguments.provider, "runs": runs, "left_out": skipped}
    write_result("growth", data, text, title=f"How cost grows ({model.name}, {arguments.provider})")
    plot(runs, results_directory() / "growth.png")


def infer(folder: Path, model: Path, provider: str, cores: list[int]) -> dict[str, Any]:
    """One ``glomedge infer`` on those cores: seconds, peak memory of the process, and its exit code."""
    with tempfile.TemporaryDirectory(prefix="glomedge-growth-") as scratch:
        report = Path(scratch) / "status"
        # The child writes its own peak memory as it ends: ru_maxrss of all children would mix the runs.
        code = (
            "import atexit, os, pathlib, sys\n"
            f"os.sched_setaffinity(0, {set(cores)!r})\n"
            f"atexit.register(lambda: pathlib.Path({str(report)!r}).write_text("
            "pathlib.Path('/proc/self/status').read_text()))\n"
            "from glomedge.cli import main\nmain()\n"
        )
        command = [
            sys.executable, "-c", code, "infer", str(folder), "--model", str(model), "--provider", provider,
            "--output", str(Path(scratch) / "out"),
        ]  # fmt: skip
        begin = time.perf_counter()
        done = subprocess.run(
            command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
        )
        seconds = time.perf_counter() - begin
        if done.returncode not in (0, 2):
            raise SystemExit(f"glomedge infer failed:\n{done.stderr[-2000:]}")
        peak = re.search(r"VmHWM:\s+(\d+) kB", report.read_text())
        assert peak is not None
        return {"seconds": seconds, "peak_rss_bytes": int(peak.group(1)) * 1024, "exit_code": done.returncode}


def plot(runs: list[dict[str, Any]], path: Path) -> None:
    """Seconds and peak memory against crops, a line for each number of cores."""
    import_matplotlib().use("Agg")
    plt = import_matplotlib("pyplot")
    ticker = import_matplotlib("ticker")

    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    looks = (("#0072B2", "o"), ("#E69F00", "s"), ("#009E73", "^"))
    for (colour, marker), count in zip(looks, sorted({r["cores"] for r in runs}), strict=False):
        mine = sorted((r for r in runs if r["cores"] == count), key=lambda r: int(r["crops"]))
        sizes = [r["crops"] for r in mine]
        name = f"{count} core" + ("s" if count > 1 else "")
        for axes, values in (
            (left, [r["seconds"] for r in mine]),
            (right, [r["peak_rss_bytes"] / 2**20 for r in mine]),
        ):
            axes.plot(sizes, values, marker + "-", color=colour, label=name, markerfacecolor="none", markersize=7)
    left.set(xscale="log", yscale="log", xlabel="crops", ylabel="seconds from process start to exit")
    right.set(xscale="log", xlabel="crops", ylabel="peak RSS, MB")
    right.set_ylim(0, 1.15 * max(r["peak_rss_bytes"] for r in runs) / 2**20)
    left.legend(frameon=False)
    plain = ticker.FuncFormatter(lambda value, _: f"{value:,g}")
    left.yaxis.set_major_formatter(plain)
    for axes in (left, right):
        axes.xaxis.set_major_formatter(plain)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


def _default_model(folder: Path) -> Path:
    int8 = folder / "model.int8.onnxruntime.onnx"
    return int8 if int8.is_file() else folder / "model.onnx"


if __name__ == "__main__":
    main()
