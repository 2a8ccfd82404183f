"""The bench record as one HTML page."""

from __future__ import annotations

from html import escape

from glomedge.bench.record import BenchRecord
from glomedge.bench.tables import Cell, Table, labels, tables, throughput_of
from glomedge.reports import charts
from glomedge.system.environment import describe


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
