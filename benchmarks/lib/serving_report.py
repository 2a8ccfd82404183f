"""The table and the plot of ``serving.py``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lib.common import paired_ratio, summarise
from glomedge.system.telemetry import import_matplotlib

ENGINE, GLOMEDGE, BARE, TRITON = "engine alone", "glomedge serve", "least server", "tritonserver"
COLOURS = {ENGINE: "#AAAAAA", GLOMEDGE: "#0072B2", BARE: "#56B4E9", TRITON: "#E69F00"}


@dataclass
class Side:
    """What one side did in its rounds.

    Attributes:
        cpu_s_a_crop, crops_a_s: one value a round.
        waits_s: of every request; none of the engine.
        batches: crops of all batches, and how many there were; zeros of all but ``glomedge serve``.
    """

    cpu_s_a_crop: list[float] = field(default_factory=list)
    crops_a_s: list[float] = field(default_factory=list)
    waits_s: list[float] = field(default_factory=list)
    batches: tuple[float, float] = (0.0, 0.0)

    def add(self, other: Side) -> None:
        """Its rounds, of another start, as well."""
        self.cpu_s_a_crop += other.cpu_s_a_crop
        self.crops_a_s += other.crops_a_s
        self.waits_s += other.waits_s
        self.batches = self.batches[0] + other.batches[0], self.batches[1] + other.batches[1]


def row_of(kind: str, clients: int, name: str, sides: dict[str, Side]) -> tuple[object, ...]:
    """One line of the table."""
    side, engine = sides[name], sides[ENGINE]
    cpu_ms = f"{1000 * float(np.median(side.cpu_s_a_crop)):.1f}"
    rate = f"{float(np.median(side.crops_a_s)):.1f}"
    if name == ENGINE:
        return kind, clients, name, cpu_ms, "1", rate, "1", "", "", ""
    cpu = paired_ratio(side.cpu_s_a_crop, engine.cpu_s_a_crop)
    speed = paired_ratio(side.crops_a_s, engine.crops_a_s)
    waits = summarise(side.waits_s)
    return (
        kind, clients, name, cpu_ms, f"{cpu.value:.3f} ({cpu.low:.3f} to {cpu.high:.3f})", rate,
        f"{speed.value:.2f} ({speed.low:.2f} to {speed.high:.2f})", f"{1000 * waits.p50:.0f}",
        f"{1000 * waits.p99:.0f}", f"{side.batches[0] / side.batches[1]:.1f}" if side.batches[1] else "",
    )  # fmt: skip


HEADER = (
    "crops as", "clients", "side", "CPU ms/crop", "over the engine's", "crops/s", "over the engine's", "p50, ms",
    "p99, ms", "crops/batch",
)  # fmt: skip


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """Processor time and throughput of every side: the median as a bar, each round as a dot."""
    import_matplotlib().use("Agg")
    plt = import_matplotlib("pyplot")
    groups = list(dict.fromkeys((record["kind"], record["clients"]) for record in records))
    names = [name for name in COLOURS if any(record["side"] == name for record in records)]
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    width = 0.8 / len(names)
    for axis, key, factor, label in (
        (axes[0], "cpu_s_a_crop", 1000, "processor time, ms/crop"),
        (axes[1], "crops_a_s", 1, "crops/s"),
    ):
        for record in records:
            at = groups.index((record["kind"], record["clients"])) + (names.index(record["side"]) + 0.5) * width - 0.4
            values = [factor * value for value in record[key]]
            axis.bar(at, float(np.median(values)), width, color=COLOURS[record["side"]])
            axis.plot([at] * len(values), values, "o", color="#222222", markersize=2)
        ticks = [f"{kind}\n{clients} client{'s' if clients > 1 else ''}" for kind, clients in groups]
        axis.set_xticks(range(len(groups)), ticks, fontsize=8)
        axis.set_ylabel(label)
        axis.grid(axis="y", alpha=0.3)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
    handles = [plt.Rectangle((0, 0), 1, 1, color=COLOURS[name]) for name in names]
    figure.legend(handles, names, loc="outside upper center", ncols=len(names), frameon=False)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)
