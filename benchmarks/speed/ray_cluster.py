"""One machine's Ray against one process: the same crops by ``glomedge infer-ray`` and by ``glomedge infer``.

Pairs alternate, so that a busy machine slows both. Ray is started once, before the first pair, and its start is told
apart; the rest of a job is in its time: the actors and their engines, reading, answering, publication with report. Of
``infer`` the whole command is timed, with its start.

    .venv/bin/python -m benchmarks.speed.ray_cluster --data DIR --model MODEL [--pairs 5] [--crops 830] [--workers 1]
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil

from benchmarks.lib.common import (
    ROOT,
    log,
    markdown_table,
    paired_ratio,
    parser,
    set_results_directory,
    timed,
    write_result,
)
from glomedge.cluster.cohort import infer_cohort
from glomedge.cluster.options import CohortOptions
from glomedge.cluster.ray_job import RayPool, own_or_given_cluster
from glomedge.engine.options import EngineOptions
from glomedge.runs.manifest import write_manifest
from glomedge.runs.options import Options
from glomedge.system import cpu


def main() -> None:
    """Measure, write ``ray_cluster.json`` and ``.md``."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, required=True, help="folder of crops")
    options.add_argument("--model", type=Path, required=True)
    options.add_argument("--pairs", type=int, default=5)
    options.add_argument("--crops", type=int, help="only so many, copied to a scratch folder")
    options.add_argument("--workers", type=int, default=1, help="engines; each with its share of the cores")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    with tempfile.TemporaryDirectory(prefix="glomedge-ray-") as scratch:
        runs, start_s = measure(arguments, Path(scratch))
    ratio = paired_ratio([run["infer-ray"] for run in runs], [run["infer"] for run in runs])
    table = markdown_table(
        ("pair", "infer s", "infer-ray s", "ratio", "load"),
        [
            (
                number, f"{run['infer']:.1f}", f"{run['infer-ray']:.1f}", f"{run['infer-ray'] / run['infer']:.2f}",
                f"{run['load']:.0f}",
            )
            for number, run in enumerate(runs, 1)
        ],
    )  # fmt: skip
    table += (
        f"\nMedian of the ratios: {ratio.value:.2f} (95% {ratio.low:.2f} to {ratio.high:.2f}). {arguments.model.name}; "
        f"Ray itself started in {start_s:.1f} s, before the first pair.\n"
    )
    log(table)
    said = {"runs": runs, "ray_start_s": start_s, "ratio_s": asdict(ratio)}
    said |= {"model": arguments.model.name, "crops": arguments.crops, "workers": arguments.workers}
    write_result("ray_cluster", said, table, title="Ray on one machine against one process")


def measure(arguments: Any, scratch: Path) -> tuple[list[dict[str, Any]], float]:
    """Every pair: seconds of both, and the machine's load; and the seconds of Ray's start."""
    data: Path = arguments.data
    if arguments.crops is not None:
        data = scratch / "crops"
        data.mkdir()
        every = sorted(path for path in arguments.data.rglob("*") if path.suffix.lower() in (".png", ".jpg", ".jpeg"))
        for path in every[: arguments.crops]:
            shutil.copy(path, data)
    write_manifest(data, scratch / "crops.parquet")
    plain = Options(
        data, arguments.model, scratch / "infer", engine=EngineOptions("cpu"), inputs=scratch / "crops.parquet"
    )
    cpus = max(1, cpu.usable_cpus() // arguments.workers)
    cohort = CohortOptions(plain, str(scratch / "infer-ray"), arguments.workers, cpus)
    begin_s = time.perf_counter()
    runs = list[dict[str, Any]]()
    with own_or_given_cluster(log):
        start_s = time.perf_counter() - begin_s
        for pair in range(1 if arguments.quick else arguments.pairs):
            jobs: dict[str, Callable[[], object]] = {
                "infer": lambda: _command(plain, scratch / "infer"),
                "infer-ray": lambda: infer_cohort(cohort, RayPool(arguments.workers)),
            }
            found: dict[str, Any] = {"load": psutil.getloadavg()[0]}
            for name in list(jobs) if pair % 2 == 0 else reversed(jobs):
                found[name] = timed(jobs[name])
                shutil.rmtree(scratch / name)
                log(f"  {name}: {found[name]:.1f} s")
            runs.append(found)
    return runs, start_s


def _command(plain: Options, output: Path) -> None:
    command = [
        sys.executable, "-m", "glomedge", "infer", str(plain.folder), "--inputs", str(plain.inputs), "--model",
        str(plain.model), "--provider", "cpu", "--output", str(output),
    ]  # fmt: skip
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False
    )
    if done.returncode not in (0, 2):
        raise SystemExit(f"glomedge infer failed:\n{done.stderr[-2000:]}")


if __name__ == "__main__":
    main()
