"""What each step of the graph surgery does to speed: paired runs of float32 and int8 forms on onnxruntime's CPU.

    .venv/bin/python -m benchmarks.graph.graph_forms --model artifacts/model.keras

float32: the plain tf2onnx form (Mul + Add, Pad), BatchNormalization instead of Mul + Add, the border maximum instead
of Pad. int8: BatchNormalization left in float against the depthwise form. Operator counts are given with the times.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.lib.common import (
    ROOT,
    alternate,
    log,
    markdown_table,
    paired_ratio,
    parser,
    set_results_directory,
    write_result,
)
from glomedge.engine.golden import draw_crop
from glomedge.imaging.enhance import enhance
from glomedge.system.telemetry import import_onnxruntime
from glomedge_export.graph import convert, ends, int8, ranges, surgery
from glomedge_export.network.network import inference_parts, load_model

BATCH = 4


def main() -> None:
    """Time the forms, write the table."""
    options = parser(__doc__)
    options.add_argument("--model", type=Path, default=ROOT / "artifacts" / "model.keras")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    log("converting")
    parts = inference_parts(load_model(arguments.model))
    backbone = convert.convert_backbone(parts.backbone)
    images = np.stack([enhance(draw_crop(seed)) for seed in range(16)])
    plain = ends.attach_head(
        ends.attach_front(backbone, parts.input_scaling), parts.kernel, parts.bias, temperature=1.0
    )
    merged = surgery.batchnorm_from_mul_add(plain)
    bordered = surgery.border_max(merged)
    forms = {
        "fp32: Mul + Add, Pad (tf2onnx)": plain,
        "fp32: BatchNormalization, Pad": merged,
        "fp32: BatchNormalization, border maximum (exported)": bordered,
        "fp32: depthwise Conv, border maximum": surgery.depthwise_from_batchnorm(bordered),
        **_int8(bordered, images),
    }
    sessions = {name: _session(model) for name, model in forms.items()}
    batch = images[:BATCH]
    ways = {name: (lambda s=session: s.run(None, {"images": batch})) for name, session in sessions.items()}
    samples = alternate(ways, rounds=5 if arguments.quick else 25, warmup=2)
    first = next(iter(forms))
    rows = []
    for name, model in forms.items():
        counts = surgery.op_counts(model)
        shown = ", ".join(
            f"{counts[op]} {op}"
            for op in ("Conv", "BatchNormalization", "Mul", "Add", "Pad", "Max", "Relu", "QuantizeLinear")
            if op in counts
        )
        per_crop_ms = 1000 * float(np.median(samples[name])) / BATCH
        rows.append([name, shown, round(per_crop_ms, 2), round(paired_ratio(samples[first], samples[name]).value, 3)])
    write_result(
        "graph_forms",
        {"batch": BATCH, "samples_s": samples, "operators": {name: surgery.op_counts(m) for name, m in forms.items()}},
        markdown_table(["form", "operators", "ms a crop", "times the first"], rows),
        title="Forms of the graph, onnxruntime CPU, paired runs",
    )


def _int8(fp32: onnx.ModelProto, images: Any) -> dict[str, onnx.ModelProto]:
    log("quantising")
    made = {}
    for name, model in (
        ("int8: BatchNormalization in float between int8 convolutions", fp32),
        ("int8: depthwise Conv (exported)", surgery.depthwise_from_batchnorm(fp32)),
    ):
        tensors = int8.quantised_tensors(model, "onnxruntime")
        seen = ranges.observe(model, tensors, images)
        made[name] = int8.to_int8(model, "onnxruntime", int8.ActivationStatistics(seen, "minmax"), 7)
    return made


def _session(model: onnx.ModelProto) -> Any:
    ort = import_onnxruntime()

    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


if __name__ == "__main__":
    main()
