"""``glomedge infer``."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli.progress import progress_bar
from glomedge.errors import UsageError
from glomedge.files.names import escape_name

if TYPE_CHECKING:
    from glomedge.runs.outcome import Outcome


def infer(
    folder: Annotated[Path, typer.Argument(help="Folder of glomerulus crops, searched at any depth; or one image.")],
    model: Annotated[Path, typer.Option("--model", "-m", help="The exported model.")] = Path("artifacts/model.onnx"),
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("predictions"),
    provider: Annotated[
        str, typer.Option(help="auto, cpu, cuda, tensorrt, tensorrt-rtx or openvino. Exactly that one runs.")
    ] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(help="Crops per call of the model. Default: 4, on a GPU 32.", show_default=False)
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(help="Largest batch the device is given. Default: the model's.", show_default=False)
    ] = None,
    fixed_batch: Annotated[
        bool,
        typer.Option("--fixed-batch", help="For GPUs: run one batch size only, as a captured CUDA graph."),
    ] = False,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Owner-only folder for engines built here. Default: your cache.")
    ] = None,
    bf16: Annotated[bool, typer.Option("--bf16", help="Compute an fp32 model in bfloat16 (openvino).")] = False,
    threshold: Annotated[
        float | None, typer.Option(help="Probability from which a crop is positive. Default: the model's.")
    ] = None,
    workers: Annotated[int | None, typer.Option(help="Decode threads. Default: one per core.")] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format",
            help="Besides CSV: jsonl, parquet; csv-bom: CSV whose accents Excel shows. May be given several times.",
        ),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the unfinished run in --output.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Drop the unfinished run in --output and start over.")
    ] = False,
    follow_symlinks: Annotated[bool, typer.Option("--follow-symlinks", help="Read linked files and folders.")] = False,
    allow_fallback: Annotated[
        bool, typer.Option("--allow-fallback", help="Take another provider where --provider cannot run, and say so.")
    ] = False,
    strict_placement: Annotated[
        bool, typer.Option("--strict-placement", help="Refuse when part of the model runs on another provider.")
    ] = False,
    case_pattern: Annotated[
        str | None, typer.Option(help="Regular expression with a group (?P<case>...), and (?P<slide>...) if wanted.")
    ] = None,
    exclude_flagged: Annotated[
        bool, typer.Option("--exclude-flagged", help="Leave crops with any flag out of the case counts.")
    ] = False,
    review_band: Annotated[str, typer.Option(help="Probabilities to be looked at first.")] = "0.2..0.8",
    tta: Annotated[
        int, typer.Option(help="8: mean over the eight flips and quarter turns, at eight times the cost.")
    ] = 1,
    heatmaps: Annotated[Path | None, typer.Option(help="Folder for class-activation overlays.")] = None,
    heatmaps_for: Annotated[
        str | None,
        typer.Option(
            help="positives, uncertain or all; without --heatmaps into the folder heatmaps of --output. "
            "Default: positives.",
            show_default=False,
        ),
    ] = None,
    decode_timeout: Annotated[float, typer.Option(help="Seconds after which a file is given up.")] = 30.0,
    decode_in: Annotated[
        str, typer.Option(help="threads, processes, or auto: processes from four workers on.")
    ] = "auto",
    report: Annotated[bool, typer.Option("--report/--no-report", help="Make report.html.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print run.json instead of the summary.")] = False,
) -> None:
    """Call every crop in a folder globally sclerotic or not.

    Writes predictions.csv, cases.csv, report.html and run.json. Exit code 0: all predicted on; 2: some files had errors
    (each has its row); 1: could not run; 130 or 143: stopped, go on with --resume.
    """
    from glomedge.runs.folder import Options, infer_folder
    from glomedge.system.stopping import StopOnSignals

    options = Options(
        folder=folder,
        model=model,
        output=output,
        provider=provider,
        allow_fallback=allow_fallback,
        strict_placement=strict_placement,
        batch_size=batch_size,
        max_batch=max_batch,
        fixed_batch=fixed_batch,
        cache_dir=cache_dir,
        bf16=bf16,
        workers=workers,
        threshold=threshold,
        formats=tuple(dict.fromkeys(formats or ["csv"])),
        resume=resume,
        overwrite=overwrite,
        follow_symlinks=follow_symlinks,
        case_pattern=case_pattern,
        exclude_flagged=exclude_flagged,
        review_band=parse_band(review_band),
        tta=tta,
        heatmaps=output / "heatmaps" if heatmaps is None and heatmaps_for is not None else heatmaps,
        heatmaps_for=heatmaps_for or "positives",
        decode_timeout_s=decode_timeout,
        decode_in=decode_in,
        report=report,
    )
    with StopOnSignals() as stop, progress_bar() as progress:
        outcome = infer_folder(options, stop=stop, progress=progress)
    if not outcome.complete:
        # While the folder is searched nobody knows how many there are.
        left = f"{outcome.answered} of {outcome.inputs} crops are answered and kept"
        if outcome.answered == outcome.inputs:
            left = f"{outcome.answered} answers are kept"
        typer.echo(f"Stopped. {left}; go on with --resume.", err=True)
        leave(outcome, stop.exit_code)
    if as_json:
        typer.echo(json.dumps(outcome.record, indent=2, ensure_ascii=False))
    else:
        print_summary(outcome, output)
    leave(outcome, outcome.exit_code)


def leave(outcome: Outcome, code: int) -> NoReturn:
    """End the command with that exit code."""
    if outcome.hung:
        # Everything is on disk. The interpreter would crash on threads that sit in a C++ library while it ends.
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


def print_summary(outcome: Outcome, output: Path) -> None:
    """Cases first, then counts, notes and where the files are."""
    from rich.console import Console

    from glomedge.cases.summary import called
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
    console.print(
        f"Written to {escape_name(bytes(output))}: {', '.join(path.name for path in outcome.files)}", soft_wrap=True
    )
    console.print(RESEARCH_USE_NOTICE)
