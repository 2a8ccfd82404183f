"""The words and tables of a bench: rows shared by the console and ``bench.html``, and the page itself."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Literal, NamedTuple

from glomedge.benchmarking import svg
from glomedge.benchmarking.environment import describe
from glomedge.benchmarking.record import BenchRecord, Configuration

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


def _overview(record: BenchRecord) -> Table:
    rows = []
    for c in record.configurations:
        throughput = throughput_of(c)
        one = next((item for item in c.latency if item.batch_size == 1), None)
        rows.append(
            (
                _name(c),
                Cell(_ms(one.percentiles.p50_ms) if one else "-"),
                Cell(f"{throughput.value:.1f}" if throughput else "-"),
                Cell(f"{c.end_to_end.crops_per_s.value:.1f}" if c.end_to_end else "-"),
                Cell(c.end_to_end.binds if c.end_to_end else "-"),
                Cell(f"{c.cold_start.median_s:.2f}" if c.cold_start else "-"),
                Cell(f"{c.memory.peak_rss_bytes / 2**20:,.0f}"),
                Cell(f"{c.ceiling.share:.0%}" if c.ceiling else "-"),
                parity_cell(c),
            )
        )
    header = (
        "configuration", "1 crop, ms", "engine, crops/s", "files to answers, crops/s", "what binds", "cold start, s",
        "peak RSS, MB", "of ceiling", "against fp32 on CPU",
    )  # fmt: skip
    return Table("Overview", header, rows)


def parity_cell(c: Configuration) -> Cell:
    """Flips and the largest difference of probability; ``wrong`` where it does not pass."""
    if c.parity is None:
        return Cell("not checked", "dim")
    text = f"{c.parity.flips} of {c.parity.crops} flipped, |dp| {c.parity.max_probability_difference:.2g}"
    if c.parity.nonfinite:
        text += f", {c.parity.nonfinite} NaN or Inf"
    return Cell(text if c.parity.passed else f"WRONG: {text}", "right" if c.parity.passed else "wrong")


def _latency(record: BenchRecord) -> Table:
    rows = []
    for c in record.configurations:
        for item in c.latency:
            p, rate = item.percentiles, item.crops_per_s
            rows.append(
                (
                    _name(c),
                    Cell(str(item.batch_size)),
                    *(Cell(_ms(value)) for value in (p.p50_ms, p.p90_ms, p.p95_ms, p.p99_ms)),
                    Cell(f"{rate.value:.1f} ({rate.low:.1f} to {rate.high:.1f})" if rate.low else f"{rate.value:.1f}"),
                    Cell(str(p.n)),
                )
            )
    header = ("configuration", "batch", "p50, ms", "p90, ms", "p95, ms", "p99, ms", "crops/s (95% interval)", "runs")
    return Table("Latency by batch size, one caller", header, rows)


def _scenarios(record: BenchRecord) -> Table:
    rows = []
    for c in record.configurations:
        for s in c.scenarios:
            shown = {k: v for k, v in s.details.items() if k in ("queries", "threads", "batch_size", "max_batch")}
            details = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in shown.items())
            value = f"{s.value:.1f} {s.unit}" if s.valid else "bound missed at every rate"
            rows.append(
                (_name(c), Cell(s.name), Cell(s.metric), Cell(value, "" if s.valid else "wrong"), Cell(details))
            )
    header = ("configuration", "scenario", "measure", "value", "how")
    return Table("Scenarios, after MLPerf Inference's definitions (not MLPerf results)", header, rows)


def _stages(record: BenchRecord) -> Table:
    rows = []
    names: tuple[str, ...] = ()
    for c in record.configurations:
        e = c.end_to_end
        if e is None:
            continue
        names = tuple(e.stages_ms)
        rows.append(
            (
                _name(c),
                *(Cell(f"{e.stages_ms[name]:.2f} ({e.share[name]:.0%})") for name in names),
                Cell(f"{e.crops_per_s.value:.1f} of {e.core_limit_crops_per_s:.1f} ({e.core_limit_share:.0%})"),
            )
        )
    return Table(
        "Files to answers: milliseconds of one core for one crop, by stage",
        ("configuration", *names, "crops/s, of what perfect overlap would give"),
        rows,
    )


def _start(record: BenchRecord) -> Table:
    rows = []
    for c in record.configurations:
        start = c.cold_start
        if start is None:
            continue
        steps = ", ".join(f"{name} {seconds:.2f}" for name, seconds in start.steps_s.items())
        energy = f"{c.energy.joules_per_crop:.2f} ({c.energy.source})" if c.energy else "the machine does not tell"
        gpu = f"{c.memory.gpu_bytes / 2**20:,.0f}" if c.memory.gpu_bytes else "-"
        build = f"{start.build_s:.1f}" if start.build_s is not None else "none built"
        rows.append(
            (
                _name(c),
                Cell(f"{start.first_s:.2f}"),
                Cell(f"{start.median_s:.2f}"),
                Cell(steps),
                Cell(build),
                Cell(gpu),
                Cell(energy),
            )
        )
    header = (
        "configuration", "first start, s", "later starts, s", "of which, s", "engine build, s", "GPU memory, MB",
        "energy, J a crop",
    )  # fmt: skip
    return Table("From process start to the first answer; memory; energy", header, rows)


def throughput_of(c: Configuration) -> svg.Bar | None:
    """The engine's best throughput as a bar: offline where it was measured, else the best batch size."""
    offline = next((s for s in c.scenarios if s.name == "offline"), None)
    mark = c.ceiling.limit_crops_per_s if c.ceiling else None
    wrong = c.parity is not None and not c.parity.passed
    if offline is not None:
        low, high = offline.details.get("low"), offline.details.get("high")
        return svg.Bar(c.name, offline.value, _float(low), _float(high), mark, wrong)
    if not c.latency:
        return None
    rate = max((item.crops_per_s for item in c.latency), key=lambda figure: figure.value)
    return svg.Bar(c.name, rate.value, rate.low, rate.high, mark, wrong)


def html(record: BenchRecord) -> str:
    """``bench.html``: one self-contained page, no script, nothing fetched."""
    sections = [_plots(record)]
    sections += [_html_table(table) for table in tables(record)]
    if record.failures:
        rows = [(Cell(f.model), Cell(f.provider_asked), Cell(f.message, "wrong")) for f in record.failures]
        sections.insert(0, _html_table(Table("Asked for and not measured", ("model", "provider", "why"), rows)))
    notes = "".join(f"<li>{escape(note)}</li>" for note in record.notes)
    crops = record.crops
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>glomedge bench</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<style>{_CSS}</style></head><body>
<h1>glomedge bench</h1>
<p class="notice">{escape(record.notice)}</p>
<p>{escape(describe(record.environment))}</p>
<p>{record.created_utc}, <code>{escape(record.command)}</code>. Crops: {escape(crops.source)}; {crops.crops} of
{crops.mean_pixels / 1e3:,.0f} thousand pixels and {crops.mean_bytes / 1e3:,.0f} kB on average. The machine's load
average was {record.environment.get("load_average_1min") or 0.0:.1f} at the end.</p>
{"".join(sections)}
{f"<h2>Notes</h2><ul>{notes}</ul>" if notes else ""}
<p class="small">Intervals are 95% bootstrap intervals over rounds. How each figure is measured:
docs/bench.md. Raw samples: bench.json.</p></body></html>
"""


_CSS = """body{font:15px/1.45 system-ui,sans-serif;color:#222;background:#fff;max-width:1100px}
body{margin:2em auto;padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.1em;margin-top:2em}svg{max-width:900px;width:100%;height:auto}
.scroll{overflow-x:auto}table{border-collapse:collapse;font-size:13px}
td,th{padding:4px 10px;border-bottom:1px solid #ddd;text-align:left;vertical-align:top}
td{font-variant-numeric:tabular-nums}
.wrong{color:#c00000;font-weight:700}.right{color:#1b6e3c}.dim,.small{color:#666}
.notice{background:#fff3cd;padding:6px 12px;border-left:4px solid #e69f00}"""


def _plots(record: BenchRecord) -> str:
    parts = []
    lines = [
        svg.Line(
            c.name,
            [(item.batch_size, item.percentiles.p50_ms, item.percentiles.p99_ms) for item in c.latency],
            c.parity is not None and not c.parity.passed,
        )
        for c in record.configurations
        if c.latency
    ]
    if lines:
        parts.append("<h2>Latency against batch size</h2><p class='small'>Points: median; whisker: up to p99.</p>")
        parts.append(svg.line_plot(lines, x_label="batch size", y_label="latency of a batch, ms"))
    bars = [bar for bar in map(throughput_of, record.configurations) if bar is not None]
    if bars:
        marked = " Orange mark: the ceiling of this machine for the precision." if any(b.mark for b in bars) else ""
        parts.append("<h2>Throughput by precision and provider</h2>")
        parts.append(f"<p class='small'>Engine alone; whisker: 95% interval.{marked} Red: decisions differ.</p>")
        parts.append(svg.bar_plot(bars, x_label="crops per second"))
    stacks = [svg.Stack(c.name, list(c.end_to_end.stages_ms.items())) for c in record.configurations if c.end_to_end]
    if stacks:
        parts.append("<h2>Where the time goes, files to answers</h2>")
        parts.append(svg.stack_plot(stacks, x_label="milliseconds of one core for one crop"))
    return "".join(parts)


def _html_table(table: Table) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in table.header)
    rows = "".join(
        "<tr>" + "".join(f'<td class="{cell.style}">{escape(cell.text)}</td>' for cell in row) + "</tr>"
        for row in table.rows
    )
    return (
        f"<h2>{escape(table.title)}</h2><div class='scroll'><table><thead><tr>{head}</tr></thead>"
        f"<tbody>{rows}</tbody></table></div>"
    )


def _name(c: Configuration) -> Cell:
    if c.fell_back:
        return Cell(f"{c.name} (asked for {c.provider_asked})", "wrong")
    return Cell(c.name)


def _ms(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _float(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
