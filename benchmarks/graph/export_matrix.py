"""The seven files of one model, each with its gate table: 3 precisions, each for the targets it makes sense for.

    .venv/bin/python -m benchmarks.graph.export_matrix --model artifacts/model.keras [--data DATA]

The same as these commands, but tf2onnx runs once:

    glomedge export
    glomedge export --target onnxruntime
    glomedge export --precision fp16 --target tensorrt
    glomedge export --precision fp16 --target openvino
    for target in onnxruntime tensorrt openvino; do glomedge export --precision int8 --target $target; done

A refused file stays refused: its table says which gate, and no file appears.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.lib.common import ROOT, log, markdown_table, parser, set_results_directory, write_result
from glomedge.errors import GateError
from glomedge.model.gate_table import GateRow
from glomedge.model.spec import Precision, Target
from glomedge_export.export import Request, Tell, export
from glomedge_export.export_source.source import Said
from glomedge_export.graph.convert import Converted

FILES: tuple[tuple[Precision, Target], ...] = (
    ("fp32", "any"),
    ("fp32", "onnxruntime"),
    ("fp16", "tensorrt"),
    ("fp16", "openvino"),
    ("int8", "onnxruntime"),
    ("int8", "tensorrt"),
    ("int8", "openvino"),
)


def main() -> None:
    """Export every file, write the gate tables."""
    options = parser(__doc__)
    options.add_argument("--model", type=Path, default=ROOT / "artifacts" / "model.keras")
    options.add_argument("--data", type=Path, help="the training data set (default: from the training record)")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    conversions: dict[str, Converted] = {}
    results = [_one(arguments, *file, conversions) for file in FILES]
    write_result("export_matrix", {"files": results}, _markdown(results), title="Seven files of one model, gated")


def _one(arguments: Any, precision: Precision, target: Target, conversions: dict[str, Converted]) -> dict[str, Any]:
    log(f"{precision} {target}")
    rows: list[GateRow] = []
    request = Request(
        model=arguments.model,
        precision=precision,
        target=target,
        said=Said(data=arguments.data),
        calibration_crops=64 if arguments.quick else 256,
        gate_crops=64 if arguments.quick else None,
    )
    result: dict[str, Any] = {"precision": precision, "target": target}
    try:
        done = export(request, tell=Tell(gates=rows.extend), conversions=conversions)
    except GateError as error:
        result |= {"verdict": "refused", "why": str(error)}
    else:
        kept = ("size_bytes", "judged_on", "parity", "float32_against_keras", "operators", "tensorrt", "seconds")
        result |= {"verdict": "written", **{name: done.report[name] for name in kept}}
        result["calibration"] = done.report.get("calibration")
    return result | {"gates": [asdict(row) for row in rows]}


def _markdown(results: list[dict[str, Any]]) -> str:
    names = list(dict.fromkeys(row["name"] for result in results for row in result["gates"]))
    head = ["file", "verdict", "MB", "judged on", *names]
    lines = []
    for result in results:
        cells = {row["name"]: _cell(row) for row in result["gates"]}
        size = f"{result['size_bytes'] / 1e6:.1f}" if "size_bytes" in result else "-"
        lines.append(
            [
                f"{result['precision']} {result['target']}",
                result["verdict"],
                size,
                result.get("judged_on", "-"),
                *[cells.get(name, "-") for name in names],
            ]
        )
    return markdown_table(head, lines)


def _cell(row: dict[str, Any]) -> str:
    if row["measured"] is None:
        return "not measured"
    limit = "" if row["limit"] is None else f" (limit {row['limit']:g})"
    return f"{row['measured']:.2g}{limit}{'' if row['passed'] else ' REFUSED'}"


if __name__ == "__main__":
    main()
