"""onnxruntime's CPU provider against OpenVINO, paired, in fp32, bf16 and int8; and whether decisions agree.

    python -m benchmarks.speed.providers --artifacts artifacts --data DATA

Each way is an Engine in its own process with all usable CPUs (as many callers as CPUs, each on one thread); the
ways take turns, so that a slow minute slows all of them. A way that cannot run here is listed with its reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import perf_counter
from typing import Any

from benchmarks.lib.common import (
    Worker,
    alternate,
    log,
    markdown_table,
    paired_ratio,
    parser,
    set_results_directory,
    usable_cores,
    write_result,
)
from benchmarks.lib.engine_crops import agreement, enhanced_crops, probabilities
from benchmarks.lib.prepare import artifacts as prepared_artifacts
from glomedge.engine import loading
from glomedge.errors import GlomedgeError
from glomedge.model.file import read_model_file

BATCH = 4
# name, file, provider, bf16
WAYS = (
    ("onnxruntime fp32", "model.onnx", "cpu", False),
    ("onnxruntime fp32, its own file", "model.fp32.onnxruntime.onnx", "cpu", False),
    ("OpenVINO fp32", "model.onnx", "openvino", False),
    ("OpenVINO bf16", "model.onnx", "openvino", True),
    ("onnxruntime int8", "model.int8.onnxruntime.onnx", "cpu", False),
    ("OpenVINO int8, the same file", "model.int8.onnxruntime.onnx", "openvino", False),
    ("OpenVINO int8, its own file", "model.int8.openvino.onnx", "openvino", False),
)
PAIRS = (
    ("onnxruntime fp32", "onnxruntime fp32, its own file"),
    ("onnxruntime fp32", "OpenVINO fp32"),
    ("onnxruntime fp32", "OpenVINO bf16"),
    ("onnxruntime fp32", "onnxruntime int8"),
    ("onnxruntime int8", "OpenVINO int8, the same file"),
    ("onnxruntime int8", "OpenVINO int8, its own file"),
)


def worker(model: Path, provider: str, bf16: bool, crops_a_go: int) -> None:
    """The measured process: one line when ready, then one for every line it is sent."""
    callers = usable_cores()
    with loading.load(model, provider, bf16=bf16, concurrency=callers, max_batch=BATCH) as loaded:
        crops, _ = enhanced_crops(None, loaded.spec.recipe, limit=64)
        batches = [crops[i : i + BATCH] for i in range(0, len(crops), BATCH)]
        with ThreadPoolExecutor(callers) as pool:

            def go() -> float:
                begin = perf_counter()
                list(pool.map(loaded.infer, (batches[i % len(batches)] for i in range(crops_a_go // BATCH))))
                return perf_counter() - begin

            go()
            print(json.dumps({"options": dict(loaded.runtime.options), "provider": loaded.provider}), flush=True)
            for _ in sys.stdin:
                print(json.dumps({"seconds": go()}), flush=True)


def start(name: str, model: Path, provider: str, bf16: bool, crops_a_go: int) -> Worker | str:
    """A worker, or the reason why this way cannot run here."""
    if not model.is_file():
        return f"no {model.name}: export it first"
    command = [
        sys.executable,
        "-m",
        "benchmarks.speed.providers",
        "--worker",
        str(model),
        provider,
        str(int(bf16)),
        str(crops_a_go),
    ]
    probe = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if probe.returncode != 0:
        return (probe.stderr.strip().splitlines() or ["no message"])[-1]
    log(f"  {name}: ready")
    return Worker(command)


def parity(artifacts: Path, data: Path | None, limit: int | None) -> dict[str, Any]:
    """Every way against onnxruntime's answer to the same file, on the same crops."""
    found: dict[str, Any] = {}
    for name, file, provider, bf16 in WAYS:
        if provider == "cpu" or not (artifacts / file).is_file():
            continue
        spec = read_model_file(artifacts / file).spec
        crops, what = enhanced_crops(data, spec.recipe, limit)
        try:
            with loading.load(artifacts / file, "cpu") as reference:
                expected = probabilities(reference, crops)
            with loading.load(artifacts / file, provider, bf16=bf16) as other:
                found[name] = agreement(expected, probabilities(other, crops), spec.threshold) | {"what": what}
        except GlomedgeError as error:
            found[name] = {"refused": str(error)}
    return found


def _row(name: str, samples: dict[str, list[float]], crops: int, agreed: dict[str, dict[str, Any]]) -> list[object]:
    """A way's line of the table; ``crops`` are those of one round."""
    seconds = samples[name]
    rate = crops / sorted(seconds)[len(seconds) // 2]
    base = next((a for a, b in PAIRS if b == name and a in samples), None)
    ratio = paired_ratio(samples[base], seconds) if base else None
    paired = f"{ratio.value:.2f} ({ratio.low:.2f}-{ratio.high:.2f}) of {base}" if ratio else ""
    match agreed.get(name):
        case {"max_probability_difference": worst, "flips": flips, "crops": compared}:
            said = f"{worst:.1e}, {flips} flips of {compared}"
        case {"refused": reason}:
            said = str(reason)
        case _:
            said = "the reference of its file"
    return [name, f"{rate:.1f}", paired, said]


def main() -> None:
    """Parse, measure, write."""
    if sys.argv[1:2] == ["--worker"]:
        model, asked, low, count = sys.argv[2:]
        try:
            worker(Path(model), asked, low == "1", int(count))
        except GlomedgeError as error:
            raise SystemExit(str(error)) from None
        return
    options = parser(__doc__)
    options.add_argument("--artifacts", type=Path, help="folder of exported files [default: make bench's]")
    options.add_argument("--data", type=Path, help="folder of real crops for the parity; drawn ones otherwise")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    artifacts = arguments.artifacts or prepared_artifacts()
    rounds, crops_a_go = (3, 16) if arguments.quick else (9, 64)

    running: dict[str, Worker] = {}
    absent: dict[str, str] = {}
    for name, file, provider, bf16 in WAYS:
        started = start(name, artifacts / file, provider, bf16, crops_a_go)
        if isinstance(started, Worker):
            running[name] = started
        else:
            absent[name] = started
            log(f"  {name}: {started}")
    if not running:
        raise SystemExit(f"no exported model in {artifacts.name}: run glomedge export, or give --artifacts")
    ways: dict[str, Callable[[], object]] = dict(running)
    samples = alternate(ways, rounds=rounds)
    settings = {name: way.ready for name, way in running.items()}
    for way in running.values():
        way.close()
    log("parity ...")
    agreed = parity(artifacts, arguments.data, 64 if arguments.quick else None)

    rows = [_row(name, samples, crops_a_go, agreed) for name in samples]
    rows += [[name, "", "", f"not run: {reason}"] for name, reason in absent.items()]
    write_result(
        "providers",
        {
            "crops_a_round": crops_a_go,
            "batch": BATCH,
            "callers": usable_cores(),
            "samples_s": samples,
            "settings": settings,
            "ratios": {
                f"{b} / {a}": vars(paired_ratio(samples[a], samples[b])) for a, b in PAIRS if {a, b} <= set(samples)
            },
            "parity_against_onnxruntime_cpu": agreed,
            "not_run": absent,
        },
        markdown_table(["way", "crops/s", "throughput ratio, paired (95%)", "largest difference, decisions"], rows),
        title="onnxruntime and OpenVINO on this CPU",
    )


if __name__ == "__main__":
    main()
