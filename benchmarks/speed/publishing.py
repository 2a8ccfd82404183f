"""What publishing a finished run costs: seconds and memory by rows, before and after the journal was read once.

``--resume`` of a finished run, which reads the names and the journal and writes the tables, the cases and (with it) the
report. A process each; this code and that of ``--before`` take turns, so that what slows the machine slows both. Rows
lie in the journal in the order of their paths, or in any order (the worst that parallel batches and resumed runs could
leave).
Runs that are expected to take more than ``--limit`` processor seconds are left out and marked "not run".

    .venv/bin/python -m benchmarks.speed.publishing [--quick] [--before COMMIT] [--limit 100]
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

from benchmarks.lib.common import (
    ROOT,
    log,
    markdown_table,
    parser,
    results_directory,
    set_results_directory,
    write_result,
)

WORKER = Path(__file__).with_name("publishing_worker.py")
BEFORE = "88ac869"
"""The last commit that read the journal once for every file it wrote."""

_LONG_S = 60.0
"""Runs of more processor seconds are made once."""

SIZES = {20_000: 1, 200_000: 2, 1_000_000: 1}
"""Rows -> rounds."""


def main() -> None:
    """Publish journals of every size, order and kind, write ``publishing.json`` and ``.md``."""
    options = parser(__doc__)
    options.add_argument("--before", default=BEFORE, help=f"commit to compare with [default: {BEFORE}]")
    options.add_argument("--limit", type=float, default=100.0, help="processor seconds of one run")
    options.add_argument("--go-on", action="store_true", help="keep the runs in the result that is there, add others")
    options.add_argument("--scratch", type=Path, help="folder for journals and outputs, up to 2 GB")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    sizes = {20_000: 1} if arguments.quick else SIZES
    runs = earlier_runs(arguments.before) if arguments.go_on else []
    with (
        tempfile.TemporaryDirectory(prefix="glomedge-publishing-", dir=arguments.scratch) as scratch,
        worktree(Path(scratch) / "before", arguments.before) as before,
    ):
        roots = {"before": before, "after": ROOT}
        # Of the older format, which both read; nothing is classified.
        model = Path(scratch) / "model.onnx"
        worker(before, "model", {"model": str(model)})
        for rows, shuffled in product(sizes, (False, True)):
            left = [report for report in (False, True) if not any(is_of(run, rows, shuffled, report) for run in runs)]
            source = Path(scratch) / f"source-{rows}-{shuffled}"
            job = {"rows": rows, "shuffled": shuffled, "source": str(source), "model": str(model)}
            if left:
                worker(ROOT, "prepare", job)
            for report in left:
                runs += paired(roots, {**job, "report": report}, sizes[rows], arguments.limit, runs, Path(scratch))
                # After each: the last ones take minutes, and may be stopped.
                data = {"before": arguments.before, "limit_cpu_s": arguments.limit, "runs": runs}
                text = table(runs, sizes)
                write_result("publishing", data, text, title="Publishing a finished run, before and after")
            shutil.rmtree(source, ignore_errors=True)


def is_of(run: dict[str, Any], rows: int, shuffled: bool, report: bool) -> bool:
    """Whether a run is of that kind."""
    return bool((run["rows"], run["shuffled"], run["report"]) == (rows, shuffled, report))


@contextlib.contextmanager
def worktree(folder: Path, commit: str) -> Iterator[Path]:
    """A checkout of that commit, for as long as it is needed."""
    git = ("git", "-C", str(ROOT), "worktree")
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), commit], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


def earlier_runs(before: str) -> list[dict[str, Any]]:
    """Those of the result that is there. Exits if it compares with another commit."""
    path = results_directory() / "publishing.json"
    if not path.is_file():
        return []
    data = json.loads(path.read_text("utf-8"))
    if data["before"] != before:
        raise SystemExit(f"{path} compares with {data['before']}, not with {before}.")
    runs: list[dict[str, Any]] = data["runs"]
    return runs


def worker(root: Path, action: str, job: dict[str, Any]) -> dict[str, Any]:
    """One process of the code under ``root``; what it measured."""
    done = subprocess.run(
        [sys.executable, str(WORKER), action, json.dumps(job)],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": f"{root}{os.pathsep}{root / 'tests'}"},
    )  # fmt: skip
    if done.returncode != 0:
        raise SystemExit(f"{WORKER.name} {action} failed under {root.name}:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return answer


def paired(
    roots: dict[str, Path], job: dict[str, Any], rounds: int, limit_s: float, known: list[dict[str, Any]], scratch: Path
) -> list[dict[str, Any]]:
    """Every round runs both, in turn; their tables must be the same bytes."""
    what = {name: job[name] for name in ("rows", "shuffled", "report")}
    ways = [name for name in roots if expected_s(known, what, name) <= limit_s]
    runs: list[dict[str, Any]] = []
    if any(expected_s(known, what, name) > _LONG_S for name in ways):
        rounds = 1
    for index in range(rounds):
        for name in ways if index % 2 == 0 else ways[::-1]:
            with tempfile.TemporaryDirectory(dir=scratch) as output:
                measured = worker(roots[name], "publish", {**job, "output": f"{output}/out"})
            runs.append({**what, "code": name, "round": index, **measured})
            log(f"  {what}, {name}: {measured['seconds']:.1f} s, {measured['cpu_seconds']:.1f} s of processor")
    if len({json.dumps(run["sha256"]) for run in runs}) > 1:
        raise SystemExit(f"the tables differ: {what}")
    return runs


def expected_s(known: list[dict[str, Any]], what: dict[str, Any], name: str) -> float:
    """Processor seconds, in proportion to those of the largest journal of that kind so far; 0 where there is none."""
    kind = (name, what["shuffled"], what["report"])
    alike = [run for run in known if (run["code"], run["shuffled"], run["report"]) == kind]
    largest = max(alike, key=lambda run: int(run["rows"]), default=None)
    return 0.0 if largest is None else float(largest["cpu_seconds"]) * what["rows"] / int(largest["rows"])


def table(runs: list[dict[str, Any]], sizes: dict[int, int]) -> str:
    """Medians; the ratio is that of processor seconds within a round."""
    lines = []
    for rows in sizes:
        for shuffled in (False, True):
            for report in (False, True):
                kind = (rows, shuffled, report)
                mine = [run for run in runs if (run["rows"], run["shuffled"], run["report"]) == kind]
                by_code = {name: [run for run in mine if run["code"] == name] for name in ("before", "after")}
                cells = [figures(by_code[name], rows) for name in ("before", "after")]
                ratios = [
                    old["cpu_seconds"] / new["cpu_seconds"]
                    for old, new in zip(by_code["before"], by_code["after"], strict=False)
                ]
                ratio = f"{statistics.median(ratios):.1f}" if ratios else ""
                order = "any order" if shuffled else "in order"
                lines.append((f"{rows:,}", order, "yes" if report else "no", *cells[0], *cells[1], ratio))
    header = ("rows", "journal", "report", "before: s", "CPU s", "MB", "after: s", "CPU s", "MB", "times less CPU")
    return (
        markdown_table(header, lines)
        + growth(runs)
        + (
            "\nMedians. s: elapsed; CPU s: processor seconds; MB: peak memory beyond the list of inputs. Reading the "
            "biopsies' names and the journal of a finished run, then writing predictions.csv, cases.csv, run.json and "
            "the report where asked for. Both codes ran in turn and wrote the same bytes.\n"
        )
    )


def growth(runs: list[dict[str, Any]]) -> str:
    """Bytes a row from the second largest size to the largest, beyond the names."""
    words = []
    for name in ("before", "after"):
        mine = [run for run in runs if run["code"] == name and not run["report"] and not run["shuffled"]]
        peaks = {int(run["rows"]): int(run["peak_bytes_above_inputs"]) for run in mine}
        if len(peaks) > 1:
            small, large = sorted(peaks)[-2:]
            words.append(f"{name} {(peaks[large] - peaks[small]) / (large - small):.0f} bytes a row")
    return f"\nMemory grows by (in order, without report): {', '.join(words)}.\n" if words else ""


def figures(runs: list[dict[str, Any]], rows: int) -> tuple[str, str, str]:
    """Elapsed and processor seconds and MB, or what is said where it was not run."""
    if not runs:
        return "not run", "", ""
    assert all(run["rows"] == rows and run["complete"] for run in runs)
    middle = {name: statistics.median(run[name] for run in runs) for name in ("seconds", "cpu_seconds")}
    peak = max(run["peak_bytes_above_inputs"] for run in runs)
    return f"{middle['seconds']:.1f}", f"{middle['cpu_seconds']:.1f}", f"{peak / 1e6:.0f}"


if __name__ == "__main__":
    main()
