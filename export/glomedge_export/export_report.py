"""What ``<model>.export.json`` holds: what was measured on a file, and how long each step took."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.model.file import SEAL_BYTES
from glomedge.model.gate_table import GateRow
from glomedge.model.spec import BatchProfile, Parity
from glomedge.system.environment import versions
from glomedge_export.graph import surgery
from glomedge_export.graph.convert import Converted
from glomedge_export.graph.lower import Lowered
from glomedge_export.graph.run import Runner


@dataclass(frozen=True)
class Proven:
    """A graph that has passed its gates.

    Attributes:
        lowered: the graph in its final precision.
        runner: what judged it.
        parity: measured against its reference, and kept in the spec.
        float32_parity: of the float32 graph behind it against its framework; the same for a float32 file.
        rows: the gate table.
    """

    lowered: Lowered
    runner: Runner
    parity: Parity
    float32_parity: Parity
    rows: list[GateRow]


class Laps:
    """Seconds of each step, by name."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._started_s = time.perf_counter()

    def __call__(self, name: str) -> None:
        now_s = time.perf_counter()
        self.seconds[name] = round(now_s - self._started_s, 3)
        self._started_s = now_s


def export_report(
    named: Mapping[str, Any], data: bytes, converted: Converted, proven: Proven, profile: BatchProfile
) -> dict[str, Any]:
    """The report of one export, except what only its end knows (NVIDIA's parser, companions, seconds).

    Args:
        named: names of the files, precision, target and device, as they stand in it.
        data: the sealed file.
        converted: the float32 graph behind it.
        proven: the graph in it.
        profile: batch sizes, for the memory of the activations.
    """
    model, notes = proven.lowered.model, dict(proven.lowered.notes)
    return {
        "notice": RESEARCH_USE_NOTICE,
        **named,
        # As runners name the model: of everything before the seal. sha256sum gives the other one.
        "sha256": hashlib.sha256(data[:-SEAL_BYTES]).hexdigest(),
        "file_sha256": hashlib.sha256(data).hexdigest(),
        "size_bytes": len(data),
        "judged_on": proven.runner.name,
        "parity": proven.parity.model_dump(),
        "float32_against_keras": proven.float32_parity.model_dump(),
        "gates": [asdict(row) for row in proven.rows],
        "steps": [*[asdict(step) for step in converted.steps], *notes.pop("steps", [])],
        **notes,
        "peak_activation_bytes": {
            str(size): surgery.peak_activation_bytes(model, size)
            for size in sorted({profile.min, profile.opt, profile.max})
        },
        "operators": surgery.op_counts(model),
        "multiply_adds": surgery.multiply_adds(converted.model),
        "versions": versions(),
    }
