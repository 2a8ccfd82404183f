"""``run.json``: the options, the environment and the outcome of a run."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from glomedge.about import RESEARCH_USE_NOTICE, __version__
from glomedge.engine.options import EngineOptions
from glomedge.files.addresses import Address
from glomedge.files.names import escape_name
from glomedge.model import origin
from glomedge.model.file import ModelFile
from glomedge.runs.options import Options, SlideOptions
from glomedge.runs.outcome import Outcome
from glomedge.runs.shard_of import Shard

if TYPE_CHECKING:
    from glomedge.engine.engine import Engine, Runtime

SCHEMA = 1


def arguments(options: Options) -> dict[str, Any]:
    """The options as JSON values, with those of the engine at the same level.

    Paths are escaped like every name: they need not be UTF-8, results are.
    """

    def value(item: Any) -> Any:
        if isinstance(item, Path | Address):
            return escape_name(bytes(item))
        if isinstance(item, str | Shard):
            return str(item).encode("utf-8", "backslashreplace").decode("utf-8")
        return list(item) if isinstance(item, tuple) else item

    found: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        item = getattr(options, field.name)
        if isinstance(item, SlideOptions):  # a run without slides has none of them
            found |= {} if item == SlideOptions() else dataclasses.asdict(item)
        elif field.name == "folder":
            found["folder"] = options.place
        elif field.name != "address" and (field.name not in ("shard", "inputs") or item is not None):
            found |= dataclasses.asdict(item) if isinstance(item, EngineOptions) else {field.name: item}
    return {name: value(item) for name, item in found.items()}


def record(
    options: Options, model: ModelFile, threshold: float, outcome: Outcome, engine: Engine | None, batch_size: int
) -> dict[str, Any]:
    """The content of ``run.json`` (the SHA-256 of the files is added when they are written).

    Times are in seconds. ``cpu_s`` are processor seconds summed over threads, apart for each stage; ``engine`` and
    ``decoding`` are None for a resumed run in which nothing was left to predict.
    """
    from glomedge.imaging.images import png_decoder
    from glomedge.system.environment import cpu, versions

    now = datetime.datetime.now(datetime.UTC)
    return {
        "notice": RESEARCH_USE_NOTICE,
        "schema": SCHEMA,
        "glomedge": __version__,
        "started_utc": (now - datetime.timedelta(seconds=outcome.wall_s)).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "arguments": arguments(options),
        "model": _model(model),
        "threshold": threshold,
        "provider": outcome.provider,
        "batch_size": batch_size,
        "engine": None if engine is None else _engine(engine.runtime),
        "decoding": {"png_decoder": png_decoder(), **outcome.decoding} if outcome.decoding else None,
        "machine": cpu(),
        "versions": versions(also=_also(options)),
        "inputs": outcome.inputs,
        "rows": outcome.answered,
        "rows_of_this_run": outcome.predicted,
        "counts": outcome.counts,
        "errors": outcome.errors,
        "cases": len(outcome.cases),
        "biopsies_found": outcome.biopsies_found,
        "drift": outcome.drift,
        "times": _times(outcome),
        "notes": outcome.notes,
    }


def _also(options: Options) -> tuple[str, ...]:
    """Packages that only some runs use."""
    return (
        *(("pyarrow",) if "parquet" in options.formats else ()),
        *(("obstore",) if options.address is not None else ()),
    )


def _model(model: ModelFile) -> dict[str, Any]:
    spec = model.spec
    return {
        "path": escape_name(bytes(model.path)),
        "sha256": model.sha256,
        "weights_sha256": spec.weights_sha256,
        "precision": spec.precision,
        "target": spec.target,
        "recipe": spec.recipe.model_dump(),
        "input_scaling": spec.input_scaling,
        "temperature": spec.temperature,
        "class_names": list(spec.class_names),
        "created_utc": spec.created_utc,
        "producer": spec.producer,
        "backbone": spec.backbone,
        "input_side_px": spec.input.side_px,
        "map": spec.map,
        "network": origin.network(spec),
        "source": None if spec.source is None else spec.source.model_dump(),
        "source_sentence": origin.source(spec),
        "unknown": origin.unknown(spec),
        **({} if spec.mpp is None else {"mpp": spec.mpp}),
    }


def _engine(runtime: Runtime) -> dict[str, Any]:
    return {
        "requested": runtime.requested,
        "provider": runtime.provider,
        "precision": runtime.precision,
        "threads": runtime.threads,
        "concurrency": runtime.concurrency,
        "versions": dict(runtime.versions),
        "options": dict(runtime.options),
        "placement": dict(runtime.placement),
        "passed_over": list(runtime.passed_over),
    }


def _times(outcome: Outcome) -> dict[str, Any]:
    times = outcome.times
    return {
        "wall_s": round(outcome.wall_s, 4),
        "rows_per_s": round(outcome.predicted / outcome.wall_s, 3) if outcome.wall_s > 0 else None,
        "engine_load_wall_s": round(times.engine_load_wall_s, 4),
        "infer_wall_s": round(times.infer_wall_s, 4),
        "cpu_s": {
            "decode": round(times.decode_s, 4),
            "enhance": round(times.enhance_s, 4),
            "infer": round(times.infer_s, 4),
            "write": round(times.write_s, 4),
        },
    }
