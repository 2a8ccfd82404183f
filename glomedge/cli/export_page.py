"""``glomedge export-page``: a page that classifies crops in the browser, where nothing may be installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Annotated

import typer

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli.options import json_option, model_option
from glomedge.errors import MissingExtraError


def export_page(
    directory: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write index.html to; made when missing.")],
    onnxruntime_web: Annotated[
        Path,
        typer.Option(metavar="DIR", help="The npm package onnxruntime-web: node_modules/onnxruntime-web."),
    ],
    model: Annotated[Path, model_option()] = Path("artifacts/model.onnx"),
    as_json: Annotated[bool, json_option("Print what was written as JSON.")] = False,
) -> None:
    """Write one HTML file that classifies crops in a browser: nothing is installed, nothing leaves the page."""
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("glomedge export-page", package, "export,cpu")
    from glomedge_export.browser_page.write import write_browser_page

    page = write_browser_page(directory, model, onnxruntime_web)
    if as_json:
        said = {"notice": RESEARCH_USE_NOTICE, "page": str(page), "bytes": page.stat().st_size}
        typer.echo(json.dumps(said, indent=1))
        return
    typer.echo(f"wrote {page} ({page.stat().st_size / 1e6:.0f} MB)")
    typer.echo("Next: open it in a browser, from disk or a share, and drop crops on it.")
    typer.echo(RESEARCH_USE_NOTICE)
