"""The tables of a bench, shared by the console and ``bench.html``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

from glomedge.bench.record import STAGES, BenchRecord, Configuration, Figure
from glomedge.reports import charts

Style = Literal["", "wrong", "right", "dim"]


class Cell(NamedTuple):
    """Text of a table cell, and its style (``wrong`` marks a failure)."""

    text: str
    style: Style = ""


class Table(NamedTuple):
    """A table with a title; every row has as many cells as the header. Columns but those of text hold figures."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]
    text_columns: frozenset[int] = frozenset({0})


def tables(record: BenchRecord) -> list[Table]:
    """The tables of a record, in the order in which they are shown."""
    made = [_overview(record), _latency(record), _scenarios(record), _stages(record), _start(record)]
    return [table for table in made if table.rows]


def labels(record: BenchRecord) -> dict[str, str]:
    """The shortest unambiguous label for each configuration name: ``fp32 cpu``, ``int8 for openvino on cpu``."""

    def forms(c: Configuration) -> tuple[str, ...]:
        return f"{c.precision} {c.provider}", f"{c.precision} for {c.target} on {c.provider}", c.name

    counts = Counter(form for c in record.configurations for form in forms(c))
    return {c.name: next((form for form in forms(c) if counts[form] == 1), c.name) for c in record.configurations}


def _side_by_side(
    record: BenchRecord, title: str, measures: Sequence[tuple[str, Callable[[Configuration], Cell | None]]]
) -> Table:
    """One row per measure, one column per configuration; a measure that no configuration has is omitted."""
    names = labels(record)
    rows = []
    for measure, cell_of in measures:
        cells = [cell_of(c) for c in record.configurations]
        if any(cell is not None for cell in cells):
            rows.append((Cell(measure), *(cell or Cell("-", "dim") for cell in cells)))
    heads = tuple(
        names[c.name] + (f" (requested {c.provider_asked})" if c.fell_back else "") for c in record.configurations
    )
    return Table(title, ("", *heads), rows)


def _overview(record: BenchRecord) -> Table:
    def latency_one(c: Configuration) -> Cell | None:
        one = next((item for item in c.latency if item.batch_size == 1), None)
        return Cell(f"{_ms(one.percentiles.p50_ms)}, {_ms(one.percentiles.p99_ms)}") if one else None

    def throughput(c: Configuration) -> Cell | None:
        bar = throughput_of(c)
        return Cell(_interval(bar.value, bar.low, bar.high)) if bar else None

    def files(c: Configuration) -> Cell | None:
        return Cell(_interval(*_values(c.end_to_end.crops_per_s))) if c.end_to_end else None

    return _side_by_side(
        record,
        "Overview",
        (
            ("one crop, p50 and p99, ms", latency_one),
            ("engine alone, crops/s", throughput),
            ("files to answers, crops/s", files),
            ("bottleneck", lambda c: Cell(c.end_to_end.binds) if c.end_to_end else None),
            ("pipeline efficiency", lambda c: Cell(f"{c.end_to_end.core_limit_share:.0%}") if c.end_to_end else None),
            ("of the machine's ceiling", lambda c: Cell(f"{c.ceiling.share:.0%}") if c.ceiling else None),
            ("process to first answer, s", lambda c: Cell(f"{c.cold_start.median_s:.2f}") if c.cold_start else None),
            (
                "peak memory, MB",
                lambda c: Cell(f"{c.memory.peak_rss_bytes / 2**20:,.0f}") if c.memory.peak_rss_bytes else None,
            ),
            ("GPU memory, MB", lambda c: Cell(f"{c.memory.gpu_bytes / 2**20:,.0f}") if c.memory.gpu_bytes else None),
            (
                "energy, J per crop",
                lambda c: Cell(f"{c.energy.joules_per_crop:.3g} ({c.energy.source})") if c.energy else None,
            ),
            ("against fp32 on the CPU", parity_cell),
        ),
    )


def parity_cell(c: Configuration) -> Cell:
    """Flips and the largest difference in probability; ``wrong`` if the check fails."""
    if c.parity is None:
        return Cell("not checked", "dim")
    text = f"{c.parity.flips} of {c.parity.crops} flipped, |dp| {c.parity.max_probability_difference:.2g}"
    if c.parity.nonfinite:
        text += f", {c.parity.nonfinite} NaN or Inf"
    return Cell(text if c.parity.passed else f"WRONG: {text}", "right" if c.parity.passed else "wrong")


def _latency(record: BenchRecord) -> Table:
    names = labels(record)
    rows = []
    for c in record.configurations:
        for item in c.latency:
            p = item.percentiles
            rows.append(
                (
                    Cell(names[c.name]),
                    Cell(str(item.batch_size)),
                    *(Cell(_ms(value)) for value in (p.p50_ms, p.p90_ms, p.p95_ms, p.p99_ms)),
                    Cell(_interval(*_values(item.crops_per_s))),
                    Cell(str(p.n)),
                )
            )
    header = ("", "batch", "p50", "p90", "p95", "p99", "crops/s", "runs")
    return Table("Latency of a batch, one caller, ms", header, rows)


def _scenarios(record: BenchRecord) -> Table:
    names = labels(record)
    rows = []
    for c in record.configurations:
        for s in c.scenarios:
            shown = {k: v for k, v in s.details.items() if k in ("queries", "threads", "batch_size", "max_batch")}
            details = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in shown.items())
            value = Cell(f"{s.value:.1f} {s.unit}") if s.valid else Cell("bound exceeded at every rate", "wrong")
            rows.append((Cell(names[c.name]), Cell(s.name), Cell(s.metric), value, Cell(details)))
    header = ("", "scenario", "measure", "value", "how")
    title = "Scenarios, after MLPerf Inference's definitions (not MLPerf results)"
    return Table(title, header, rows, text_columns=frozenset({0, 1, 2, 4}))


def _stages(record: BenchRecord) -> Table:
    def cell(name: str) -> Callable[[Configuration], Cell | None]:
        return lambda c: (
            Cell(f"{c.end_to_end.stages_ms[name]:.2f} ({c.end_to_end.share[name]:.0%})") if c.end_to_end else None
        )

    def limit(c: Configuration) -> Cell | None:
        return Cell(f"{c.end_to_end.core_limit_crops_per_s:.1f}") if c.end_to_end else None

    measures = [(name, cell(name)) for name in STAGES]
    return _side_by_side(
        record,
        "Files to answers: milliseconds of one core for one crop, by stage",
        (*measures, ("ideal with every core busy, crops/s", limit)),
    )


def _start(record: BenchRecord) -> Table:
    def step(name: str) -> Callable[[Configuration], Cell | None]:
        def cell(c: Configuration) -> Cell | None:
            seconds = c.cold_start.steps_s.get(name) if c.cold_start else None
            return Cell(f"{seconds:.2f}") if seconds is not None else None

        return cell

    def build(c: Configuration) -> Cell | None:
        return Cell(f"{c.cold_start.build_s:.1f}") if c.cold_start and c.cold_start.build_s is not None else None

    return _side_by_side(
        record,
        "From process start to the first answer, s",
        (
            (
                "first start (empty engine cache)",
                lambda c: Cell(f"{c.cold_start.first_s:.2f}") if c.cold_start else None,
            ),
            ("later starts, median", lambda c: Cell(f"{c.cold_start.median_s:.2f}") if c.cold_start else None),
            ("  of which interpreter", step("interpreter")),
            ("  of which import", step("import")),
            ("  of which load and self-test", step("load")),
            ("  of which first answer", step("first answer")),
            ("engine build", build),
        ),
    )


def throughput_of(c: Configuration, name: str = "") -> charts.Bar | None:
    """The engine's best throughput as a bar: offline if it was measured, else the best batch size."""
    offline = next((s for s in c.scenarios if s.name == "offline"), None)
    mark = c.ceiling.limit_crops_per_s if c.ceiling else None
    wrong = c.parity is not None and not c.parity.passed
    if offline is not None:
        low, high = offline.details.get("low"), offline.details.get("high")
        return charts.Bar(name, offline.value, _float(low), _float(high), mark, wrong)
    if not c.latency:
        return None
    rate = max((item.crops_per_s for item in c.latency), key=lambda figure: figure.value)
    return charts.Bar(name, rate.value, rate.low, rate.high, mark, wrong)


def _interval(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.1f} ({low:.1f}-{high:.1f})" if low is not None and high is not None else f"{value:.1f}"


def _values(figure: Figure) -> tuple[float, float | None, float | None]:
    return figure.value, figure.low, figure.high


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
