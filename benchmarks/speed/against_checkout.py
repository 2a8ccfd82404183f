"""Whole commands of this checkout against those of another one, such as the commit before a change.

    git worktree add ../before COMMIT
    python -m benchmarks.speed.against_checkout --other ../before --model FILE.onnx

Each command runs as a user starts it, in both checkouts by the same Python, one after the other and the other way round
in turns. The goal of a change that is not about speed: no command slower by more than 2%, a start not at all. The model
must be a file that both can read (an older glomedge refuses the specs of a newer one).
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from benchmarks.lib.common import ROOT, log, markdown_table, parser, set_results_directory, user_crops, write_result
from glomedge.bench.statistics import Estimate, paired_ratio

SIDES = ("other", "this")


@dataclass(frozen=True)
class Timing:
    """Seconds of one command from start to end: on the clock, and of processor time with its children's."""

    wall_s: float
    processor_s: float


def commands(model: Path, scratch: Path) -> dict[str, tuple[list[str], int]]:
    """Name of each measurement -> the command's arguments and how many pairs; ``@`` is a folder for its results."""
    few, many = user_crops(72, seed=6), user_crops(300, seed=5)
    infer = ["-m", str(model), "-o", str(scratch / "@"), "--provider", "cpu"]
    return {
        "--version": (["--version"], 20),
        "--help": (["--help"], 15),
        "infer --help": (["infer", "--help"], 15),
        "info": (["info", str(model)], 12),
        "doctor": (["doctor"], 6),
        "infer, 72 crops": (["infer", str(few), *infer], 15),
        "infer, 300 crops": (["infer", str(many), *infer], 10),
    }


def run(root: Path, arguments: list[str], scratch: Path) -> Timing:
    """One start of ``glomedge``. Raises SystemExit with its message where it fails."""
    shutil.rmtree(scratch / "@", ignore_errors=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(root), str(root / "export")]),
        "XDG_CACHE_HOME": str(scratch / f"cache-{root.name}"),
    }
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-P", "-m", "glomedge", *arguments], env=environment, cwd=scratch, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    wall_s, after = time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in (0, 2):
        raise SystemExit(f"glomedge {arguments[0]} failed: {done.stderr.strip()[-500:]}")
    processor_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Timing(wall_s, processor_s)


def pairs(roots: dict[str, Path], arguments: list[str], count: int, scratch: Path) -> dict[str, list[Timing]]:
    """That many runs of each side after one that does not count, in turns."""
    for root in roots.values():
        run(root, arguments, scratch)
    found: dict[str, list[Timing]] = {side: [] for side in SIDES}
    for index in range(count):
        for side in SIDES if index % 2 == 0 else SIDES[::-1]:
            found[side].append(run(roots[side], arguments, scratch))
    return found


def main() -> None:
    """Parse, measure, write."""
    options = parser(__doc__)
    options.add_argument("--other", type=Path, required=True, help="the other checkout")
    options.add_argument("--model", type=Path, required=True, help="a model file that both can read")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    roots = {"other": arguments.other.resolve(), "this": ROOT}
    revisions = {side: revision(root) for side, root in roots.items()}
    rows: list[list[object]] = []
    measured: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (command, count) in commands(arguments.model.resolve(), Path(folder)).items():
            found = pairs(roots, command, 3 if arguments.quick else count, Path(folder))
            columns: list[object] = [name]
            for what in ("wall_s", "processor_s"):
                other, this = ([getattr(timing, what) for timing in found[side]] for side in SIDES)
                columns += [f"{sorted(this)[len(this) // 2]:.3f}", shown(paired_ratio(this, other))]
            measured[name] = {side: [vars(timing) for timing in timings] for side, timings in found.items()}
            rows.append(columns)
            log("  " + "  ".join(map(str, columns)))
    header = ("command", "seconds", "ratio to the other", "processor seconds", "ratio to the other")
    title = f"Whole commands at {revisions['this']}, against {revisions['other']}"
    write_result(
        "against_checkout", {"revisions": revisions, "runs": measured}, markdown_table(header, rows), title=title
    )


def shown(ratio: Estimate) -> str:
    """A ratio with its interval."""
    return f"{ratio.value:.3f} ({ratio.low:.3f} to {ratio.high:.3f})"


def revision(root: Path) -> str:
    """The commit of a checkout, shortened."""
    done = subprocess.run(
        ["git", "-C", str(root), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


if __name__ == "__main__":
    main()
