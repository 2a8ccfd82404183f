"""``make bench``: every comparison in one command, under 15 minutes on two cores.

Rewrites ``benchmarks/results/<host-kind>/``. Runs the scripts one after another, each in a process of its own, and then
writes ``README.md`` of that folder: the goals with what was reached, every table, and the plots. A script that fails is
named there, the others still run, and the exit code is 1. Nothing in that folder is written by hand.

    .venv/bin/python -m benchmarks.run_all [--quick] [--only NAME ...]
    .venv/bin/python -m benchmarks.run_all --page        # measures nothing, takes in results of scripts run by hand
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Set
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.common import (
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
from benchmarks.lib.prepare import artifacts
from glomedge.about import RESEARCH_USE_NOTICE

PACKAGE = "benchmarks.speed"
"""Where the scripts are."""
BUDGET_S = 15 * 60.0
LEAST_S = 30.0
"""What the last scripts get even if the earlier ones have used up the budget."""


@dataclass(frozen=True)
class Script:
    """One script, the results it writes, and how long it may take.

    Attributes:
        name: of the file.
        result: name of its ``.json``.
        arguments: beside ``--results`` and ``--quick``.
        limit_s: time limit, in seconds.
        takes_the_rest: it is told by ``--budget`` how much of the fifteen minutes is left, and limits itself to that.
    """

    name: str
    result: str
    arguments: tuple[str, ...] = ()
    limit_s: float = 240.0
    takes_the_rest: bool = False


SCRIPTS = (
    Script("compare_ways", "ways", ("--budget", "100"), limit_s=460),
    Script("time_to_case", "time_to_case", limit_s=180),
    Script("cold_start", "cold_start", ("--starts", "10"), limit_s=100),
    Script("pipeline_overlap", "pipeline_overlap", ("--crops", "120", "--rounds", "4"), limit_s=180),
    Script("growth", "growth", limit_s=600, takes_the_rest=True),
)
"""What make bench runs. The other scripts of this folder answer narrower questions and are run by hand (README.md)."""


def main() -> int:
    """Run the scripts, then write the goals and the folder's README."""
    options = parser(__doc__)
    options.add_argument("--only", action="append", help="only this script; repeatable")
    options.add_argument("--page", action="store_true", help="only rewrite goals and README from the results there")
    arguments = options.parse_args()
    if unknown := set(arguments.only or ()) - {script.name for script in SCRIPTS}:
        options.error(f"--only {sorted(unknown)[0]}: choose among {', '.join(script.name for script in SCRIPTS)}")
    set_results_directory(arguments.results)
    folder = results_directory()
    begin = time.perf_counter()
    if not arguments.page:
        artifacts()
    failed: dict[str, str] = {}
    took: dict[str, float] = {"models": time.perf_counter() - begin}
    for script in SCRIPTS:
        if arguments.page or (arguments.only and script.name not in arguments.only):
            continue
        log(f"== {script.name}")
        started = time.perf_counter()
        left_s = max(LEAST_S, BUDGET_S - (started - begin) - 15.0)
        why = run(script, folder, left_s, quick=arguments.quick)
        if why:
            failed[script.name] = why
            log(f"   {script.name}: {why}")
        took[script.name] = time.perf_counter() - started
    if arguments.only or arguments.page:
        # The other tables are an earlier run's, and so is what they took.
        earlier = _load(folder / "goals.json").get("took_s", {})
        took = earlier | {name: took[name] for name in arguments.only or ()}
    else:
        took["all"] = time.perf_counter() - begin
    # What an earlier run left behind is not this run's result.
    goals = reached(folder, without={script.result for script in SCRIPTS if script.name in failed})
    rows = [
        (goal.what, goal.wanted, goal.got, f"{goal.verdict}: {goal.reason}" if goal.reason else goal.verdict)
        for goal in goals
    ]
    text = markdown_table(("goal", "wanted", "measured", "reached"), rows)
    text += "\nTook " + ", ".join(f"{name} {seconds:.0f} s" for name, seconds in took.items()) + "."
    for name, why in failed.items():
        text += f"\n\n**{name} did not finish: {why}. Its table below, if any, is an earlier run's.**"
    write_result("goals", {"goals": [vars(g) for g in goals], "took_s": took, "failed": failed}, text, title="Goals")
    (folder / "README.md").write_text(page(folder), encoding="utf-8")
    log(f"results: benchmarks/results/{folder.name}/README.md, {time.perf_counter() - begin:.0f} s")
    return 1 if failed else 0


def run(script: Script, folder: Path, left_s: float, *, quick: bool) -> str:
    """Run one script in its own process group; why it failed, empty when it did not."""
    command = [sys.executable, "-m", f"{PACKAGE}.{script.name}", *script.arguments, "--results", str(folder)]
    limit_s = script.limit_s
    if script.takes_the_rest:
        command += ["--budget", f"{left_s:.0f}"]
        limit_s = min(limit_s, left_s + 60.0)  # its last measurement may run over what it expected
    if quick:
        command.append("--quick")
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        code = process.wait(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)  # the commands and workers that it started as well
        process.wait()
        return f"not done in {limit_s:.0f} s"
    except BaseException:
        os.killpg(process.pid, signal.SIGTERM)
        raise
    return "" if code == 0 else f"exit code {code}"


@dataclass(frozen=True)
class Goal:
    """One goal of the project and what was measured."""

    what: str
    wanted: str
    got: str
    verdict: str
    reason: str = ""
    """Why it is not reached, as far as profiles show."""


_ONE_THREAD = "the imports run in one thread; from then on both cores are busy with decoding and the network"


def reached(folder: Path, without: Set[str] = frozenset()) -> list[Goal]:
    """The goals against the results in the folder; "not measured" where one is missing or in ``without``."""
    ways, cases, overlap, start, commands, maps = (
        {} if name in without else _load(folder / f"{name}.json")
        for name in ("ways", "time_to_case", "pipeline_overlap", "cold_start", "published_script", "heatmap_cost")
    )
    if overlap:
        # A longer run of one model has its own record; its rounds count as well.
        for path in sorted(folder.glob("pipeline_overlap_*.json")):
            overlap["runs"] += _load(path)["runs"]
    engine: dict[str, Any] = ways.get("engine", {})
    files: dict[str, Any] = ways.get("files", {})
    goals = [
        _ratio("fp32 engine against Keras tf.function", engine, "Keras tf.function", "glomedge fp32 cpu", 1.1),
        _ratio("int8 engine against Keras tf.function", engine, "Keras tf.function", "glomedge int8 cpu", 3.0),
        _ratio("files to answers, int8, against published script", files, "published script", "glomedge int8 cpu", 8.0),
        *(
            _ratio(f"whole commands, {row}, against published script", commands, "published script", row, wanted)
            for row, wanted in (("glomedge fp32, laid out for onnxruntime", 4.0), ("glomedge int8", 8.0))
        ),
        *(_share(overlap, model) for model in ("fp32 for onnxruntime", "int8")),
        _heatmaps(maps),
    ]
    models: dict[str, Any] = cases.get("models", {})
    first: dict[str, Any] = next(iter(models.values()), {})
    fastest: dict[str, list[float]] = first.get("to_cases_csv_s", {})
    for size, limit_s in (("25", 0.75), ("100", 2.2)):
        what = f"process start to cases.csv, {size} full-size crops"
        goals.append(_seconds(what, fastest.get(size), limit_s, _ONE_THREAD))
    starts: dict[str, Any] = start.get("ways", {})
    goals.append(_seconds("process start to the first answer, int8", starts.get("int8 cpu", {}).get("again_s"), 0.4))
    goals.append(_seconds("import glomedge.engine, a process of its own", start.get("import_s"), 0.4))
    goals += by_hand(folder)
    return goals


def by_hand(folder: Path) -> list[Goal]:
    """The goals whose scripts are run by hand, because they need data, a cluster or a browser."""
    stem, ray, page_ = (_load(folder / f"{name}.json") for name in ("int8_stem", "ray_cluster", "browser_page_int8"))
    what = "int8 engine, one thread, of the int8 ceiling measured beside it (int8_stem)"
    goals = [Goal(what, ">= 85%", "not measured", "-")]
    if stem:
        seconds = _median(list(stem["samples_s"].values())[-1]) / stem["crops_a_sample"]
        share = stem["multiply_adds"] / seconds / 1e9 / stem["ceiling_gmac_per_s"]
        goals = [Goal(what, ">= 85%", f"{share:.0%}", "yes" if share >= 0.85 else "NO")]
    what = "a Ray job on one machine, after Ray's start, over glomedge infer (ray_cluster)"
    if ray:
        ratio = ray["ratio_s"]
        got = f"{ratio['value']:.2f} x ({ratio['low']:.2f}-{ratio['high']:.2f}), {ray['model']}"
        reason = "its worker is started and opens its engine in that time, which of a short job is much"
        goals.append(_judged(what, "<= 1.15 x", got, reached=ratio["value"] <= 1.15, reason=reason))
    else:
        goals.append(Goal(what, "<= 1.15 x", "not measured", "-"))
    what = "int8 in the browser against Engine.infer, largest difference of a probability (browser_page)"
    if page_:
        worst = max(page_["differences"])
        goals.append(_judged(what, "<= 1e-4", f"{worst:.1e}", reached=worst <= 1e-4))
    else:
        goals.append(Goal(what, "<= 1e-4", "not measured", "-"))
    return goals + [goal for precision in ("fp32", "int8") for goal in _serving(folder, precision)]


def _serving(folder: Path, precision: str) -> list[Goal]:
    """What ``glomedge serve`` costs, and how it answers."""
    from benchmarks.lib.common import paired_ratio

    rows = _load(folder / f"serving_{precision}.json").get("rows", [])
    found = {(row["kind"], row["clients"], row["side"].split()[0]): row for row in rows}
    goals = []
    for key, clients, limits, sign in (
        ("cpu_s_a_crop", 1, (1.05, 1.08), "<="),
        ("cpu_s_a_crop", 16, (1.03, 1.03), "<="),
        ("crops_a_s", 16, (0.97, 0.97), ">="),
    ):
        of = "processor time" if key == "cpu_s_a_crop" else "crops/s"
        what = f"server over the engine alone, {of}, {precision}, clients: {clients} (serving_{precision})"
        wanted = f"{sign} {limits[0]} (pixels), {limits[1]} (PNG)"
        got, least = (
            [
                paired_ratio(found[kind, clients, side][key], found[kind, clients, "engine"][key]).value
                for kind in ("pixels", "files")
                if (kind, clients, side) in found
            ]
            for side in ("glomedge", "least")
        )
        if len(got) < 2:
            goals.append(Goal(what, wanted, "not measured", "-"))
            continue
        holds = all(a <= b if sign == "<=" else a >= b for a, b in zip(got, limits, strict=True))
        reason = f"a server in Python that does nothing else takes {_three(least)}" if least else ""
        goals.append(_judged(what, wanted, _three(got), reached=holds, reason=reason))
    what = f"server, 99% wait over half wait, {precision}, clients: 4 (serving_{precision})"
    waits = [side["waits_s"] for kind in ("pixels", "files") if (side := found.get((kind, 4, "glomedge")))]
    if len(waits) == 2:
        longer = [float(np.percentile(one, 99) / np.median(one)) for one in waits]
        text = ", ".join(f"{one:.2f}" for one in longer)
        goals.append(_judged(what, "<= 2 (pixels, PNG)", text, reached=max(longer) <= 2))
    else:
        goals.append(Goal(what, "<= 2 (pixels, PNG)", "not measured", "-"))
    return goals


def _three(numbers: list[float]) -> str:
    return ", ".join(f"{one:.3f}" for one in numbers)


def _judged(what: str, wanted: str, got: str, *, reached: bool, reason: str = "") -> Goal:
    return Goal(what, wanted, got, "yes" if reached else "NO", "" if reached else reason)


def _seconds(what: str, samples: list[float] | None, limit_s: float, reason: str = "") -> Goal:
    if not samples:
        return Goal(what, f"<= {limit_s} s", "not measured", "-")
    median = _median(samples)
    return _judged(what, f"<= {limit_s} s", f"{median:.2f} s", reached=median <= limit_s, reason=reason)


def _ratio(what: str, data: dict[str, Any], baseline: str, candidate: str, wanted: float) -> Goal:
    samples = data.get("samples_s", {})
    if baseline not in samples or candidate not in samples:
        return Goal(what, f">= {wanted:g} x", "not measured", "-")
    from benchmarks.lib.common import paired_ratio

    ratio = paired_ratio(samples[baseline], samples[candidate])
    verdict = "yes" if ratio.value >= wanted else "NO"
    return Goal(what, f">= {wanted:g} x", f"{ratio.value:.2f} x ({ratio.low:.2f}-{ratio.high:.2f})", verdict)


def _share(overlap: dict[str, Any], model: str) -> Goal:
    what, wanted = f"overlap: share of the core-second limit, {model}", ">= 95%"
    runs: list[dict[str, Any]] = [run for run in overlap.get("runs", []) if run["model"] == model]
    if not runs:
        return Goal(what, wanted, "not measured", "-")
    rounds: dict[int, list[float]] = {}
    for run in runs:
        rounds.setdefault(int(run["crops"]), []).extend(run["shares"])
    shares = {crops: _median(found) for crops, found in rounds.items()}
    got = ", ".join(f"{share:.0%} of {crops:,}" for crops, share in sorted(shares.items())) + " crops"
    return Goal(what, wanted, got, "yes" if min(shares.values()) >= 0.95 else "NO")


def _heatmaps(maps: dict[str, Any]) -> Goal:
    what, wanted = "cost of heatmaps for the uncertain crops", "< 5%"
    runs: list[dict[str, Any]] = maps.get("runs", [])
    if not runs:
        return Goal(what, wanted, "not measured", "-")
    got = "; ".join(
        f"{run['cost_percent']['value']:.1f}% for {run['uncertain_share']:.0%} of {run['name']}" for run in runs
    )
    return Goal(what, wanted, got, "yes" if all(run["cost_percent"]["value"] < 5 for run in runs) else "NO")


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
