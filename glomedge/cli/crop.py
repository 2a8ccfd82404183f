"""``glomedge crop``: cut outlined glomeruli out of a slide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli.options import json_option
from glomedge.cli.progress import Progress

if TYPE_CHECKING:
    from glomedge.slides.crop_folder import CutCrops


def crop(
    slide: Annotated[Path, typer.Argument(metavar="SLIDE", help="A whole slide (SVS, NDPI, MRXS, SCN, TIFF, DICOM).")],
    annotations: Annotated[
        Path,
        typer.Option(
            "--annotations",
            "-a",
            help="Outlines: GeoJSON (QuPath), JSON (DSA), XML (ImageScope, ASAP) or CSV of boxes; .gz, .zip.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the crops.")],
    classes: Annotated[
        list[str] | None,
        typer.Option(
            "--class",
            help="Class of the outlines that are glomeruli; repeatable. Default: the usual names.",
            show_default=False,
        ),
    ] = None,
    mpp: Annotated[
        float | None,
        typer.Option("--mpp", help="Microns per pixel of the slide. Default: what it says.", show_default=False),
    ] = None,
    as_json: Annotated[bool, json_option("Print the summary as JSON.")] = False,
) -> None:
    """Cut every outlined glomerulus out of a slide as PNG, in the layout that train, infer and evaluate read."""
    from glomedge.slides.crop_folder import cut_crops
    from glomedge.slides.reader import Slide

    with Slide(slide, mpp) as opened, Progress() as progress:
        done = cut_crops(opened, annotations, output, classes or (), progress.stage("Cutting"))
    typer.echo(json.dumps(_as_json(done), indent=1) if as_json else _as_text(done))
    if done.errors:
        raise typer.Exit(2)


def _as_json(done: CutCrops) -> dict[str, Any]:
    return {
        "notice": RESEARCH_USE_NOTICE,
        "directory": str(done.directory),
        "crops": done.crops,
        "globally_sclerotic": done.labels[1],
        "not_globally_sclerotic": done.labels[0],
        "at_edge": done.at_edge,
        "repaired": done.repaired,
        "errors": done.errors,
        "classes_taken": done.choice.taken,
        "classes_left_out": done.choice.left_out,
        "mpp": done.info.mpp,
        "mpp_given": done.info.mpp_given,
    }


def _as_text(done: CutCrops) -> str:
    unlabelled = done.crops - sum(done.labels)
    crops = "1 crop" if done.crops == 1 else f"{done.crops} crops"
    source = "--mpp" if done.info.mpp_given else "the slide"
    lines = [
        f"Cut {crops} ({done.labels[1]} globally sclerotic, {done.labels[0]} not, {unlabelled} without a "
        f"label) at {done.info.mpp:g} microns per pixel ({source}) into {done.directory}. {RESEARCH_USE_NOTICE}",
        done.choice.sentence(),
    ]
    if done.at_edge:
        lines.append(f"{done.at_edge} are clipped at the slide's edge.")
    if done.repaired:
        lines.append(f"{done.repaired} have an outline that crossed itself or was not closed; it was repaired.")
    if done.errors:
        listed = ", ".join(f"{code} ({count})" for code, count in done.errors.items())
        lines.append(f"No crop for {sum(done.errors.values())} outlines: {listed}; crops.csv says why.")
    return "\n".join(lines)
