"""What ``glomedge infer-ray`` costs beside its workers: planning and publication, seconds and memory by rows.

The workers are simulated: a child process writes every part as ``cluster.worker`` does, with drawn answers, and is not
counted. All else is the driver's own code: reading the manifest, naming biopsies, the plan, then reading every part,
``cases.parquet``, the report and ``run.json``. One process for each number of rows; the memory is its peak.

    .venv/bin/python -m benchmarks.speed.publishing_ray [--quick] [--rows 1000000 ...] [--scratch DIR]
"""

from __future__ import annotations

import io
import json
import multiprocessing
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from benchmarks.lib.common import ROOT, log, markdown_table, parser, set_results_directory, write_result
from benchmarks.speed import publishing_worker as simulated


def main() -> None:
    """Run every size, write ``publishing_ray.json`` and ``.md``."""
    options = parser(__doc__)
    options.add_argument("--rows", type=int, action="append", help="repeatable [default: 100000, 1000000]")
    options.add_argument("--scratch", type=Path, help="folder for parts and results, up to 2 GB a million rows")
    options.add_argument("--driver", nargs=2, metavar=("FOLDER", "ROWS"), help="for its own use")
    arguments = options.parse_args()
    if arguments.driver is not None:
        print(json.dumps(drive(Path(arguments.driver[0]), int(arguments.driver[1]))))
        return
    set_results_directory(arguments.results)
    runs = []
    for rows in [20_000] if arguments.quick else arguments.rows or [100_000, 1_000_000]:
        with tempfile.TemporaryDirectory(prefix="glomedge-cohort-", dir=arguments.scratch) as scratch:
            command = [sys.executable, "-m", "benchmarks.speed.publishing_ray", "--driver", scratch, str(rows)]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
            if done.returncode != 0:
                raise SystemExit(f"the driver failed:\n{done.stderr[-2000:]}")
            runs.append({"rows": rows, **json.loads(done.stdout)})
        log(f"  {runs[-1]}")
    table = markdown_table(
        ("rows", "parts", "before the workers, s", "publication, s", "CPU s of both", "MB"),
        [
            (
                f"{run['rows']:,}", run["parts"], f"{run['before_s']:.1f}", f"{run['publication_s']:.1f}",
                f"{run['cpu_s']:.1f}", f"{run['peak_bytes'] / 1e6:.0f}",
            )
            for run in runs
        ],
    )  # fmt: skip
    write_result("publishing_ray", {"runs": runs}, table, title="infer-ray beside its workers")


def drive(scratch: Path, rows: int) -> dict[str, Any]:
    """One run with simulated workers: seconds before and after them, and the memory of this process."""
    import pyarrow
    import pyarrow.parquet

    from glomedge.cluster.cohort import infer_cohort
    from glomedge.cluster.options import CohortOptions
    from glomedge.engine.options import EngineOptions
    from glomedge.runs.options import Options

    sys.path.insert(0, str(ROOT / "tests"))
    model, manifest = scratch / "model.onnx", scratch / "crops.parquet"
    simulated.model({"model": str(model)})
    paths = [name.decode() for name in simulated.names(rows)]
    pyarrow.parquet.write_table(pyarrow.table({"path": paths}), manifest)
    del paths
    plain = Options(scratch, model, scratch / "unused", engine=EngineOptions("cpu"), inputs=manifest, report=True)
    seen: dict[str, float] = {}

    def answer_parts(
        job: Any, model: bytes, parts: Sequence[int], done: Callable[[Any], None], stop: Callable[[], bool]
    ) -> bool:
        from glomedge.cluster.worker import Done

        seen["begin"], seen["parts"] = time.perf_counter(), len(parts)
        child = multiprocessing.get_context("fork").Process(target=write_parts, args=(job, plain.model, parts))
        child.start()
        child.join()
        if child.exitcode != 0:
            raise SystemExit(f"the simulated workers ended with {child.exitcode}")
        for part in parts:
            begin, end = job.plan.bounds(part)
            done(Done(part, end - begin, {}))
        seen["end"] = time.perf_counter()
        return True

    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    outcome = infer_cohort(CohortOptions(plain, str(scratch / "run"), 1, 1), answer_parts)
    if not outcome.complete or outcome.answered != rows:
        raise SystemExit(f"{outcome.answered} of {rows} rows were published")
    return {
        "parts": int(seen["parts"]),
        "before_s": seen["begin"] - begin_s,
        "publication_s": time.perf_counter() - seen["end"],
        "cpu_s": time.process_time() - begin_cpu_s,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def write_parts(job: Any, model: Path, parts: Sequence[int]) -> None:
    """What the workers leave: rows, pictures and stamps of every part, with drawn answers."""
    from glomedge.cluster import worker as real
    from glomedge.cluster.stamps import stamps_bytes
    from glomedge.files.names import unescape_name
    from glomedge.model.file import read_model_file
    from glomedge.pipeline.inputs import Found
    from glomedge.results.tables import ParquetWriter

    rng = random.Random(21)
    thumbnails = [rng.randbytes(2500) for _ in range(64)]
    maps = [np.random.default_rng(21).normal(0, 3, (7, 7)).astype(np.float32) for _ in range(64)]
    worker = real.Worker.__new__(real.Worker)
    worker._job, worker._model = job, read_model_file(model)
    worker._engine = SimpleNamespace(provider="cpu")  # type: ignore[assignment] # no engine runs here
    for part in parts:
        names, cases = real.read_inputs(job.store, job.plan.inputs_file, part)
        found = [Found(unescape_name(name)) for name in names]
        answers = [_answer(each, rng, thumbnails, maps) for each in found]
        blocks = worker._blocks(answers, found, dict(zip(names, cases, strict=True)))
        if job.pictures:
            by_path = {answer.found.key: answer for answer in answers}
            job.store.write(job.plan.pictures_file(part), real._pictures(blocks, by_path, job.pictures))
        job.store.write(job.plan.stamps_file(part), stamps_bytes(answers))
        sink = io.BytesIO()
        writer = ParquetWriter(sink, tta=False)
        for block in blocks:
            writer.write(block)
        writer.close()
        job.store.write(job.plan.part_file(part), sink.getvalue())


def _answer(found: Any, rng: random.Random, thumbnails: list[bytes], maps: list[Any]) -> Any:
    from glomedge.pipeline.prepare import Answer

    _name, status, probability, sha256, size, _, message, _, _ = simulated._row(found.key, rng, thumbnails)
    pictured = {} if probability is None else {"thumbnail": rng.choice(thumbnails), "activation": rng.choice(maps)}
    return Answer(
        found, status=status, probability=probability, sha256=sha256, size_bytes=size, message=message, **pictured
    )


if __name__ == "__main__":
    main()
