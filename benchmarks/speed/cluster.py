"""What merging the shards of a run costs: seconds and memory by rows and number of shards.

The shards' folders are simulated: the rows that ``publishing.py`` draws, dealt and ordered in the journals as
``glomedge infer --shard`` deals and orders them. ``glomedge merge`` then runs in a process of its own; the memory is
that of the whole process. No crop is there and nothing is classified.

    .venv/bin/python -m benchmarks.speed.cluster [--quick] [--rows 1000000] [--shards 16] [--report]
"""

from __future__ import annotations

import json
import random
import struct
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.lib.common import ROOT, log, markdown_table, parser, set_results_directory, write_result
from benchmarks.speed import publishing_worker as simulated


def main() -> None:
    """Prepare the shards, merge them, write ``cluster.json`` and ``.md``."""
    options = parser(__doc__)
    options.add_argument("--rows", type=int, action="append", help="repeatable [default: 100000, 1000000]")
    options.add_argument("--shards", type=int, default=16)
    options.add_argument("--report", action="store_true", help="with report.html")
    options.add_argument("--scratch", type=Path, help="folder for shards and outputs, up to 2 GB")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    runs = []
    for rows in [20_000] if arguments.quick else arguments.rows or [100_000, 1_000_000]:
        with tempfile.TemporaryDirectory(prefix="glomedge-cluster-", dir=arguments.scratch) as scratch:
            job = {
                "rows": rows, "shards": arguments.shards, "report": arguments.report,
                "source": scratch, "model": f"{scratch}/model.onnx",
            }  # fmt: skip
            worker("prepare", job)
            runs.append({**job, **worker("merge", job)})
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
