"""``glomedge crop``: cut outlined glomeruli out of a slide."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli.options import json_option
from glomedge.cli.progress import Progress
from glomedge.errors import UsageError

if TYPE_CHECKING:
    from glomedge.slides.crop_slides import SlideCrops


def crop(
    slide: Annotated[
        Path,
        typer.Argument(
            metavar="SLIDE",
            help="A whole slide (SVS, NDPI, MRXS, SCN, TIFF, DICOM), or a folder of slides with outlines beside them.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", metavar="DIR", help="Folder for the crops.")],
    annotations: Annotated[
        Path | None,
        typer.Option(
            "--annotations",
            "-a",
            help="Outlines: GeoJSON (QuPath), JSON (DSA), XML (ImageScope, ASAP) or CSV of boxes; .gz, .zip.",
            show_default="the file of the slide's name",
        ),
    ] = None,
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
    from glomedge.slides.crop_slides import SlideCrops, cut_slides
    from glomedge.slides.pairs import find_pairs
    from glomedge.slides.reader import Slide

    with Progress() as progress:
        if annotations is not None:
            # Unlike Path.is_dir this is never an error: Slide says what is wrong with the path.
            if os.path.isdir(slide):  # noqa: PTH112
                raise UsageError(
                    f"{slide} is a folder, and --annotations belongs to one slide. Give one slide, or omit it."
                )
            with Slide(slide, mpp) as opened:
                crops = cut_crops(opened, annotations, output, classes or (), progress.stage("Cutting"))
            done = [SlideCrops(slide, crops)]
        else:
            pairs = find_pairs(slide, exclude=[output])
            done = cut_slides(pairs, output, classes or (), mpp, progress.stage("Slides"))
    if as_json:
        typer.echo(json.dumps({"notice": RESEARCH_USE_NOTICE, "slides": [_as_json(each) for each in done]}, indent=1))
    else:
        typer.echo("\n".join([*map(_as_text, done), RESEARCH_USE_NOTICE]))
    if any(each.failed for each in done):
        raise typer.Exit(2 if any(each.crops is not None and each.crops.crops for each in done) else 1)


def _as_json(done: SlideCrops) -> dict[str, Any]:
    if done.crops is None:
        return {"slide": str(done.slide), "crops": 0, "message": done.message}
    crops = done.crops
    return {
        "slide": str(done.slide),
        "directory": str(crops.directory),
        "crops": crops.crops,
        "globally_sclerotic": crops.labels[1],
        "not_globally_sclerotic": crops.labels[0],
        "at_edge": crops.at_edge,
        "repaired": crops.repaired,
        "replaced": crops.replaced,
        "errors": crops.errors,
        "classes_taken": crops.choice.taken,
        "classes_left_out": crops.choice.left_out,
        "mpp": crops.info.mpp,
        "mpp_given": crops.info.mpp_given,
        "reader": crops.info.reader,
    }


def _as_text(done: SlideCrops) -> str:
    if done.crops is None:
        return f"{done.slide}: no crops: {done.message}"
    crops = done.crops
    unlabelled = crops.crops - sum(crops.labels)
    counted = "1 crop" if crops.crops == 1 else f"{crops.crops} crops"
    source = "--mpp" if crops.info.mpp_given else "as the slide says"
    lines = [
        f"{done.slide}: {counted} ({crops.labels[1]} globally sclerotic, {crops.labels[0]} not, {unlabelled} without a "
        f"label) in {crops.directory}, {crops.info.mpp:g} microns per pixel ({source}).",
        f"  {crops.choice.sentence()}",
    ]
    if crops.info.refused_by_openslide:
        lines.append(f"  OpenSlide refuses this slide; read by {crops.info.reader}.")
    if crops.replaced:
        counted = "1 crop" if crops.replaced == 1 else f"{crops.replaced} crops"
        lines.append(f"  Replaced {counted} of an earlier run on this slide.")
    if crops.at_edge:
        lines.append(f"  {crops.at_edge} clipped at the slide's edge.")
    if crops.repaired:
        lines.append(f"  {crops.repaired} with an outline that crossed itself or was not closed; it was repaired.")
    if crops.errors:
        listed = ", ".join(f"{code} ({count})" for code, count in crops.errors.items())
        lines.append(f"  No crop for {sum(crops.errors.values())} outlines: {listed}; crops.csv says why.")
    return "\n".join(lines)
