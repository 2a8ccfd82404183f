"""``glomedge warm``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli.options import json_option, model_argument, model_option, one_model, takes_engine_options
from glomedge.engine.options import EngineOptions


@takes_engine_options()
def warm(
    model_path: Annotated[Path | None, model_argument("The exported model.")] = None,
    model: Annotated[Path | None, model_option()] = None,
    *,
    engine: EngineOptions,
    as_json: Annotated[bool, json_option()] = False,
) -> None:
    """Build the engine for this machine in advance, so that the first infer starts without delay.

    TensorRT takes minutes to build an engine; later runs load it from the cache. Use the same batch sizes later:
    other sizes need another engine.
    """
    from dataclasses import replace
    from time import perf_counter

    import numpy as np

    from glomedge.engine.loading import open_engine, require_bf16
    from glomedge.engine.providers import batch_of
    from glomedge.model.file import read_model_file

    # The same profile as infer: another profile would need another engine.
    file = read_model_file(one_model(model_path, model))
    usual = batch_of(engine, file.spec)
    start = perf_counter()
    with open_engine(file, replace(engine, batch_size=usual)) as opened:
        require_bf16(opened, engine)
        # TensorRT-RTX compiles its kernels at the first run of a shape.
        crop = opened.spec.golden.pixels()
        for size in sorted({usual} if engine.fixed_batch else {usual, engine.max_batch or 1}):
            opened.infer(np.broadcast_to(crop, (size, *crop.shape)).copy())
        elapsed_s = perf_counter() - start
        runtime = opened.runtime
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
