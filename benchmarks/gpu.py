"""The NVIDIA providers against the CPU: agreement, and throughput from batch 1 to 1,024. For anyone with a card.

    pip install '.[gpu]'                  CUDA; for TensorRT also the version that `glomedge doctor` names
    python -m benchmarks.gpu --artifacts artifacts [--data CROPS]

Agreement is held to 1e-4 in probability for fp32 and 5e-3 for fp16, every crop, against the CPU's answer to the same
file: once with the batch sizes of `infer`, once as `infer --fixed-batch` runs (one captured CUDA graph, two callers).
Each batch size has its own session with that one fixed shape, captured as well and fed from host memory, so the
figures include the copies. Exit code 1 if no GPU provider runs (with the reason) or one disagrees.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.lib import common
from benchmarks.lib.common import log, markdown_table, parser, set_results_directory, write_result
from benchmarks.lib.engine_crops import Images, agreement, enhanced_crops, probabilities
from glomedge.engine import loading, providers
from glomedge.errors import GlomedgeError
from glomedge.model.file import read_model_file

PROVIDERS = ("cuda", "tensorrt", "tensorrt-rtx")
FILES = ("model.onnx", "model.fp16.onnx", "model.fp16.any.onnx", "model.fp16.tensorrt.onnx", "model.int8.tensorrt.onnx")
LIMITS = {"fp32": 1e-4, "fp16": 5e-3}
BATCHES = tuple(2**power for power in range(11))


def throughput(model: Path, provider: str, batch: int, crops: Images, seconds: float) -> dict[str, Any]:
    """Raw seconds of each run of one batch size."""
    repeats = -(-batch // len(crops))
    images = np.ascontiguousarray(np.concatenate([crops] * repeats)[:batch])
    start = perf_counter()
    with loading.load(model, provider, max_batch=batch, fixed_batch=True) as loaded:
        load_s = perf_counter() - start
        for _ in range(5):
            loaded.infer(images)
        runs: list[float] = []
        end = perf_counter() + seconds
        while perf_counter() < end or len(runs) < 5:
            begin = perf_counter()
            loaded.infer(images)
            runs.append(perf_counter() - begin)
    return {"batch": batch, "load_s": load_s, "samples_s": runs, "crops_per_s": batch / float(np.median(runs))}


def fixed_probabilities(model: Path, provider: str, crops: Images) -> npt.NDArray[np.float32]:
    """Float32 ``[N]``, as ``infer --fixed-batch`` computes them: two threads call, the last batch is not full."""
    batches = [crops[i : i + providers.GPU_BATCH] for i in range(0, len(crops), providers.GPU_BATCH)]
    size, callers = providers.GPU_BATCH, providers.GPU_RUN_THREADS
    with (
        loading.load(model, provider, batch_size=size, fixed_batch=True, concurrency=callers) as loaded,
        ThreadPoolExecutor(callers) as pool,
    ):
        return np.concatenate([output.probability for output in pool.map(loaded.infer, batches)])


def examine(model: Path, provider: str, data: Path | None, quick: bool) -> dict[str, Any]:
    """Agreement and throughput of one file on one provider, or why there is none."""
    spec = read_model_file(model).spec
    crops, what = enhanced_crops(data, spec.recipe, 64 if quick else None)
    try:
        with loading.load(model, "cpu") as reference:
            expected = probabilities(reference, crops)
        with loading.load(model, provider, strict_placement=True) as loaded:
            found: dict[str, Any] = agreement(expected, probabilities(loaded, crops), spec.threshold)
            found |= {"what": what, "versions": dict(loaded.runtime.versions), "options": dict(loaded.runtime.options)}
        fixed = fixed_probabilities(model, provider, crops)
        found["fixed_batch"] = agreement(expected, fixed, spec.threshold)
        limit = LIMITS.get(spec.precision)
        found["limit"] = limit
        worst = max(ways["max_probability_difference"] for ways in (found, found["fixed_batch"]))
        found["agrees"] = limit is None or worst <= limit
        found["throughput"] = []
        for batch in BATCHES[:: 3 if quick else 1]:
            found["throughput"].append(throughput(model, provider, batch, crops, 0.5 if quick else 3.0))
            log(f"    batch {batch}: {found['throughput'][-1]['crops_per_s']:.0f} crops/s")
    except GlomedgeError as error:
        return {"refused": str(error)}
    return found


def main() -> int:
    """Parse, measure, write; the exit code."""
    options = parser(__doc__)
    options.add_argument("--artifacts", type=Path, default=common.ROOT / "artifacts", help="folder of exported files")
    options.add_argument("--data", type=Path, help="folder of real crops; drawn ones otherwise")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    reasons = {name: providers.named(name).unusable() for name in PROVIDERS}
    for reason in reasons.values():
        if reason:
            log(reason)
    usable = [name for name, reason in reasons.items() if reason is None]
    if not usable:
        log("No GPU provider can run here, so there is nothing to measure. `glomedge doctor` shows the whole machine.")
        return 1
    models = [arguments.artifacts / name for name in FILES if (arguments.artifacts / name).is_file()]
    if not models:
        log(f"No exported model in {arguments.artifacts.name}: run glomedge export first, or give --artifacts.")
        return 1
    results: dict[str, Any] = {}
    rows: list[list[object]] = []
    for model in models:
        for name in usable:
            log(f"  {model.name} on {name} ...")
            found = results[f"{model.name} on {name}"] = examine(model, name, arguments.data, arguments.quick)
            if "refused" in found:
                log(f"    {found['refused']}")
                rows.append([model.name, name, "", "", found["refused"]])
                continue
            best = max(found["throughput"], key=lambda entry: float(entry["crops_per_s"]))
            said = "; ".join(
                f"{way}: {ways['max_probability_difference']:.1e}, {ways['flips']} flips of {ways['crops']}"
                for way, ways in (("usual", found), ("fixed batch", found["fixed_batch"]))
            )
            single = found["throughput"][0]["crops_per_s"]
            rows.append([model.name, name, f"{single:.0f}", f"{best['crops_per_s']:.0f} at {best['batch']}", said])
    write_result(
        "gpu",
        {
            "limits": LIMITS,
            "not_usable": {name: reason for name, reason in reasons.items() if reason},
            "results": results,
        },
        markdown_table(["file", "provider", "crops/s at batch 1", "best crops/s", "against the CPU"], rows),
        title="NVIDIA providers",
    )
    agreeing = [found for found in results.values() if found.get("agrees")]
    return 0 if agreeing and all(found.get("agrees", True) for found in results.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
