"""``glomedge infer-ray``."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glomedge.cli.options import (
    BIOPSIES,
    CONTINUING,
    DECODING,
    MODEL,
    RESULTS,
    CasePattern,
    Model,
    Threshold,
    json_option,
    takes_engine_options,
)
from glomedge.cli.progress import Progress
from glomedge.engine.options import DEFAULT_MODEL, EngineOptions
from glomedge.errors import UsageError

if TYPE_CHECKING:
    from glomedge.files.addresses import Place

CLUSTER = "Cluster"
_LINE_EVERY_S = 30.0


@takes_engine_options("allow_fallback", "provider")
def infer_ray(
    manifest: Annotated[
        Path,
        typer.Argument(
            help="Table of the crops (CSV or Parquet: path, and optionally case, slide): glomedge manifest."
        ),
    ],
    *,
    folder: Annotated[
        str | None,
        typer.Option(
            help="Folder or address (s3://...) that the manifest's paths are relative to, which every node sees. "
            "Default: the manifest's folder; of whole addresses, their bucket.",
            show_default=False,
        ),
    ] = None,
    model: Model = DEFAULT_MODEL,
    threshold: Threshold = None,
    tta: Annotated[
        int,
        typer.Option(
            help="8: average over the eight flips and quarter turns, at eight times the cost.", rich_help_panel=MODEL
        ),
    ] = 1,
    provider: Annotated[
        str,
        typer.Option(
            "--provider",
            "-p",
            help="cpu, cuda, tensorrt, tensorrt-rtx or openvino, the same on every node; with a GPU each worker takes "
            "one.",
            rich_help_panel="Engine",
        ),
    ] = "cpu",
    engine: EngineOptions,
    output: Annotated[
        str,
        typer.Option(
            "--output",
            "-o",
            help="Folder that every node sees, or address (s3://...), for the results.",
            rich_help_panel=RESULTS,
        ),
    ],
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write report.html.", rich_help_panel=RESULTS)
    ] = True,
    review_band: Annotated[
        str | None,
        typer.Option(
            help="Calibrated probabilities to review first, such as 0.2..0.8.",
            show_default=False,
            rich_help_panel=RESULTS,
        ),
    ] = None,
    as_json: Annotated[bool, json_option("Print run.json instead of the summary.")] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Engines at the same time. Default: as many as the cluster has room for.",
            show_default=False,
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    cpus_per_worker: Annotated[
        int | None,
        typer.Option(
            help="CPUs of each: threads of the engine and decode processes. Default: 2, or 1 on a machine with one.",
            show_default=False,
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    part_rows: Annotated[
        int | None,
        typer.Option(
            help="Crops a part, which is answered and written as a whole. Default: by their number, at most 4096.",
            show_default=False,
            rich_help_panel=CLUSTER,
        ),
    ] = None,
    decode_timeout: Annotated[
        float, typer.Option(help="Per-file decode timeout, in seconds.", rich_help_panel=DECODING)
    ] = 30.0,
    follow_symlinks: Annotated[
        bool, typer.Option("--follow-symlinks", help="Follow symbolic links.", rich_help_panel=DECODING)
    ] = False,
    case_pattern: CasePattern = None,
    site: Annotated[
        str | None,
        typer.Option(help="Laboratory of these crops, as for infer.", show_default=False, rich_help_panel=BIOPSIES),
    ] = None,
    exclude_flagged: Annotated[
        bool,
        typer.Option("--exclude-flagged", help="Exclude flagged crops from the case counts.", rich_help_panel=BIOPSIES),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --output.", rich_help_panel=CONTINUING)
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace what is in --output.", rich_help_panel=CONTINUING)
    ] = False,
) -> None:
    """Classify the crops of a manifest on a Ray cluster: the one at RAY_ADDRESS, else one on this machine.

    Writes predictions/*.parquet with the rows of glomedge infer, cases.parquet, report.html with a sample of the crops,
    and run.json. Every crop has exactly one row, whatever dies on the way. Exit code 0: every image was classified; 2:
    some inputs have an error row; 1: the run failed; 130 or 143: stopped, continue with --resume.
    """
    from dataclasses import replace

    from glomedge.cli.infer import parse_band, print_summary
    from glomedge.cluster.cohort import infer_cohort
    from glomedge.cluster.options import CohortOptions
    from glomedge.cluster.ray_job import RayPool
    from glomedge.runs.options import Options
    from glomedge.system.stopping import StopOnSignals

    place = _place(folder, manifest)
    run = Options(
        folder=place if isinstance(place, Path) else Path(),
        address=None if isinstance(place, Path) else place,
        model=model,
        engine=replace(engine, provider=provider),
        threshold=threshold,
        tta=tta,
        report=report,
        review_band=None if review_band is None else parse_band(review_band),
        decode_timeout_s=decode_timeout,
        follow_symlinks=follow_symlinks,
        case_pattern=case_pattern,
        site=site,
        exclude_flagged=exclude_flagged,
        resume=resume,
        overwrite=overwrite,
        inputs=manifest,
    )
    options = CohortOptions(run, output, workers, cpus_per_worker, part_rows)
    with StopOnSignals() as stop, Progress() as progress:
        pool = RayPool(workers, note=lambda text: progress.line(f"Note: {text}"))
        shown = progress.stage("crops") or lines(progress.line)
        outcome = infer_cohort(options, pool, stop=stop, progress=shown)
    if not outcome.complete:
        typer.echo(
            f"Stopped. {outcome.answered} of {outcome.inputs} crops are classified and saved. Run again with --resume "
            "to continue.",
            err=True,
        )
        raise typer.Exit(stop.exit_code)
    if as_json:
        typer.echo(json.dumps(outcome.record, indent=2, ensure_ascii=False))
    else:
        print_summary(outcome, options.folder or output)
    raise typer.Exit(outcome.exit_code)


def _place(folder: str | None, manifest: Path) -> Place:
    """What the manifest's paths are relative to. Raises UsageError."""
    from glomedge.files.addresses import place_of
    from glomedge.runs.manifest import address_in

    if folder is not None:
        return place_of(folder)
    try:
        return address_in(manifest)
    except UsageError:  # its paths are no addresses; whether it can be read is seen soon
        return manifest.parent


def lines(line: Callable[[str], None], every_s: float = _LINE_EVERY_S) -> Callable[[int, int], None]:
    """Progress for logs, where there is no terminal: a line at the first answer, then every half minute."""
    begin: list[tuple[float, int]] = []
    last_s = [0.0]

    def show(done: int, total: int) -> None:
        now_s = time.monotonic()
        if not begin:
            begin.append((now_s, done))
            last_s[0] = now_s
            line(f"{done:,} of {total:,} crops are answered.")
            return
        if now_s - last_s[0] < every_s and done < total:
            return
        last_s[0] = now_s
        seconds, answered = now_s - begin[0][0], done - begin[0][1]
        rate = answered / seconds if seconds > 0 else 0.0
        left = f", {(total - done) / rate / 60.0:.0f} min left" if rate > 0 and done < total else ""
        line(f"{done:,} of {total:,} crops are answered ({100.0 * done / total:.0f}%), {rate:,.1f} a second{left}.")

    return show
