"""What a user asks of an engine: one object, from the command line to the session."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from glomedge.errors import UsageError

DEFAULT_MODEL = Path("artifacts/model.onnx")
"""Where ``glomedge export`` writes, and every command looks, unless told otherwise."""
MAX_BATCH = 1024
"""Largest batch that a command takes; buffers are allocated for it."""


@dataclass(frozen=True)
class EngineOptions:
    """How to open a model. Each field is the command-line option of the same name.

    Attributes:
        provider: ``auto`` or a name of ``providers.PROVIDERS``. Exactly that one runs, or opening raises.
        allow_fallback: when the provider cannot run, take the next one that ``auto`` would; ``runtime.notes`` says so.
        strict_placement: refuse when any node of the graph runs on another provider than the one asked for.
        batch_size: the usual batch, for providers that tune for one; a GPU runs exactly that many crops each time (the
            last batch is padded). None: the provider's (``providers.batch_of``).
        max_batch: the largest batch to hand to the device at once; None: the model's.
        fixed_batch: always run exactly ``batch_size``, or ``max_batch`` where only that is given (the last batch is
            padded): lets a GPU replay one captured graph. Changes nothing on a CPU.
        cache_dir: owner-only folder for engines built for this machine; None: the user's cache folder.
        bf16: compute an fp32 file in bfloat16 (openvino, on processors that have it).
    """

    provider: str = "auto"
    allow_fallback: bool = False
    strict_placement: bool = False
    batch_size: int | None = None
    max_batch: int | None = None
    fixed_batch: bool = False
    cache_dir: Path | None = None
    bf16: bool = False

    def check(self) -> None:
        """Refuse what no provider could carry out, before any work begins. Raises UsageError."""
        for option, size in (("--batch-size", self.batch_size), ("--max-batch", self.max_batch)):
            if size is not None and not 1 <= size <= MAX_BATCH:
                raise UsageError(f"{option} must be 1 to {MAX_BATCH}, not {size}.")
        if self.batch_size is None or self.max_batch is None or self.batch_size == self.max_batch:
            return
        if self.fixed_batch:
            raise UsageError(
                f"--fixed-batch runs one batch size, and --batch-size {self.batch_size} is not --max-batch "
                f"{self.max_batch}. Give one of them."
            )
        if self.batch_size > self.max_batch:
            raise UsageError(
                f"--batch-size {self.batch_size} is more than --max-batch {self.max_batch}. Raise --max-batch."
            )
