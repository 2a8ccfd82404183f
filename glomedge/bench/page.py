"""The files of a bench: ``bench.json`` and one HTML page, each written atomically."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from markupsafe import Markup

from glomedge.bench.record import BenchRecord
from glomedge.bench.tables import labels, tables, throughput_of
from glomedge.errors import OutputError
from glomedge.files.writing import check_writable, write_atomically
from glomedge.reports import charts
from glomedge.reports import html as pages
from glomedge.system.environment import describe


def check_output(folder: Path) -> None:
    """Create the output folder before anything is measured. Raises OutputError if it cannot be created or written."""
    check_writable(folder, "Give another folder with --output.")


def write(record: BenchRecord, folder: Path) -> list[Path]:
    """Write ``bench.json`` and ``bench.html`` by temporary file and rename. Raises OutputError."""
    check_output(folder)
    contents = {"bench.json": record.model_dump_json(indent=1) + "\n", "bench.html": html(record)}
    for name, text in contents.items():
        try:
            write_atomically(folder / name, text.encode("utf-8"))
        except OSError as error:
            raise OutputError(
                f"{folder / name} cannot be written ({error.strerror}). Free space and run the command again."
            ) from error
    return [folder / name for name in contents]


def html(record: BenchRecord) -> str:
    """``bench.html``: one self-contained page, no script, nothing fetched."""
    return pages.render(
        "bench.html",
        title="glomedge bench",
        notice=record.notice,
        record=record,
        machine=describe(record.environment),
        tables=tables(record),
        plots=list(_plots(record)),
    )


class _Plot(NamedTuple):
    title: str
    note: str
    svg: Markup


def _plots(record: BenchRecord) -> Iterator[_Plot]:
    names = labels(record)
    lines = [
        charts.Line(
            names[c.name],
            [(item.batch_size, item.percentiles.p50_ms, item.percentiles.p99_ms) for item in c.latency],
            c.parity is not None and not c.parity.passed,
        )
        for c in record.configurations
        if c.latency
    ]
    if lines:
        plot = charts.line_plot(lines, x_label="batch size", y_label="latency of a batch, ms")
        yield _Plot("Latency against batch size", "Points: median; whisker: up to p99.", plot)
    bars = [bar for c in record.configurations if (bar := throughput_of(c, names[c.name])) is not None]
    if bars:
        marked = " Dashed mark: the ceiling of this machine for the precision." if any(b.mark for b in bars) else ""
        note = f"Engine alone; whisker: 95% interval.{marked} Red: decisions differ."
        yield _Plot("Throughput by precision and provider", note, charts.bar_plot(bars, x_label="crops per second"))
    stacks = [
        charts.Stack(names[c.name], list(c.end_to_end.stages_ms.items())) for c in record.configurations if c.end_to_end
    ]
    if stacks:
        plot = charts.stack_plot(stacks, x_label="core milliseconds per crop")
        yield _Plot("Where the time goes, files to answers", "", plot)
