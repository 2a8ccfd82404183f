"""The int8 graph with its first convolution over blocks of pixels against the same without, operator by operator.

    .venv/bin/python -m benchmarks.graph.int8_stem --model artifacts/model.onnx [--rounds 30]

``--model`` is an fp32 file for any target, of this network; it is laid out in int8 for onnxruntime twice. Speed does
not depend on what the crops show, so ranges are those of drawn numbers. Processor time of one thread, both files in
turn, beside the measured int8 ceiling of one thread; the profiles come from onnxruntime's own profiler. Whether both
files give the same bits is said.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.lib.common import (
    alternate,
    find_model,
    log,
    markdown_table,
    paired_ratio,
    parser,
    set_results_directory,
    write_result,
)
from glomedge.bench.ceiling import measure_cpu
from glomedge.engine.backends.onnxrt import DISABLED_OPTIMIZERS
from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.graph import int8, ranges, space_to_depth, surgery
from glomedge_export.graph.lower import WEIGHT_BITS

BATCH = 4
RUNS = 10
BEFORE, AFTER = "7 x 7 over 3 channels", "4 x 4 over blocks of pixels"


def main() -> None:
    """Lay the graph out both ways, measure, write ``int8_stem.json`` and ``.md``."""
    options = parser(__doc__)
    options.add_argument("--model", type=Path)
    options.add_argument("--rounds", type=int, default=30)
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    fp32 = onnx.load(str(arguments.model or find_model()))
    images = np.random.default_rng(0).integers(0, 256, (BATCH, 224, 224, 3), np.uint8)
    files = _files(fp32, images)
    sessions = {name: _session(data) for name, data in files.items()}
    answers = [session.run(None, {"images": images}) for session in sessions.values()]
    equal = all(np.array_equal(a, b) for a, b in zip(*answers, strict=True))
    rounds = 5 if arguments.quick else arguments.rounds
    samples = alternate({name: _runs(session, images) for name, session in sessions.items()}, rounds=rounds, warmup=3)
    ratio = paired_ratio(samples[BEFORE], samples[AFTER])
    ceiling = measure_cpu("int8", threads=1)
    assert ceiling is not None
    work = surgery.multiply_adds(fp32)
    profiles = {name: _profile(data, images) for name, data in files.items()}
    rows = []
    for name, seconds in samples.items():
        ms = 1e3 * float(np.median(seconds)) / BATCH / RUNS
        share = work / 1e6 / ms / ceiling.rate_gmac_per_s
        rows.append((name, f"{ms:.2f}", f"{share:.0%}"))
    parts = list(dict.fromkeys(part for profile in profiles.values() for part in profile))
    by_part = [
        (part, *(f"{profiles[name].get(part, 0.0):.3f}" for name in (BEFORE, AFTER)))
        for part in sorted(parts, key=lambda part: -profiles[BEFORE].get(part, 0.0))
    ]
    text = (
        f"{markdown_table(('first convolution', 'ms of one thread a crop', 'of the int8 ceiling here'), rows)}\n"
        f"Paired: {ratio.value:.3f} times as fast (95% {ratio.low:.3f} to {ratio.high:.3f}), {rounds} rounds of {RUNS} "
        f"batches of {BATCH}. The answers are {'the same to the bit' if equal else 'NOT the same'}. Ceiling: "
        f"{ceiling.rate_gmac_per_s:.0f} billion multiply-adds a second ({ceiling.method}); the network has "
        f"{work / 1e9:.2f} billion, and the zeros that the kernel grows by are not counted as work.\n\n"
        f"{markdown_table(('operator, ms a crop', BEFORE, AFTER), by_part)}"
    )
    log(text)
    result: dict[str, Any] = {"samples_s": samples, "ratio": asdict(ratio), "same_bits": equal, "profiles_ms": profiles}
    result |= {"crops_a_sample": BATCH * RUNS, "ceiling_gmac_per_s": ceiling.rate_gmac_per_s, "multiply_adds": work}
    write_result("int8_stem", result, text, title="The first convolution of the int8 file")


def _files(fp32: onnx.ModelProto, images: Any) -> dict[str, bytes]:
    log("laying out int8")
    prepared = int8.prepare_int8(fp32, "onnxruntime")
    seen = ranges.observe(prepared, int8.quantised_tensors(prepared, "onnxruntime"), images)
    statistics = int8.ActivationStatistics(seen, "minmax")
    plain = int8.to_int8(prepared, "onnxruntime", statistics, WEIGHT_BITS["onnxruntime"])
    blocks = space_to_depth.rewrite(plain)
    if surgery.op_counts(blocks) == surgery.op_counts(plain):
        raise SystemExit("the first convolution of this file cannot be laid out over blocks of pixels")
    return {BEFORE: plain.SerializeToString(), AFTER: blocks.SerializeToString()}


def _session(data: bytes, *, profile: Path | None = None) -> Any:
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.add_session_config_entry("optimization.disable_specified_optimizers", ";".join(DISABLED_OPTIMIZERS))
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"])


def _runs(session: Any, images: Any) -> Any:
    def run() -> float:
        begin = time.thread_time()
        for _ in range(RUNS):
            session.run(["probability"], {"images": images})
        return time.thread_time() - begin

    return run


def _profile(data: bytes, images: Any) -> dict[str, float]:
    """Milliseconds a crop of each kind of operator: the median over runs of each node, summed."""
    with tempfile.TemporaryDirectory() as folder:
        session = _session(data, profile=Path(folder) / "profile")
        for _ in range(3 * RUNS):
            session.run(["probability"], {"images": images})
        events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    spent: dict[str, list[float]] = defaultdict(list)
    kind: dict[str, str] = {}
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            spent[event["name"]].append(event["dur"])
            kind[event["name"]] = _kind(event)
    parts: dict[str, float] = defaultdict(float)
    for name, microseconds in spent.items():
        parts[kind[name]] += float(np.median(microseconds[3:])) / 1e3 / BATCH
    return dict(parts)


def _kind(event: dict[str, Any]) -> str:
    name, operator = event["name"], event["args"]["op_name"]
    if operator in ("Slice", "Concat"):
        return "rows into blocks (Slice, Concat)"
    if operator != "QLinearConv":
        return str(operator) if operator in ("QLinearAdd", "NhwcMaxPool") else "the rest"
    if name.startswith("conv1_conv"):
        return "first convolution"
    if "preact_bn" in name or "post_bn" in name:
        return "depthwise BatchNormalizations"
    size = {"_2_conv": "3 x 3", "_0_conv": "1 x 1 of the shortcuts"}
    shape = next((text for end, text in size.items() if end in name), "1 x 1")
    return f"{shape}, stage {name[4]}"


if __name__ == "__main__":
    main()
