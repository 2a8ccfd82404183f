"""PREDICTION, not a measurement: crops per second from files to answers on GPUs that nobody has run this on.

    .venv/bin/python -m benchmarks.speed.gpu_model [--host-ms 7.0]

The pipeline has two sides that work at once: cores that read, decode and enhance crops, and a device that takes a copy
of each batch and runs the network. The slower side sets the pace (``glomedge.bench.end_to_end.limits``, the same rule
by which ``glomedge bench`` names the bottleneck of a measured run).

- Cores: processor time of one crop outside the network, from this repository's own record of 10,000 crops
  (``results/amd-epyc-avx512vnni-2cores/pipeline_overlap_int8.json``, "decode and enhance"), times the number of cores.
  Decoding in processes scales with cores; that is assumed, as no machine with many cores was at hand.
- Copy: 150,528 bytes a crop over the link's rated bandwidth, which no transfer quite reaches. In series with the
  network, as one slot has it, or beside it, as two slots have it.
- Network: what NVIDIA submitted to MLPerf Inference for ResNet-50 v1.5 in int8 (closed division, Offline: throughput
  only, large batches). That network is the nearest published one: the same input, blocks and depth. fp16 was not
  submitted; half of int8 is taken, the ratio of the dense Tensor Core rates in NVIDIA's data sheets.

Every assumption but one leans the same way (rated bandwidth, large batches, the board's two DLAs, cores as fast as the
EPYC's), so the int8 figures are upper limits. fp16 as half of int8 is an estimate and no limit: where int8 falls short
of its rated speed, fp16 may reach more than half of it. They answer which side binds, and how many cores a card can
use.
"""

from __future__ import annotations

import json
import math
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.lib.common import RESULTS, log, markdown_table, parser, set_results_directory, write_result
from glomedge.bench.end_to_end import limits
from glomedge.model.spec import SIZE_PX
from glomedge.pipeline.decode_process import slot_bytes

HOST_RECORD = RESULTS / "amd-epyc-avx512vnni-2cores" / "pipeline_overlap_int8.json"
FP16_OF_INT8 = 0.5


@dataclass(frozen=True)
class Device:
    """One GPU as its makers and MLPerf publish it.

    Attributes:
        name: of the card or board.
        int8_per_s: ResNet-50 v1.5 samples per second, MLPerf Inference, closed division, Offline.
        link_bytes_per_s: rated bandwidth from host memory to the device, one direction.
        cores: numbers of host cores to predict for.
        sources: titles of the publications.
    """

    name: str
    int8_per_s: float
    link_bytes_per_s: float
    cores: tuple[int, ...]
    sources: tuple[str, ...]


DEVICES = (
    Device(
        "H100 SXM 80 GB",
        88_714.3,
        64e9,
        (8, 16, 32, 64),
        (
            "MLPerf Inference v4.0 results, closed division, NVIDIA, DGX-H100 (H100-SXM-80GB x1, TensorRT), "
            "ResNet-50 Offline",
            "NVIDIA H100 Tensor Core GPU data sheet (PCIe Gen5: 128 GB/s, both directions)",
        ),
    ),
    Device(
        "L4",
        12_881.7,
        32e9,
        (8, 16, 32),
        (
            "MLPerf Inference v3.1 results, closed division, NVIDIA, L4 x1 (TensorRT), ResNet-50 Offline",
            "NVIDIA L4 Tensor Core GPU data sheet (PCIe Gen4 x16: 64 GB/s, both directions)",
        ),
    ),
    Device(
        "Jetson AGX Orin",
        6_423.63,
        204.8e9,
        (8, 12),
        (
            "MLPerf Inference v3.1 results, closed division, NVIDIA, Orin (TensorRT; GPU and two DLAs), "
            "ResNet-50 Offline",
            "NVIDIA Jetson AGX Orin Series data sheet (memory shared with the processor: 204.8 GB/s)",
        ),
    ),
)


def host_seconds(record: Path) -> float:
    """Processor seconds of one crop outside the network, from the longest run of a record of pipeline_overlap."""
    runs = json.loads(record.read_text("utf-8"))
    longest = max(runs["runs"], key=lambda run: int(run["crops"]))
    seconds = float(median(longest["samples_s"]["decode and enhance"]))
    return seconds * int(runs["cores"]) / int(longest["crops"])


def predict(device: Device, precision: str, cores: int, host_s: float) -> dict[str, Any]:
    """Crops per second, an upper limit for int8 and an estimate for fp16, of one device, precision and number of cores.

    Args:
        device: the GPU.
        precision: ``int8`` or ``fp16``.
        cores: of the host.
        host_s: processor seconds of one crop outside the network.
    """
    engine_per_s = device.int8_per_s * (1.0 if precision == "int8" else FP16_OF_INT8)
    copy_s, infer_s = slot_bytes(SIZE_PX) / device.link_bytes_per_s, 1 / engine_per_s
    in_series, binds = limits({"decode": host_s, "copy": copy_s, "infer": infer_s}, cores=cores, gpu=True)
    device_s = max(copy_s, infer_s)
    return {
        "device": device.name,
        "precision": precision,
        "cores": cores,
        "engine_per_s": engine_per_s,
        "device_in_series_per_s": 1 / (copy_s + infer_s),
        "device_two_slots_per_s": 1 / device_s,
        "host_per_s": cores / host_s,
        "predicted_per_s": min(in_series, cores / host_s),
        "predicted_two_slots_per_s": min(1 / device_s, cores / host_s),
        "binds": binds,
        "cores_that_feed_it": math.ceil(host_s / device_s),
    }


def table(predictions: list[dict[str, Any]], host_s: float) -> str:
    """All of them as Markdown, marked as predictions."""
    rows = [
        [
            found["device"],
            found["precision"],
            found["cores"],
            f"{found['device_in_series_per_s']:,.0f}",
            f"{found['device_two_slots_per_s']:,.0f}",
            f"{found['predicted_two_slots_per_s']:,.0f}",
            "cores" if found["binds"].startswith("the processor") else "device",
            found["cores_that_feed_it"],
        ]
        for found in predictions
    ]
    header = [
        "device", "precision", "host cores", "device alone, copy then run", "device alone, two slots",
        "PREDICTED crops/s, files to answers", "what binds", "cores that would feed the device",
    ]  # fmt: skip
    sources = "\n".join(f"- {device.name}: {'; '.join(device.sources)}." for device in DEVICES)
    return (
        "**Prediction: nothing in this table was measured on a GPU.** Upper limits in crops a second, "
        "except for fp16, which is an estimate: the slower of "
        f"the cores ({host_s * 1e3:.2f} ms of a core a crop outside the network, measured on two cores of an AMD EPYC) "
        "and the device (published ResNet-50 int8 rate; fp16 taken as half of it; copy at the link's rated "
        f"bandwidth).\n\n{markdown_table(header, rows)}\nSources:\n\n{sources}\n"
    )


def main() -> int:
    """Predict, write; the exit code."""
    options = parser(__doc__)
    options.add_argument("--host-ms", type=float, help="processor time of a crop outside the network; else the record")
    arguments = options.parse_args()
    set_results_directory(arguments.results or RESULTS / "predicted")
    host_s = arguments.host_ms / 1e3 if arguments.host_ms else host_seconds(HOST_RECORD)
    predictions = [
        predict(device, precision, cores, host_s)
        for device in DEVICES
        for precision in ("int8", "fp16")
        for cores in device.cores
    ]
    for found in predictions:
        log(f"  {found['device']} {found['precision']} {found['cores']} cores: {found['predicted_per_s']:.0f} crops/s")
    write_result(
        "gpu_model",
        {
            "prediction": True,
            "host_s_per_crop": host_s,
            "crop_bytes": slot_bytes(SIZE_PX),
            "fp16_of_int8": FP16_OF_INT8,
            "devices": [asdict(device) for device in DEVICES],
            "predictions": predictions,
        },
        table(predictions, host_s),
        title="Prediction: GPUs",
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
