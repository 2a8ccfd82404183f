"""``glomedge infer``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli.options import (
    BIOPSIES,
    CONTINUING,
    DECODING,
    MODEL,
    RESULTS,
    SHARDS,
    SLIDES,
    CasePattern,
    Model,
    Threshold,
    Workers,
    json_option,
    takes_engine_options,
)
from glomedge.cli.progress import Progress
from glomedge.cli.shell_patterns import require_one_folder
from glomedge.engine.options import DEFAULT_MODEL, EngineOptions
from glomedge.errors import UsageError

if TYPE_CHECKING:
    from glomedge.files.addresses import Place
    from glomedge.runs.outcome import Outcome
    from glomedge.runs.shard_of import Shard


@takes_engine_options()
def infer(
    context: typer.Context,
    folder: Annotated[
        str | None,
        typer.Argument(
            help="Folder of glomerulus crops, or of slides with outlines beside them (searched recursively); or one "
            "image, or one slide; or crops in storage: s3://bucket/folder, gs://, az://, abfss://. May be omitted with "
            "--inputs of whole addresses.",
            show_default=False,
        ),
    ] = None,
    *,
    annotations: Annotated[
        Path | None,
        typer.Option(
            "--annotations",
            "-a",
            help="Outlines of one slide: GeoJSON (QuPath), JSON (DSA), XML (ImageScope, ASAP) or CSV of boxes; .gz, "
            ".zip. Default: the file beside the slide that has its name.",
            show_default=False,
            rich_help_panel=SLIDES,
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            help="Class of the outlines that are glomeruli; repeatable. Default: the usual names.",
            show_default=False,
            rich_help_panel=SLIDES,
        ),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option(
            "--mpp",
            help="Microns per pixel of the slides. Default: what they say.",
            show_default=False,
            rich_help_panel=SLIDES,
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
    engine: EngineOptions,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for the results.", rich_help_panel=RESULTS)
    ] = Path("predictions"),
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="In addition to CSV: jsonl or parquet; csv-bom: CSV that Excel reads as UTF-8; of slides, geojson for "
            "QuPath, dsa for the Digital Slide Archive, dicom-sr and dicom-ann for DICOM slides. Repeatable.",
            show_default=False,
            rich_help_panel=RESULTS,
        ),
    ] = None,
    report: Annotated[
        bool, typer.Option("--report/--no-report", help="Write report.html.", rich_help_panel=RESULTS)
    ] = True,
    review_band: Annotated[
        str | None,
        typer.Option(
            help="Calibrated probabilities to review first, such as 0.2..0.8. Default: odds within a factor "
            "of four of the threshold's (0.2..0.8 at a threshold of 0.5).",
            show_default=False,
            rich_help_panel=RESULTS,
        ),
    ] = None,
    heatmaps: Annotated[
        Path | None,
        typer.Option(help="Folder for class-activation overlays.", show_default=False, rich_help_panel=RESULTS),
    ] = None,
    heatmaps_for: Annotated[
        str | None,
        typer.Option(
            help="positives, uncertain or all; without --heatmaps, written to heatmaps/ in --output. "
            "Default: positives.",
            show_default=False,
            rich_help_panel=RESULTS,
        ),
    ] = None,
    as_json: Annotated[bool, json_option("Print run.json instead of the summary.")] = False,
    workers: Workers = None,
    decode_in: Annotated[
        str,
        typer.Option(
            help="threads, processes, or auto: processes with four or more workers, or with a GPU and two or more.",
            rich_help_panel=DECODING,
        ),
    ] = "auto",
    decode_timeout: Annotated[
        float, typer.Option(help="Per-file decode timeout, in seconds.", rich_help_panel=DECODING)
    ] = 30.0,
    follow_symlinks: Annotated[
        bool, typer.Option("--follow-symlinks", help="Follow symbolic links.", rich_help_panel=DECODING)
    ] = False,
    case_pattern: CasePattern = None,
    site: Annotated[
        str | None,
        typer.Option(
            "--site",
            help="Laboratory of these crops. Corrected percentages and bands are given only if the model is calibrated "
            "for it (glomedge recalibrate).",
            show_default=False,
            rich_help_panel=BIOPSIES,
        ),
    ] = None,
    exclude_flagged: Annotated[
        bool,
        typer.Option(
            "--exclude-flagged",
            help="Exclude flagged crops from the case counts.",
            rich_help_panel=BIOPSIES,
        ),
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the unfinished run in --output.", rich_help_panel=CONTINUING)
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option(
            "--overwrite",
            help="Replace what is in --output: an unfinished run, or files of another program.",
            rich_help_panel=CONTINUING,
        ),
    ] = False,
    inputs: Annotated[
        Path | None,
        typer.Option(
            help="Table of the inputs (a local CSV or Parquet: path relative to the folder, or a whole address, and "
            "optionally case, slide), in place of a search; glomedge manifest writes one.",
            show_default=False,
            rich_help_panel=SHARDS,
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            help="3/7: answer the third of seven shares of the inputs, in --output/shard-3-of-7. Join them with: "
            "glomedge merge OUTPUT -o RESULTS",
            show_default=False,
            rich_help_panel=SHARDS,
        ),
    ] = None,
    by: Annotated[
        str,
        typer.Option(help="path or case: case keeps all crops of a biopsy in one share.", rich_help_panel=SHARDS),
    ] = "path",
) -> None:
    """Classify every crop in a folder, and every outlined glomerulus on slides, as globally sclerotic or not.

    Writes predictions.csv, cases.csv, report.html and run.json. Exit code 0: every image was classified; 2: some inputs
    have an error row; 1: the run failed; 130 or 143: stopped, continue with --resume.
    """
    from glomedge.runs.folder import Options, infer_folder
    from glomedge.runs.options import SlideOptions
    from glomedge.runs.shard_of import Shard
    from glomedge.system.stopping import StopOnSignals

    place = _place(folder, context.args, inputs)
    options = Options(
        folder=place if isinstance(place, Path) else Path(),
        address=None if isinstance(place, Path) else place,
        model=model,
        output=output,
        engine=engine,
        workers=workers,
        threshold=threshold,
        formats=tuple(dict.fromkeys(formats or ["csv"])),
        resume=resume,
        overwrite=overwrite,
        follow_symlinks=follow_symlinks,
        case_pattern=case_pattern,
        site=site,
        exclude_flagged=exclude_flagged,
        review_band=None if review_band is None else parse_band(review_band),
        tta=tta,
        heatmaps=output / "heatmaps" if heatmaps is None and heatmaps_for is not None else heatmaps,
        heatmaps_for=heatmaps_for or "positives",
        decode_timeout_s=decode_timeout,
        decode_in=decode_in,
        report=report,
        slides=SlideOptions(annotations, tuple(dict.fromkeys(classes or ())), mpp),
        shard=None if shard is None else Shard.parse(shard, by),
        inputs=inputs,
    )
    with StopOnSignals() as stop, Progress() as progress:
        outcome = infer_folder(options, stop=stop, progress=progress.stage("crops"))
    if not outcome.complete:
        # The total is unknown until the folder has been searched.
        left = f"{outcome.answered} of {outcome.inputs} crops are classified and saved"
        if outcome.answered == outcome.inputs:
            left = f"{outcome.answered} results are saved"
        typer.echo(f"Stopped. {left}. Run again with --resume to continue.", err=True)
        leave(outcome, stop.exit_code)
    if as_json:
        typer.echo(json.dumps(outcome.record, indent=2, ensure_ascii=False))
    elif options.shard is not None:
        print_shard(outcome, options.shard, output)
    else:
        print_summary(outcome, output)
    leave(outcome, outcome.exit_code)


def _place(folder: str | None, others: list[str], inputs: Path | None) -> Place:
    """Where the inputs are. Raises UsageError."""
    from glomedge.files.addresses import place_of

    if folder is not None:
        if others:
            require_one_folder([Path(folder), *map(Path, others)])
        return place_of(folder)
    if inputs is None:
        raise UsageError("infer needs a folder of crops: glomedge infer FOLDER. See: glomedge infer --help")
    from glomedge.runs.manifest import address_in

    return address_in(inputs)


def leave(outcome: Outcome, code: int) -> NoReturn:
    """End the command with that exit code."""
    if outcome.hung:
        # Everything is on disk. At exit the interpreter would crash on threads that are blocked in a C++ library.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    raise typer.Exit(code)


def parse_band(text: str) -> tuple[float, float]:
    """``0.2..0.8`` as two floats. Raises UsageError."""
    low, dots, high = text.partition("..")
    try:
        if dots:
            return float(low), float(high)
    except ValueError:
        pass
    raise UsageError(f"--review-band {text!r} is not two probabilities. Write it like 0.2..0.8")


def print_shard(outcome: Outcome, shard: Shard, output: Path) -> None:
    """What one share of a run answered, and what comes next; no biopsies, which other shares may have parts of."""
    from glomedge.files.names import escape_name

    counts = outcome.counts
    typer.echo(
        f"Shard {shard}: {outcome.answered} of {outcome.record['inputs_of_all_shards']} inputs on {outcome.provider}: "
        f"{counts['ok']} ok, {counts['flagged']} flagged, {counts['error']} errors. {outcome.wall_s:.2f} s."
    )
    for note in outcome.notes:
        typer.echo(f"Note: {note}")
    shown = escape_name(bytes(output))
    typer.echo(
        f"Written to {shown}/{shard.folder_name}. When all {shard.of} are done: glomedge merge {shown} -o RESULTS"
    )
    typer.echo(RESEARCH_USE_NOTICE)


def print_summary(outcome: Outcome, output: Path | str) -> None:
    """Cases first, then counts, notes and where the files are: a folder, or the text of an address."""
    from rich.console import Console

    from glomedge.cases.summary import called
    from glomedge.files.names import escape_name
    from glomedge.reports.case_table import case_tables

    console = Console(width=None if sys.stdout.isatty() else 120, highlight=False, markup=False)
    for table in case_tables(outcome.cases, console.width):
        console.print(table)
    counts = outcome.counts
    positive, classified = called(outcome.cases)
    console.print(
        f"{outcome.answered} inputs on {outcome.provider}: {counts['ok']} ok, {counts['flagged']} flagged, "
        f"{counts['error']} errors; {positive} globally sclerotic, {classified - positive} not; "
        f"{counts['uncertain']} in the review band. {outcome.wall_s:.2f} s.",
        soft_wrap=True,
    )
    for code, number in outcome.errors.items():
        console.print(f"  error:{code}: {number}")
    found = outcome.biopsies_found
    for line in (found["summary"], *found["warnings"]) if found else ():
        console.print(line, soft_wrap=True)
    for note in outcome.notes:
        console.print(f"Note: {note}", soft_wrap=True)
    names = [path.name for path in outcome.files if isinstance(output, str) or path.parent == output]
    if within := len(outcome.files) - len(names):
        names.append(f"{within} {'file' if within == 1 else 'files'} in annotations/")
    shown = output.encode("utf-8", "surrogateescape") if isinstance(output, str) else bytes(output)
    console.print(f"Written to {escape_name(shown)}: {', '.join(names)}", soft_wrap=True)
    console.print(RESEARCH_USE_NOTICE)
