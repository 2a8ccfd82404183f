"""The validated settings of a bench, and the configurations that follow from them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

from glomedge.bench.record import ScenarioName
from glomedge.engine.options import DEFAULT_MODEL, EngineOptions
from glomedge.errors import ModelError, UsageError
from glomedge.model.file import ModelFile, read_model_file

SCENARIOS: tuple[ScenarioName, ...] = ("single-stream", "offline", "server")
PRECISIONS = ("fp32", "fp16", "int8", "bf16")


@dataclass(frozen=True)
class Settings:
    """What to measure; see ``glomedge bench --help``.

    ``engine`` applies to every configuration, except for its provider and its ``batch_size``: those are given by
    ``providers`` and ``batch_sizes``, one or more of each.
    """

    models: tuple[Path, ...] = (DEFAULT_MODEL,)
    providers: tuple[str, ...] = ("auto",)
    precisions: tuple[str, ...] = ()
    batch_sizes: tuple[int, ...] = (1, 8, 32)
    scenarios: tuple[ScenarioName, ...] = ("single-stream", "offline")
    duration_s: float = 5.0
    latency_bound_ms: float = 200.0
    images: Path | None = None
    engine: EngineOptions = field(default_factory=EngineOptions)
    cold_start: bool = True
    end_to_end: bool = True

    def check(self) -> None:
        """Raises UsageError on an invalid value."""
        self.engine.check()
        if not self.batch_sizes or min(self.batch_sizes) < 1 or max(self.batch_sizes) > 1024:
            raise UsageError("--batch-size takes sizes from 1 to 1024, such as 1,8,32.")
        if not 0.1 <= self.duration_s <= 3600:
            raise UsageError("--duration takes seconds from 0.1 to 3600.")
        if self.latency_bound_ms <= 0:
            raise UsageError("--latency-bound-ms must be positive, such as 200.")
        largest = max(self.batch_sizes)
        if self.engine.max_batch is not None and self.engine.max_batch < largest:
            raise UsageError(
                f"--batch-size {largest} is more than --max-batch {self.engine.max_batch}. Raise --max-batch."
            )
        if self.engine.fixed_batch and {*self.batch_sizes, self.engine.max_batch or largest} != {largest}:
            raise UsageError("--fixed-batch runs one batch size. Give one with --batch-size, such as --batch-size 32.")
        if self.engine.bf16 and self.precisions:
            raise UsageError(
                "--bf16 and --precision cannot be combined. --precision bf16 measures the fp32 file in bfloat16."
            )
        for name, values, allowed in (
            ("--scenario", self.scenarios, SCENARIOS),
            ("--precision", self.precisions, PRECISIONS),
        ):
            for value in values:
                if value not in allowed:
                    raise UsageError(f"{name} {value!r} is not one of {', '.join(allowed)}.")


@dataclass(frozen=True)
class Target:
    """One configuration to measure."""

    file: ModelFile
    engine: EngineOptions

    @property
    def label(self) -> str:
        """For progress messages."""
        return f"{self.file.path.name} on {self.engine.provider}" + (" in bf16" if self.engine.bf16 else "")


def plan(settings: Settings) -> list[Target]:
    """Models x providers; ``--precision`` picks among the files next to the models, ``bf16`` the fp32 one's.

    Raises:
        ModelError: a file is missing or not made by glomedge, or no file has a requested precision.
        UsageError: ``--bf16`` for a file that is not fp32.
    """
    files = [read_model_file(path) for path in dict.fromkeys(settings.models)]
    engines = [_engine(settings, provider) for provider in settings.providers]
    if not settings.precisions:
        for file in files:
            if settings.engine.bf16 and file.spec.precision != "fp32":
                raise UsageError(
                    f"--bf16 computes an fp32 file in bfloat16, and {file.path} is {file.spec.precision}. Give the "
                    "fp32 file with --model."
                )
        return [Target(file, engine) for file in files for engine in engines]
    beside: dict[Path, ModelFile] = {file.path.resolve(): file for file in files}
    for folder in dict.fromkeys(file.path.parent for file in files):
        for path in sorted(folder.glob("*.onnx")):
            if path.resolve() not in beside:
                try:
                    beside[path.resolve()] = read_model_file(path)
                except ModelError:
                    continue  # a damaged or foreign file that was not given explicitly
    targets = []
    for precision in dict.fromkeys(settings.precisions):
        wanted = "fp32" if precision == "bf16" else precision
        chosen = [file for file in beside.values() if file.spec.precision == wanted]
        if not chosen:
            raise ModelError(
                f"There is no {precision} model next to {files[0].path}. Make one with: "
                f"glomedge export --precision {wanted}, or give it with --model."
            )
        targets += [Target(file, replace(engine, bf16=precision == "bf16")) for file in chosen for engine in engines]
    return targets


def _engine(settings: Settings, provider: str) -> EngineOptions:
    """The options of one provider's engine; the batch size is passed only if the provider can run no other."""
    only = settings.batch_sizes[0] if settings.engine.fixed_batch else None
    return replace(settings.engine, provider=provider, batch_size=only)
