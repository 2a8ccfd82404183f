"""int8 layouts against each other: does a runtime on this processor give the answers of the file, and how fast?

    .venv/bin/python -m benchmarks.graph.int8_layouts --model artifacts/model.keras --data DATA

For each layout (uint8 activations with zero points; symmetric int8) and weight width (8 and 7 bits): mean error of
the logit when the file is executed as written (exact sums), and in onnxruntime's and OpenVINO's integer kernels here.
Where the two differ by much more than rounding, 16-bit sums saturate: processors without VNNI add two products of
8-bit numbers in 16 bits. The int8 ceiling of this machine is given with the speeds.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx

from benchmarks.lib.common import ROOT, alternate, log, markdown_table, parser, set_results_directory, write_result
from glomedge.bench.ceiling import measure_cpu
from glomedge.model.spec import Target
from glomedge_export.data.export_crops import calibration_crops, held_out, read_recorded
from glomedge_export.graph import convert, int8, ranges, surgery
from glomedge_export.graph.run import OnnxRunner, OpenvinoRunner, Runner, onnx_answers
from glomedge_export.network.network import load_model
from glomedge_export.training_record import read_record

LAYOUTS: tuple[Target, ...] = ("onnxruntime", "tensorrt")
BATCH = 4
COLUMNS = ("layout", "weight_bits", "runtime", "error_as_written", "error_here", "here_against_as_written")


def main() -> None:
    """Measure every layout, write the table."""
    options = parser(__doc__)
    options.add_argument("--model", type=Path, default=ROOT / "artifacts" / "model.keras")
    options.add_argument("--data", type=Path)
    options.add_argument("--method", default="entropy", choices=ranges.METHODS)
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    record = read_record(arguments.model)
    dataset = read_recorded(arguments.data or Path(record.data_directory), record)
    crops = held_out(dataset, record, record.recipe, 64)
    if crops is None:
        raise SystemExit("fewer than 64 held-out crops: give --data the folder that the model was trained on")
    calibration = calibration_crops(dataset, record, record.recipe, 32 if arguments.quick else 128)
    log("converting")
    converted = convert.convert(load_model(arguments.model), record.temperature)
    fp32 = converted.model
    images = crops.images_nhwc[: 16 if arguments.quick else 64]
    reference = _logits(OnnxRunner(fp32.SerializeToString()), images)
    rows: list[dict[str, Any]] = []
    runners: dict[str, Runner] = {}
    for target in LAYOUTS:
        prepared = int8.prepare_int8(fp32, target)
        seen = ranges.observe(prepared, int8.quantised_tensors(prepared, target), calibration.images_nhwc)
        statistics = int8.ActivationStatistics(seen, arguments.method)
        for bits in (8, 7):
            log(f"{target} {bits} bits")
            model = int8.to_int8(prepared, target, statistics, bits)
            found, ran = _errors(model, target, bits, images, reference)
            rows += found
            runners |= ran
    batch = np.ascontiguousarray(images[:BATCH])
    ways = {name: (lambda r=runner: r(batch)) for name, runner in runners.items()}
    samples = alternate(ways, rounds=3 if arguments.quick else 15, warmup=2)
    ceiling = measure_cpu("int8")
    multiply_adds = surgery.multiply_adds(fp32)
    table = []
    for row, (name, seconds) in zip(rows, samples.items(), strict=True):
        rate = BATCH / float(np.median(seconds))
        share = rate * multiply_adds / 1e9 / ceiling.rate_gmac_per_s if ceiling is not None else float("nan")
        row |= {"name": name, "crops_per_s": rate, "share_of_ceiling": share}
        table.append([*(row[key] for key in COLUMNS), round(rate, 1), f"{100 * share:.0f}%"])
    header = ["layout", "weight bits", "runtime", "logit error as written", "logit error here", "here - as written"]
    write_result(
        "int8_layouts",
        {
            "rows": rows,
            "samples_s": samples,
            "ceiling_gmac_per_s": ceiling.rate_gmac_per_s if ceiling is not None else None,
            "ceiling_method": ceiling.method if ceiling is not None else None,
            "logit_standard_deviation": float(reference.std()),
        },
        markdown_table([*header, "crops/s", "of the int8 ceiling here"], table),
        title="int8 layouts, this processor",
    )


def _errors(
    model: onnx.ModelProto, target: Target, bits: int, images: Any, reference: Any
) -> tuple[list[dict[str, Any]], dict[str, Runner]]:
    """What quantisation costs in each runtime, as mean |error| of the logit; and the runners, by name."""
    data = model.SerializeToString()
    exact = _logits(OnnxRunner(data, literal=True), images)
    layout = "uint8, zero points" if target == "onnxruntime" else "int8, symmetric"
    rows: list[dict[str, Any]] = []
    runners: dict[str, Runner] = {}
    for name, runner in (("onnxruntime", OnnxRunner(data)), ("openvino", OpenvinoRunner(data))):
        answer = _logits(runner, images)
        runners[f"{layout}, {bits}-bit weights, {name}"] = runner
        rows.append(
            {
                "layout": layout,
                "weight_bits": bits,
                "runtime": name,
                "error_as_written": float(np.abs(exact - reference).mean()),
                "error_here": float(np.abs(answer - reference).mean()),
                "here_against_as_written": float(np.abs(answer - exact).mean()),
                "operators": surgery.op_counts(model),
            }
        )
    return rows, runners


def _logits(run: Any, images: Any) -> Any:
    answers = onnx_answers(run, images, batch=BATCH)
    assert answers.activation is not None
    return answers.activation.astype(np.float64).mean(axis=(1, 2))


if __name__ == "__main__":
    main()
