"""The words and tables of a bench: rows shared by the console and ``bench.html``, and the page itself."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from html import escape
from typing import Literal, NamedTuple

from glomedge.bench.record import STAGES, BenchRecord, Configuration, Figure
from glomedge.reports import charts
from glomedge.system.environment import describe

Style = Literal["", "wrong", "right", "dim"]


class Cell(NamedTuple):
    """Text of a table cell, and whether it stands for something wrong."""

    text: str
    style: Style = ""


class Table(NamedTuple):
    """A table with a title; every row has as many cells as the header."""

    title: str
    header: tuple[str, ...]
    rows: Sequence[tuple[Cell, ...]]


def tables(record: BenchRecord) -> list[Table]:
    """The tables of a record, in the order in which they are shown."""
    made = [_overview(record), _latency(record), _scenarios(record), _stages(record), _start(record)]
    return [table for table in made if table.rows]


def labels(record: BenchRecord) -> dict[str, str]:
    """A label for each configuration name, as short as tells them apart: ``fp32 cpu``, ``int8 for openvino on cpu``."""

    def forms(c: Configuration) -> tuple[str, ...]:
        return f"{c.precision} {c.provider}", f"{c.precision} for {c.target} on {c.provider}", c.name

    counts = Counter(form for c in record.configurations for form in forms(c))
    return {c.name: next((form for form in forms(c) if counts[form] == 1), c.name) for c in record.configurations}


def _side_by_side(
    record: BenchRecord, title: str, measures: Sequence[tuple[str, Callable[[Configuration], Cell | None]]]
) -> Table:
    """Measures down, configurations across; a measure that no configuration has is left out."""
    names = labels(record)
    rows = []
    for measure, cell_of in measures:
        cells = [cell_of(c) for c in record.configurations]
        if any(cell is not None for cell in cells):
            rows.append((Cell(measure), *(cell or Cell("-", "dim") for cell in cells)))
    heads = tuple(
        names[c.name] + (f" (asked for {c.provider_asked})" if c.fell_back else "") for c in record.configurations
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
            ("what binds", lambda c: Cell(c.end_to_end.binds) if c.end_to_end else None),
            ("of perfect overlap", lambda c: Cell(f"{c.end_to_end.core_limit_share:.0%}") if c.end_to_end else None),
            ("of the machine's ceiling", lambda c: Cell(f"{c.ceiling.share:.0%}") if c.ceiling else None),
            ("process to first answer, s", lambda c: Cell(f"{c.cold_start.median_s:.2f}") if c.cold_start else None),
            ("peak memory, MB", lambda c: Cell(f"{c.memory.peak_rss_bytes / 2**20:,.0f}")),
            ("GPU memory, MB", lambda c: Cell(f"{c.memory.gpu_bytes / 2**20:,.0f}") if c.memory.gpu_bytes else None),
            (
                "energy, J a crop",
                lambda c: Cell(f"{c.energy.joules_per_crop:.3g} ({c.energy.source})") if c.energy else None,
            ),
            ("against fp32 on the CPU", parity_cell),
        ),
    )


def parity_cell(c: Configuration) -> Cell:
    """Flips and the largest difference of probability; ``wrong`` where it does not pass."""
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
            value = Cell(f"{s.value:.1f} {s.unit}") if s.valid else Cell("bound missed at every rate", "wrong")
            rows.append((Cell(names[c.name]), Cell(s.name), Cell(s.metric), value, Cell(details)))
    header = ("", "scenario", "measure", "value", "how")
    return Table("Scenarios, after MLPerf Inference's definitions (not MLPerf results)", header, rows)


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
        (*measures, ("perfect overlap would give, crops/s", limit)),
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
    """The engine's best throughput as a bar: offline where it was measured, else the best batch size."""
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


def html(record: BenchRecord) -> str:
    """``bench.html``: one self-contained page, no script, nothing fetched."""
    overview, *others = [_html_table(table) for table in tables(record)] or [""]
    sections = [overview, _plots(record), *others]
    if record.failures:
        rows = [(Cell(f.model), Cell(f.provider_asked), Cell(f.message, "wrong")) for f in record.failures]
        sections.insert(1, _html_table(Table("Asked for and not measured", ("model", "provider", "why"), rows)))
    notes = "".join(f"<li>{escape(note)}</li>" for note in record.notes)
    crops = record.crops
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>glomedge bench</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>{_CSS}</style></head><body>
<h1>glomedge bench</h1>
<p class="notice">{escape(record.notice)}</p>
<dl><dt>Machine</dt><dd>{escape(describe(record.environment))}</dd>
<dt>Command</dt><dd><code>{escape(record.command)}</code></dd>
<dt>Crops</dt><dd>{escape(crops.source)}; {crops.crops} of {crops.mean_pixels / 1e3:,.0f} thousand pixels and
{crops.mean_bytes / 1e3:,.0f} kB on average</dd>
<dt>Measured</dt><dd>{record.created_utc}; load average at the end
{record.environment.get("load_average_1min") or 0.0:.1f}</dd></dl>
{"".join(sections)}
{f"<h2>Notes</h2><ul>{notes}</ul>" if notes else ""}
<p class="small">Intervals are 95% bootstrap intervals over rounds. How each figure is measured:
docs/bench.md. Raw samples: bench.json.</p></body></html>
"""


_CSS = """*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;max-width:1000px;margin:2em auto;padding:0 16px}
h1{font-size:1.6em;margin:0 0 .4em}h2{font-size:1.15em;margin:2.2em 0 .3em}
p{margin:.4em 0}code{font-size:13px;overflow-wrap:anywhere}
.notice{background:#fff3cd;padding:6px 12px;border-left:4px solid #e69f00}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 16px;margin:1em 0;font-size:14px}
dt{color:#666}dd{margin:0;min-width:0;overflow-wrap:anywhere}
.scroll{overflow-x:auto}.scroll svg{display:block;width:100%;max-width:760px;min-width:460px;height:auto}
table{border-collapse:collapse;font-size:13px;margin-top:.4em}
td,th{padding:5px 12px;border-bottom:1px solid #ddd;text-align:left;vertical-align:top;max-width:24em}
th{border-bottom:2px solid #999}
td:last-child{max-width:46em}td{font-variant-numeric:tabular-nums}td:first-child{font-weight:600;min-width:8em}
.whole{white-space:nowrap}
.wrong{color:#c00000;font-weight:700}.right{color:#1b6e3c}.dim,.small{color:#666}.small{font-size:13px}
@media (max-width:500px){dl{grid-template-columns:1fr;gap:0}dt{margin-top:6px}td,th{padding:5px 8px}}"""


def _plots(record: BenchRecord) -> str:
    parts = []
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
        parts.append("<h2>Latency against batch size</h2><p class='small'>Points: median; whisker: up to p99.</p>")
        parts.append(_scroll(charts.line_plot(lines, x_label="batch size", y_label="latency of a batch, ms")))
    bars = [bar for c in record.configurations if (bar := throughput_of(c, names[c.name])) is not None]
    if bars:
        marked = " Dashed mark: the ceiling of this machine for the precision." if any(b.mark for b in bars) else ""
        parts.append("<h2>Throughput by precision and provider</h2>")
        parts.append(f"<p class='small'>Engine alone; whisker: 95% interval.{marked} Red: decisions differ.</p>")
        parts.append(_scroll(charts.bar_plot(bars, x_label="crops per second")))
    stacks = [
        charts.Stack(names[c.name], list(c.end_to_end.stages_ms.items())) for c in record.configurations if c.end_to_end
    ]
    if stacks:
        parts.append("<h2>Where the time goes, files to answers</h2>")
        parts.append(_scroll(charts.stack_plot(stacks, x_label="milliseconds of one core for one crop")))
    return "".join(parts)


def _scroll(content: str) -> str:
    """On a narrow screen the content scrolls by itself, and the page does not."""
    return f"<div class='scroll'>{content}</div>"


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.header)

    def cell_html(cell: Cell) -> str:
        # Figures and short words stay whole; sentences wrap.
        kinds = " ".join(filter(None, (cell.style, "whole" if len(cell.text) <= 20 else "")))
        return f'<td class="{kinds}">{escape(cell.text)}</td>'

    rows = "".join(f"<tr>{''.join(map(cell_html, row))}</tr>" for row in table.rows)
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>"
    return f"<h2>{escape(table.title)}</h2>{_scroll(body)}"


def _interval(value: float, low: float | None, high: float | None) -> str:
    return f"{value:.1f} ({low:.1f}-{high:.1f})" if low is not None and high is not None else f"{value:.1f}"


def _values(figure: Figure) -> tuple[float, float | None, float | None]:
    return figure.value, figure.low, figure.high


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
