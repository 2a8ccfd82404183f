"""How much of the machine the pipeline uses: end-to-end throughput against the limit that its stages set.

The limit: if every core were busy all the time, N crops would take (decode + enhance + infer) core-seconds / cores. The
stages run alone, on all cores, with the pipeline's own threads: decode and enhance with an engine that answers at once,
infer with the run threads on crops already enhanced. Their processor time counts, not their wall-clock time:
threads that wait for each other would lower the limit and flatter the pipeline. The share is limit / measured time.
Loading the model and writing the files are not counted. A folder of several thousand crops takes minutes, enough to
average out disturbances: it is run twice, without a warm-up.

    .venv/bin/python -m benchmarks.speed.pipeline_overlap [--quick] [--rounds 5] [--crops 72 300 10000]

``--only int8`` measures that model and writes ``pipeline_overlap_int8``, a separate record.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from benchmarks.lib.common import (
    alternate,
    log,
    markdown_table,
    parser,
    set_results_directory,
    usable_cores,
    user_crops,
)
from benchmarks.lib.common import write_result as write
from benchmarks.lib.prepare import artifacts as prepared_artifacts
from glomedge.engine import engine, loading
from glomedge.engine.views import Infer
from glomedge.imaging.images import ALLOWED_SUFFIXES
from glomedge.model.file import read_model_file
from glomedge.pipeline.batching import batches
from glomedge.pipeline.inputs import Found, Scan, scan
from glomedge.pipeline.pipeline import Pipeline
from glomedge.pipeline.prepare import Answer
from glomedge.pipeline.settings import Settings
from glomedge.runs.outcome import THUMBNAIL_PX

LONG_CROPS = 3000
LONG_ROUNDS = 2
"""So many rounds from ``LONG_CROPS`` on."""


class Nothing:
    """An engine that answers at once, and a sink that keeps nothing: what is left is decode and enhance."""

    def infer(self, images_nhwc: npt.NDArray[np.uint8], /) -> engine.Output:
        """Zeros."""
        return engine.Output(np.zeros(len(images_nhwc), np.float32), np.zeros((len(images_nhwc), 7, 7), np.float32))

    def start(self, batch: Sequence[Found]) -> None:
        """Nothing to do."""

    def rows(self, answers: Sequence[Answer]) -> None:
        """Nothing to do."""

    def sync(self) -> None:
        """Nothing to do."""


def at_best(run: Callable[[], object]) -> float:
    """Processor seconds of a stage, user and system, over the cores: how long it takes if none is ever idle."""
    begin_s = time.process_time()  # os.times has hundredths of a second
    run()
    return (time.process_time() - begin_s) / usable_cores()


def through_pipeline(found: Scan, settings: Settings, answering: Infer) -> None:
    """Every crop once."""
    pipeline = Pipeline(found.root, settings, lambda: answering, Nothing())
    pipeline.run(batches(found.inputs, found.inputs, (), settings.batch_size))


def infer_alone(answering: Infer, crops: int, batch: int, threads: int) -> None:
    """As many batches as the crops make, shared by the run threads."""
    images = np.random.default_rng(1).integers(0, 256, (batch, 224, 224, 3), dtype=np.uint8)
    left = iter(range(0, crops, batch))
    lock = threading.Lock()

    def work() -> None:
        while True:
            with lock:
                begin = next(left, None)
            if begin is None:
                return
            answering.infer(images[: min(batch, crops - begin)])

    runners = [threading.Thread(target=work) for _ in range(threads)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()


def measure(loaded: engine.Engine, settings: Settings, count: int, rounds: int) -> dict[str, Any]:
    """Both stages alone and the pipeline, in turn, on ``count`` crops: seconds of each, and the shares of the limit."""
    cores, batch = settings.run_threads, settings.batch_size
    found = scan(user_crops(count), ALLOWED_SUFFIXES)
    ways: dict[str, Callable[[], object]] = {
        "decode and enhance": partial(at_best, partial(through_pipeline, found, settings, Nothing())),
        "infer": partial(at_best, partial(infer_alone, loaded, count, batch, cores)),
        "pipeline": partial(through_pipeline, found, settings, loaded),
    }
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    long = count >= LONG_CROPS
    samples = alternate(ways, rounds=LONG_ROUNDS if long else rounds, warmup=0 if long else 1)
    busy = (time.process_time() - begin_cpu_s) / ((time.perf_counter() - begin_s) * cores)
    shares = [
        (decode + infer) / whole
        for decode, infer, whole in zip(
            samples["decode and enhance"], samples["infer"], samples["pipeline"], strict=True
        )
    ]
    return {"crops": count, "samples_s": samples, "shares": shares, "cpu_busy_share": busy}


def _row(run: dict[str, Any]) -> tuple[object, ...]:
    count, samples, shares = run["crops"], run["samples_s"], run["shares"]
    limit = count / (median(samples["decode and enhance"]) + median(samples["infer"]))
    reached = count / median(samples["pipeline"])
    return count, round(limit, 1), round(reached, 1), f"{100 * median(shares):.1f}%", len(shares)


def main() -> None:
    """Measure and write ``pipeline_overlap.json`` and ``.md``."""
    files = {
        "fp32": "model.onnx",
        "fp32 for onnxruntime": "model.fp32.onnxruntime.onnx",
        "int8": "model.int8.onnxruntime.onnx",
    }
    options = parser(__doc__)
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--crops", type=int, nargs="+", default=[72, 300])
    options.add_argument("--batch", type=int, default=4)
    options.add_argument("--artifacts", type=Path, help="folder with model.onnx and int8 files")
    options.add_argument("--only", choices=files, help="one model")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    cv2.setNumThreads(1)
    cores = usable_cores()
    models = arguments.artifacts or prepared_artifacts()
    counts = [24] if arguments.quick else arguments.crops
    rounds = 2 if arguments.quick else arguments.rounds
    rows: list[tuple[object, ...]] = []
    document: dict[str, Any] = {"cores": cores, "rounds": rounds, "batch": arguments.batch, "runs": []}
    for name, file in files.items():
        if arguments.only not in (None, name):
            continue
        if not (models / file).is_file():
            log(f"  {name}: no {file}, left out")
            continue
        spec = read_model_file(models / file).spec
        settings = Settings(spec.recipe, arguments.batch, cores, cores, thumbnail_px=THUMBNAIL_PX)
        with loading.load(models / file, "cpu", concurrency=cores) as loaded:
            for count in counts:
                run = measure(loaded, settings, count, rounds)
                document["runs"].append({"model": name, **run})
                rows.append((name, *_row(run)))
                log(f"  {name} {count} crops: {rows[-1][4]}")
    header = ("model", "crops", "limit, crops/s", "reached, crops/s", "share of the limit", "rounds")
    text = f"{cores} cores, batch {arguments.batch}.\n\n{markdown_table(header, rows)}"
    record = "_".join(["pipeline_overlap", *(arguments.only or "").split()])
    write(record, document, text, title="Share of the machine's limit that the pipeline reaches")


if __name__ == "__main__":
    main()
