"""``make bench``: every comparison in one command, under 15 minutes on two cores.

Rewrites ``benchmarks/results/<host-kind>/``. Runs the scripts one after another, each in a process of its own, and then
writes ``README.md`` of that folder: the goals with what was reached, every table, and the plots. A script that fails is
named there and the rest goes on; the exit code is then 1. Nothing in that folder is written by hand.

    .venv/bin/python benchmarks/run_all.py [--quick] [--only NAME ...]
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import (
    ROOT,
    describe,
    environment,
    log,
    markdown_table,
    parser,
    results_directory,
    set_results_directory,
    write_result,
)
from glomedge.notice import RESEARCH_USE_NOTICE
from prepare import artifacts

HERE = Path(__file__).resolve().parent
BUDGET_S = 15 * 60.0


@dataclass(frozen=True)
class Script:
    """One script and how long it may take."""

    name: str
    arguments: tuple[str, ...] = ()
    limit_s: float = 240.0


SCRIPTS = (
    Script("compare_ways", limit_s=420),
    Script("time_to_case", limit_s=120),
    Script("pipeline_overlap", ("--crops", "120", "--rounds", "4"), limit_s=180),
    Script("growth", ("--budget", "150"), limit_s=300),
)
"""What make bench runs. The other scripts of this folder answer narrower questions and are run by hand (README.md)."""


def main() -> int:
    """Run the scripts, then write the goals and the folder's README."""
    options = parser(__doc__)
    options.add_argument("--only", action="append", help="only this script; repeatable")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    folder = results_directory()
    begin = time.perf_counter()
    artifacts()
    failed: dict[str, str] = {}
    took: dict[str, float] = {"models": time.perf_counter() - begin}
    for script in SCRIPTS:
        if arguments.only and script.name not in arguments.only:
            continue
        if not (HERE / f"{script.name}.py").is_file():
            failed[script.name] = "the script is not there"
            continue
        log(f"== {script.name}")
        started = time.perf_counter()
        command = [sys.executable, str(HERE / f"{script.name}.py"), *script.arguments, "--results", str(folder)]
        if arguments.quick:
            command.append("--quick")
        try:
            done = subprocess.run(command, cwd=ROOT, timeout=script.limit_s, check=False)
            if done.returncode != 0:
                failed[script.name] = f"exit code {done.returncode}"
        except subprocess.TimeoutExpired:
            failed[script.name] = f"not done in {script.limit_s:.0f} s"
        took[script.name] = time.perf_counter() - started
    took["all"] = time.perf_counter() - begin
    goals = reached(folder)
    rows = [(goal.what, goal.wanted, goal.got, goal.verdict) for goal in goals]
    text = markdown_table(("goal", "wanted", "measured", "reached"), rows)
    text += "\nTook " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in took.items()) + "."
    for name, why in failed.items():
        text += f"\n\n**{name} did not finish: {why}.**"
    write_result("goals", {"goals": [vars(g) for g in goals], "took_s": took, "failed": failed}, text, title="Goals")
    (folder / "README.md").write_text(page(folder), encoding="utf-8")
    log(f"results: benchmarks/results/{folder.name}/README.md, {took['all']:.0f} s")
    return 1 if failed else 0


@dataclass(frozen=True)
class Goal:
    """One goal of the project and what was measured."""

    what: str
    wanted: str
    got: str
    verdict: str


def reached(folder: Path) -> list[Goal]:
    """The goals against the results that lie in the folder; "not measured" where one is missing."""
    ways, cases, overlap = (_load(folder / f"{name}.json") for name in ("ways", "time_to_case", "pipeline_overlap"))
    engine: dict[str, Any] = ways.get("engine", {})
    files: dict[str, Any] = ways.get("files", {})
    goals = [
        _ratio("fp32 engine against Keras tf.function", engine, "Keras tf.function", "glomedge fp32 cpu", 1.1),
        _ratio("int8 engine against Keras tf.function", engine, "Keras tf.function", "glomedge int8 cpu", 3.0),
        _ratio("files to answers, int8, against published script", files, "published script", "glomedge int8 cpu", 8.0),
        _share(overlap),
    ]
    models: dict[str, Any] = cases.get("models", {})
    first: dict[str, Any] = next(iter(models.values()), {})
    fastest: dict[str, list[float]] = first.get("to_cases_csv_s", {})
    for size, limit in (("25", 1.0), ("100", 2.2)):
        what = f"process start to cases.csv, {size} crops of the users' size"
        if fastest.get(size):
            median = _median(fastest[size])
            goals.append(Goal(what, f"<= {limit} s", f"{median:.2f} s", "yes" if median <= limit else "NO"))
        else:
            goals.append(Goal(what, f"<= {limit} s", "not measured", "-"))
    return goals


def _ratio(what: str, data: dict[str, Any], baseline: str, candidate: str, wanted: float) -> Goal:
    samples = data.get("samples_s", {})
    if baseline not in samples or candidate not in samples:
        return Goal(what, f">= {wanted:g} x", "not measured", "-")
    from common import paired_ratio

    ratio = paired_ratio(samples[baseline], samples[candidate])
    verdict = "yes" if ratio.value >= wanted else "NO"
    return Goal(what, f">= {wanted:g} x", f"{ratio.value:.2f} x ({ratio.low:.2f}-{ratio.high:.2f})", verdict)


def _share(overlap: dict[str, Any]) -> Goal:
    what, wanted = "overlap: share of the core-second limit, int8", ">= 95%"
    runs: list[dict[str, Any]] = [run for run in overlap.get("runs", []) if run["model"] == "int8"]
    if not runs:
        return Goal(what, wanted, "not measured", "-")
    largest = max(runs, key=lambda run: int(run["crops"]))
    share = _median(largest["shares"])
    return Goal(what, wanted, f"{share:.0%} ({largest['crops']} crops)", "yes" if share >= 0.95 else "NO")


def page(folder: Path) -> str:
    """``README.md`` of a results folder: goals first, then every other table, then the plots."""
    tables = sorted(folder.glob("*.md"), key=lambda path: (path.stem != "goals", path.stem != "ways", path.stem))
    parts = [
        f"# {folder.name}",
        f"{describe(environment())}. Written by `make bench`; do not edit. {RESEARCH_USE_NOTICE}",
        *(path.read_text(encoding="utf-8").rstrip() for path in tables if path.name != "README.md"),
        *(f"![{path.stem.replace('_', ' ')}]({path.name})" for path in sorted(folder.glob("*.png"))),
    ]
    return "\n\n".join(parts) + "\n"


def _load(path: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return document


def _median(values: list[float]) -> float:
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


if __name__ == "__main__":
    sys.exit(main())
