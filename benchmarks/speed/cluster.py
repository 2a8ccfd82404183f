"""What merging the shards of a run costs: seconds and memory by rows and number of shards; and what shards cost.

The shards' folders are simulated: the rows that ``publishing.py`` draws, dealt and ordered in the journals as
``glomedge infer --shard`` deals and orders them. ``glomedge merge`` then runs in a process of its own; the memory is
that of the whole process. No crop is there and nothing is classified.

With ``--workers`` crops are classified: by plain ``glomedge infer``, and by 1, 2 and 4 processes with a share each, at
once, of which each has its part of this machine's cores; then merged. Processor seconds are those of all processes, and
hold on a machine that has other work; the order of the ways changes from round to round.

    .venv/bin/python -m benchmarks.speed.cluster [--quick] [--rows 1000000] [--shards 16] [--report]
    .venv/bin/python -m benchmarks.speed.cluster --workers [--model model.onnx] [--images DIR] [--rounds 3]
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.lib.common import (
    ROOT,
    file_sha256,
    find_model,
    log,
    markdown_table,
    parser,
    set_results_directory,
    user_crops,
    write_result,
)  # fmt: skip
from benchmarks.speed import publishing_worker as simulated


def main() -> None:
    """Prepare the shards, merge them, write ``cluster.json`` and ``.md``."""
    options = parser(__doc__)
    options.add_argument("--rows", type=int, action="append", help="repeatable [default: 100000, 1000000]")
    options.add_argument("--shards", type=int, default=16)
    options.add_argument("--report", action="store_true", help="with report.html")
    options.add_argument("--workers", action="store_true", help="classify with 1, 2 and 4 processes instead")
    options.add_argument("--model", type=Path, help="[default: the model of the other benchmarks]")
    options.add_argument("--images", type=Path, help="[default: 400 drawn crops]")
    options.add_argument("--rounds", type=int, default=3)
    options.add_argument("--scratch", type=Path, help="folder for shards and outputs, up to 2 GB")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    if arguments.workers:
        compare_workers(arguments)
        return
    runs = []
    for rows in [20_000] if arguments.quick else arguments.rows or [100_000, 1_000_000]:
        with tempfile.TemporaryDirectory(prefix="glomedge-cluster-", dir=arguments.scratch) as scratch:
            job = {
                "rows": rows, "shards": arguments.shards, "report": arguments.report,
                "source": scratch, "model": f"{scratch}/model.onnx",
            }  # fmt: skip
            worker("prepare", job)
            runs.append({name: job[name] for name in ("rows", "shards", "report")} | worker("merge", job))
        log(f"  {rows} rows of {arguments.shards} shards: {runs[-1]['seconds']:.1f} s")
    table = markdown_table(
        ("rows", "shards", "report", "s", "CPU s", "MB"),
        [
            (
                f"{run['rows']:,}", str(run["shards"]), "yes" if run["report"] else "no", f"{run['seconds']:.1f}",
                f"{run['cpu_seconds']:.1f}", f"{run['peak_bytes'] / 1e6:.0f}",
            )
            for run in runs
        ],
    )  # fmt: skip
    write_result("cluster", {"runs": runs}, table, title="Merging the shards of a run")


def compare_workers(arguments: argparse.Namespace) -> None:
    """Plain ``infer`` against shards at once; writes ``cluster_workers.json`` and ``.md``."""
    model = arguments.model or find_model()
    images = arguments.images or user_crops(24 if arguments.quick else 400)
    ways = [0, 1, 2, 4]  # 0: without shards
    rounds = 1 if arguments.quick else arguments.rounds
    runs = []
    for round_ in range(rounds):
        for count in (*ways[round_ % 4 :], *ways[: round_ % 4]):
            with tempfile.TemporaryDirectory(prefix="glomedge-cluster-", dir=arguments.scratch) as scratch:
                runs.append({"workers": count, "round": round_, **classified(count, model, images, Path(scratch))})
            log(f"  {runs[-1]}")
    rows = []
    for count in ways:
        mine = [run for run in runs if run["workers"] == count]
        best = {name: statistics.median(run[name] for run in mine) for name in ("seconds", "cpu_seconds", "merge_cpu")}
        name = "`glomedge infer`" if count == 0 else f"{count} shard{'s' if count > 1 else ''}"
        rows.append((name, f"{best['seconds']:.1f}", f"{best['cpu_seconds']:.1f}", f"{best['merge_cpu']:.1f}"))
    table = markdown_table(("processes", "s", "CPU s", "merge CPU s"), rows)
    said = {"model": file_sha256(model), "images": str(images.name), "rounds": rounds, "runs": runs}
    write_result("cluster_workers", said, table, title="Shards at once against one process")


def classified(count: int, model: Path, images: Path, scratch: Path) -> dict[str, float]:
    """Run that many shards at once, or a plain run, and merge: seconds, and processor seconds of all processes."""
    command = [sys.executable, "-m", "glomedge", "infer", str(images), "-m", str(model), "--provider", "cpu"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "export")])}
    cores = sorted(os.sched_getaffinity(0))
    begin_s, begin_cpu_s = time.perf_counter(), _children_cpu_s()
    processes = []
    for number in range(1, max(1, count) + 1):
        share = [] if count == 0 else ["--shard", f"{number}/{count}"]
        mine = cores if count <= 1 else [core for place, core in enumerate(cores) if place % count == number - 1]
        mine = mine or [cores[(number - 1) % len(cores)]]
        pinned = ["taskset", "--cpu-list", ",".join(map(str, mine))]
        processes.append(
            subprocess.Popen([*pinned, *command, "-o", str(scratch / "run"), *share], env=environment,
                             stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        )  # fmt: skip
    for process in processes:
        said = process.communicate()[1]
        if process.returncode not in (0, 2):
            raise SystemExit(f"infer failed:\n{said[-2000:]}")
    seconds, cpu_s = time.perf_counter() - begin_s, _children_cpu_s() - begin_cpu_s
    begin_cpu_s = _children_cpu_s()
    if count:
        merge = [sys.executable, "-m", "glomedge", "merge", str(scratch / "run"), "-o", str(scratch / "merged")]
        subprocess.run(merge, env=environment, check=False, capture_output=True)
        if not (scratch / "merged" / "predictions.csv").is_file():
            raise SystemExit("the shards were not merged")
    return {"seconds": seconds, "cpu_seconds": cpu_s, "merge_cpu": _children_cpu_s() - begin_cpu_s}


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def worker(action: str, job: dict[str, Any]) -> dict[str, Any]:
    """One process; what it printed."""
    command = [sys.executable, "-m", "benchmarks.speed.cluster", "--worker", action, json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode != 0:
        raise SystemExit(f"{action} failed:\n{done.stderr[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout) if done.stdout else {}
    return answer


def prepare(job: dict[str, Any]) -> None:
    """Write the folders of all shards, as ``infer --shard`` leaves them."""
    from glomedge.cases.names import CaseFinder
    from glomedge.model.file import read_model_file
    from glomedge.pipeline.batching import placed_batches
    from glomedge.pipeline.inputs import Found, Scan
    from glomedge.results.journal import Identity
    from glomedge.runs.shard import Share, list_sha256
    from glomedge.runs.shard_of import Shard
    from glomedge.runs.slides import Inputs

    sys.path.insert(0, str(ROOT / "tests"))
    simulated.model(job)
    model = read_model_file(Path(job["model"]))
    options = simulated.options_of(job, Path(job["source"]) / "shards")
    names = simulated.names(job["rows"])
    found, finder, sha256 = [Found(name) for name in names], CaseFinder(["a-1.png"]), list_sha256(names)
    whole = Inputs(Scan(bytes(options.folder), found))
    rng = random.Random(21)
    pictures = [struct.pack("<49f", *(rng.gauss(0, 3) for _ in range(49))) + rng.randbytes(2500) for _ in range(64)]
    identity = Identity(str(options.folder), model.sha256, model.spec.recipe.model_dump_json(), 0.5, 1, 4)
    for number in range(1, job["shards"] + 1):
        shard = Shard(number, job["shards"])
        mine = [each for each in found if shard.takes(each.relative)]
        folder = shard.folder(options.output)
        work = folder / ".glomedge"
        work.mkdir(parents=True)
        share = Share(shard, whole, Inputs(replace(whole.found, inputs=mine)), finder, sha256)
        share.write(work, replace(options, output=folder, shard=shard))
        (work / "thumbnails").write_bytes(b"".join(pictures))
        batches = [batch.inputs for batch in placed_batches(found, mine, 4)]
        _journal(work / "journal", replace(identity, shard=str(shard)).as_json(), batches, rng, pictures)
        said = {"notes": [], "rows": len(mine), "started_utc": "", "times": {}, "machine": {}, "engine": None}
        (folder / "run.json").write_text(json.dumps(said | {"decoding": None, "inputs_sha256": sha256}))


def _journal(path: Path, identity: dict[str, Any], batches: list[Any], rng: random.Random, pictures: Any) -> None:
    with path.open("wb") as journal:
        seed = simulated._append(journal, {"kind": "head", "format": 2, "identity": identity}, 0)
        simulated._append(journal, {"kind": "engine", "provider": "cpu"}, seed)
        rows = 0
        for batch in batches:
            simulated._append(journal, {"kind": "start", "keys": [found.key for found in batch]}, seed)
            lines = [simulated._row(found.key, rng, pictures) for found in batch]
            simulated._append(journal, {"kind": "rows", "rows": lines}, seed)
            rows += len(lines)
        simulated._append(journal, {"kind": "done", "rows": rows}, seed)


def merge(job: dict[str, Any]) -> dict[str, Any]:
    """Merge them: seconds, processor seconds, peak memory of this process."""
    from glomedge.runs.merge import MergeOptions, merge_shards

    source = Path(job["source"])
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    outcome = merge_shards(MergeOptions((source / "shards",), source / "merged"))
    return {
        "seconds": time.perf_counter() - begin_s,
        "cpu_seconds": time.process_time() - begin_cpu_s,
        "peak_bytes": simulated._status("VmHWM"),
        "answered": outcome.answered,
    }


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        answer = {"prepare": prepare, "merge": merge}[sys.argv[2]](json.loads(sys.argv[3]))
        print(json.dumps(answer) if answer else "", end="")
    else:
        main()
