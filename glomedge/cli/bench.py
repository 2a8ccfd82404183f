"""``glomedge bench``: latency, throughput, stages, cold start and parity of models on providers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli.options import (
    ENGINE,
    MODEL,
    PROVIDER_HELP,
    RESULTS,
    json_option,
    model_option,
    takes_engine_options,
)
from glomedge.cli.shell_patterns import require_only_options
from glomedge.engine.options import DEFAULT_MODEL, EngineOptions
from glomedge.errors import UsageError

if TYPE_CHECKING:
    from glomedge.bench.compare import Comparison
    from glomedge.bench.record import BenchRecord
    from glomedge.bench.tables import Table

MEASURING = "Measuring"
"""Panel of ``--help``."""


@takes_engine_options("provider", "batch_size")
def bench(
    context: typer.Context,
    *,
    model: Annotated[
        list[Path] | None,
        model_option(f"The exported model; repeatable. Default: {DEFAULT_MODEL}."),
    ] = None,
    precision: Annotated[
        list[str] | None,
        typer.Option(
            help="Only files of this precision in the model's folder; repeatable. bf16: the fp32 file.",
            show_default=False,
            rich_help_panel=MODEL,
        ),
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(
            "--provider",
            "-p",
            help=f"{PROVIDER_HELP} Repeatable. Default: auto.",
            show_default=False,
            rich_help_panel=ENGINE,
        ),
    ] = None,
    batch_size: Annotated[
        str, typer.Option(help="Crops per model call; one or more sizes, such as 1,8,32.", rich_help_panel=ENGINE)
    ] = "1,8,32",
    engine: EngineOptions,
    images: Annotated[
        Path | None,
        typer.Option(
            help="Folder of crops. Default: the model's training data if it is present, else drawn crops.",
            show_default=False,
            rich_help_panel=MEASURING,
        ),
    ] = None,
    scenario: Annotated[
        list[str] | None,
        typer.Option(
            help="single-stream, offline or server; repeatable. Default: single-stream and offline.",
            show_default=False,
            rich_help_panel=MEASURING,
        ),
    ] = None,
    latency_bound_ms: Annotated[
        float,
        typer.Option(help="Bound on p99 latency in the server scenario, in milliseconds.", rich_help_panel=MEASURING),
    ] = 200.0,
    duration: Annotated[
        float, typer.Option(help="Length of each measurement, in seconds.", rich_help_panel=MEASURING)
    ] = 5.0,
    cold_start: Annotated[
        bool,
        typer.Option(
            "--cold-start/--no-cold-start",
            help="Measure the time from process start to the first result, with an empty engine cache.",
            rich_help_panel=MEASURING,
        ),
    ] = True,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for bench.json and bench.html.", rich_help_panel=RESULTS)
    ] = Path("bench"),
    as_json: Annotated[bool, json_option("Print bench.json instead of the tables.")] = False,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="OLD NEW",
            help="Report changes beyond noise between two bench.json files; measures nothing.",
            show_default=False,
            rich_help_panel=RESULTS,
        ),
    ] = None,
) -> None:
    """Measure models on providers: latency, throughput, stages, cold start, memory, and agreement with fp32."""
    require_only_options([*map(Path, context.args)])
    if compare is not None:
        _compare(*compare, as_json=as_json)
        return
    from glomedge.bench import run as library
    from glomedge.bench import tables

    settings = library.Settings(
        models=tuple(model or [DEFAULT_MODEL]),
        providers=tuple(provider or ["auto"]),
        precisions=tuple(precision or []),
        batch_sizes=_sizes(batch_size),
        scenarios=cast("Any", tuple(dict.fromkeys(scenario or ["single-stream", "offline"]))),
        duration_s=duration,
        latency_bound_ms=latency_bound_ms,
        images=images,
        engine=engine,
        cold_start=cold_start,
    )
    library.check_output(output)
    record = library.run(settings, say=lambda line: typer.echo(f"bench: {line}", err=True), command=_command())
    written = library.write(record, output)
    if as_json:
        typer.echo(record.model_dump_json(indent=1))
    else:
        _print(record, tables.tables(record), written)
    if record.failures:
        for failure in record.failures:
            typer.echo(f"glomedge: {failure.model} on {failure.provider_asked}: {failure.message}", err=True)
        raise typer.Exit(1)


def _sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(dict.fromkeys(int(part) for part in text.split(",")))
    except ValueError:
        raise UsageError(f"--batch-size {text!r} is not a list of whole numbers. Write it as 1,8,32.") from None


def _command() -> str:
    """The command as typed, with absolute paths reduced to their last part: the record may be published."""
    return " ".join(["glomedge", *(Path(a).name if a.startswith(("/", "~")) else a for a in sys.argv[1:])])


def _print(record: BenchRecord, tables: list[Table], written: list[Path]) -> None:
    from glomedge.system.environment import describe

    console = _console()
    console.print(describe(record.environment), markup=False, soft_wrap=True)
    console.print(
        f"Crops: {record.crops.source}; {record.crops.crops} of {record.crops.mean_pixels / 1e3:.0f} thousand pixels "
        "on average.",
        markup=False,
        soft_wrap=True,
    )
    for table in tables:
        console.print(_rich(table))
    for note in record.notes:
        console.print(note, markup=False)
    console.print(f"Written: {', '.join(str(path) for path in written)}", markup=False, soft_wrap=True)
    console.print(RESEARCH_USE_NOTICE, markup=False)


def _console() -> Any:
    from rich.console import Console

    # Wide enough for the tables if the output is a file or a pipe.
    return Console(width=None if sys.stdout.isatty() else 140, highlight=False)


def _rich(table: Table) -> Any:
    from rich.table import Table as RichTable
    from rich.text import Text

    shown = RichTable(title=table.title, title_justify="left", title_style="bold", header_style="bold")
    for index, name in enumerate(table.header):
        # Short words such as a verdict are not wrapped; only long text is.
        short = all(len(row[index].text) <= 16 for row in table.rows)
        short = short and len(name) <= 16
        shown.add_column(name, overflow="fold", no_wrap=short, min_width=None if short else 14)
    styles = {"wrong": "bold red", "right": "green", "dim": "dim", "": ""}
    for row in table.rows:
        shown.add_row(*(Text(cell.text, style=styles[cell.style]) for cell in row))
    return shown


def _compare(old: Path, new: Path, *, as_json: bool) -> None:
    import dataclasses
    import json

    from glomedge.bench.compare import compare
    from glomedge.bench.record import read_record

    comparison = compare(read_record(old), read_record(new))
    if as_json:
        typer.echo(json.dumps({"notice": RESEARCH_USE_NOTICE, **dataclasses.asdict(comparison)}, indent=1))
        return
    _print_comparison(comparison)


def _print_comparison(comparison: Comparison) -> None:
    from glomedge.bench.tables import Cell, Table

    console = _console()
    styles = {"faster": "right", "slower": "wrong", "within noise": "", "too few samples": "dim"}
    rows = [
        (
            Cell(c.configuration),
            Cell(c.figure),
            Cell(f"{c.old:.4g} {c.unit}"),
            Cell(f"{c.new:.4g} {c.unit}"),
            Cell(f"{c.ratio.value:.3f} ({c.ratio.low:.3f} to {c.ratio.high:.3f})"),
            Cell(c.verdict, cast("Any", styles[c.verdict])),
        )
        for c in comparison.changes
    ]
    header = ("configuration", "figure", "old", "new", "time ratio (95%)", "verdict")
    if rows:
        console.print(_rich(Table("What changed", header, rows)))
    else:
        console.print(
            "The two records have no figures in common: compare runs of the same model, precision and provider."
        )
    for title, lines in (
        ("Only in the old record", comparison.only_old),
        ("Only in the new record", comparison.only_new),
        ("Other differences", (*comparison.environment, *comparison.parity)),
    ):
        if lines:
            console.print(f"{title}: {'; '.join(lines)}", markup=False)
    console.print(RESEARCH_USE_NOTICE)
