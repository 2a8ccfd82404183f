"""``glomedge export-triton``: a model repository for NVIDIA's Triton Inference Server."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Annotated

import typer

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli.options import json_option, model_option
from glomedge.errors import MissingExtraError, UsageError


def export_triton(
    directory: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write to; made, must be empty.")],
    model: Annotated[Path, model_option()] = Path("artifacts/model.onnx"),
    device: Annotated[str, typer.Option(help="gpu: TensorRT within onnxruntime. cpu: onnxruntime.")] = "gpu",
    instances: Annotated[
        int, typer.Option(min=1, max=64, help="Copies of the network on each GPU, or on the CPU.")
    ] = 1,
    queue_delay_us: Annotated[
        int, typer.Option(min=0, max=1_000_000, help="Microseconds that a request may wait to share a batch.")
    ] = 2000,
    queue_size: Annotated[int, typer.Option(min=1, help="Requests that may wait; more are refused.")] = 128,
    engine_cache: Annotated[
        str, typer.Option(metavar="DIR", help="Folder on the server for TensorRT's engines.")
    ] = "/var/cache/glomedge",
    as_json: Annotated[bool, json_option("Print what was written as JSON.")] = False,
) -> None:
    """Write an exported model as a repository of Triton: network, colour enhancement, and both in one request."""
    if device not in ("gpu", "cpu"):
        raise UsageError(f"--device {device!r} is not known. Choose gpu or cpu.")
    for package in ("onnx", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise MissingExtraError("glomedge export-triton", package, "export,cpu")
    from glomedge_export.triton.config import CROP, Serving
    from glomedge_export.triton.repository import write_repository

    serving = Serving("gpu" if device == "gpu" else "cpu", instances, queue_delay_us, queue_size, engine_cache)
    written = write_repository(directory, model, serving)
    if as_json:
        typer.echo(json.dumps({"notice": RESEARCH_USE_NOTICE, "written": [str(path) for path in written]}, indent=1))
        return
    for path in written:
        typer.echo(f"wrote {path}")
    typer.echo(f"Next: tritonserver --model-repository={directory}, then send decoded crops to the model {CROP}.")
    typer.echo(RESEARCH_USE_NOTICE)
