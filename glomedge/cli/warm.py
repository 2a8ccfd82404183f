"""``glomedge warm``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def warm(
    model: Annotated[Path, typer.Argument(help="The exported model.")] = Path("artifacts/model.onnx"),
    provider: Annotated[
        str, typer.Option(help="auto, cpu, cuda, tensorrt, tensorrt-rtx or openvino. Exactly that one is built for.")
    ] = "auto",
    batch_size: Annotated[
        int | None, typer.Option(help="The usual batch. Default: infer's, 4, on a GPU 32.", show_default=False)
    ] = None,
    max_batch: Annotated[
        int | None, typer.Option(help="The largest batch. Default: the model's.", show_default=False)
    ] = None,
    fixed_batch: Annotated[
        bool, typer.Option("--fixed-batch", help="For GPUs: build for infer --fixed-batch.")
    ] = False,
    allow_fallback: Annotated[
        bool, typer.Option("--allow-fallback", help="Take another provider where --provider cannot run, and say so.")
    ] = False,
    cache_dir: Annotated[Path | None, typer.Option(help="Owner-only folder for engines. Default: your cache.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Build the engine for this machine ahead of time, so that the first infer need not.

    TensorRT takes minutes for its first engine; afterwards it loads from the cache. Use the same batch sizes later:
    other sizes are another engine.
    """
    from time import perf_counter

    import numpy as np

    from glomedge.about import RESEARCH_USE_NOTICE
    from glomedge.engine.loading import load
    from glomedge.engine.providers import batch_of

    # What infer asks for: another profile would be another engine.
    usual = batch_of(provider, batch_size, max_batch, fixed_batch=fixed_batch, allow_fallback=allow_fallback)
    start = perf_counter()
    with load(
        model,
        provider,
        allow_fallback=allow_fallback,
        batch_size=usual,
        max_batch=max_batch,
        fixed_batch=fixed_batch,
        cache_dir=cache_dir,
    ) as engine:
        # TensorRT-RTX compiles its kernels at the first run of a shape.
        crop = engine.spec.golden.pixels()
        for size in sorted({usual} if fixed_batch else {usual, max_batch or 1}):
            engine.infer(np.broadcast_to(crop, (size, *crop.shape)).copy())
        elapsed_s = perf_counter() - start
        runtime = engine.runtime
    if as_json:
        document = {
            "provider": runtime.provider,
            "elapsed_s": elapsed_s,
            "notes": runtime.notes,
            "notice": RESEARCH_USE_NOTICE,
        }
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))
        return
    for note in runtime.notes:
        typer.echo(note)
    typer.echo(f"Ready on {runtime.provider} after {elapsed_s:.2f} s; self-test passed. {RESEARCH_USE_NOTICE}")
