"""``glomedge recalibrate``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli.options import LABELS, RESULTS, CasePattern, Workers, json_option, takes_engine_options
from glomedge.cli.progress import Progress
from glomedge.cli.shell_patterns import typed
from glomedge.engine.options import EngineOptions

if TYPE_CHECKING:
    from glomedge.runs.recalibrate import Recalibration


@takes_engine_options()
def recalibrate(
    models: Annotated[
        list[Path],
        typer.Argument(metavar="MODEL", help="The exported model; several files of one model (fp32, fp16, int8)."),
    ],
    labels: Annotated[Path, typer.Argument(metavar="LABELS", help="labels.csv of glomedge label, or a public.csv.")],
    *,
    images: Annotated[
        Path,
        typer.Option(
            help="Folder of the crops, with those that have no label: their scores are kept, to be compared with later "
            "ones by infer.",
            show_default=False,
            rich_help_panel=LABELS,
        ),
    ],
    site: Annotated[
        str,
        typer.Option(
            help="Name of your laboratory: counts and corrected percentages are marked with it.",
            show_default=False,
            rich_help_panel=LABELS,
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", help="The new file; a folder if there are several models.", show_default=False,
            rich_help_panel=RESULTS,
        ),
    ],
    threshold: Annotated[
        str,
        typer.Option(
            "--threshold", help="Threshold rule of train: 0.5, youden or sensitivity=0.95.", rich_help_panel=RESULTS
        ),
    ] = "0.5",
    engine: EngineOptions,
    case_pattern: CasePattern = None,
    workers: Workers = None,
    as_json: Annotated[bool, json_option("Print JSON instead of text.")] = False,
) -> None:  # fmt: skip
    """Make a model right for your laboratory with 20 or more labelled crops of it. The weights stay as they are.

    Slope and offset on the logit are fitted to the labels, held near 1 and 0 by a prior; sensitivity and specificity
    are counted with each biopsy left out in turn. MODEL is not changed: a new file is written, and its model card.

    Several files of one model are recalibrated in one call, each on its own answers:
    glomedge recalibrate fp32.onnx int8.onnx labels.csv --images night/ --site 'Our lab' -o models/
    """
    from glomedge.runs.recalibrate import RecalibrateOptions, recalibrate_models
    from glomedge.system.stopping import StopOnSignals

    options = RecalibrateOptions(
        models=tuple(models),
        labels=labels,
        images=images,
        site=site,
        output=output,
        threshold=threshold,
        engine=engine,
        case_pattern=case_pattern,
        workers=workers,
    )
    with StopOnSignals() as stop, Progress() as progress:
        made = recalibrate_models(options, stop=stop, progress=progress.stage("crops"))
    if made is None:
        raise typer.Exit(stop.exit_code)
    if as_json:
        typer.echo(json.dumps([as_document(one) for one in made], indent=2, ensure_ascii=False))
        return
    for one in made:
        print_recalibration(one)
    for note in dict.fromkeys(note for one in made for note in one.notes):
        typer.echo(f"Note: {note}")
    typer.echo(f"Use it with: glomedge infer DIR -m {typed(made[0].path)} --site {shlex.quote(made[0].site.site)}")
    typer.echo(RESEARCH_USE_NOTICE)


def as_document(made: Recalibration) -> dict[str, object]:
    """Everything of one new file, for machines."""
    from dataclasses import asdict

    assert made.spec.operating_point is not None
    return {
        "notice": RESEARCH_USE_NOTICE,
        "path": str(made.path),
        "sha256": made.sha256,
        "provider": made.provider,
        "site": made.site.model_dump(mode="json"),
        "threshold": made.spec.threshold,
        "operating_point": made.spec.operating_point.model_dump(),
        "labelled_crops_before": asdict(made.before),
        "labelled_crops_after": asdict(made.after),
        "weighted_share_right": {"before": made.share_before, "after": made.share_after},
        "notes": list(made.notes),
    }


def print_recalibration(made: Recalibration) -> None:
    """One new file: what was fitted, and the calls of the labelled crops before and after."""
    site, spec = made.site, made.spec
    typer.echo(
        f"{made.path}: {site.crops} labelled crops ({site.positive} globally sclerotic) of {site.cases} biopsies"
    )
    rule = "" if site.threshold_rule == f"{spec.threshold:g}" else f" ({site.threshold_rule})"
    typer.echo(
        f"  slope {site.slope:.3f}, offset {site.offset:+.3f}, threshold {spec.threshold:.4g}{rule}; {made.provider}"
    )
    typer.echo("  of the labelled crops         called right   weighted   globally sclerotic found   others left alone")
    for name, found, weighted in (
        ("before", made.before, made.share_before),
        ("after, each biopsy left out", made.after, made.share_after),
    ):
        shares = (found.accuracy, found.sensitivity, found.specificity)
        right, positive, negative = (f"{share.k} of {share.n}" for share in shares)
        typer.echo(f"  {name:<27} {right:>14} {100 * weighted:>9.1f}% {positive:>26} {negative:>19}")
    typer.echo(f"  written with its card {made.path.with_suffix('.card.md').name}; self-test passed")
