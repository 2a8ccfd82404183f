"""How the pipeline runs, and how many crops are in flight at once."""

from __future__ import annotations

from dataclasses import dataclass

from glomedge.errors import UsageError
from glomedge.model.spec import SIZE_PX, Recipe
from glomedge.pipeline.decode_process import grey_pays, processes_pay, processes_possible, slot_bytes
from glomedge.pipeline.prepare import Preparation, Source
from glomedge.system import cpu

# While the engine loads, for a second or less, decoding continues: about this many crops, and 10 MB of pixels at most.
_LEAD_CROPS = 64
_LEAD_BYTES = _LEAD_CROPS * SIZE_PX * SIZE_PX * 3
_READS_PER_CORE, _MOST_READS = 8, 64
# Limit for crops kept in grey, in all buffers together.
_GREY_BYTES = 1 << 29


@dataclass(frozen=True)
class DecodePlan:
    """How many decoders there are, and whether each has a process of its own."""

    workers: int
    processes: bool


def reads_at_once() -> int:
    """How many threads read from object storage, where a request takes long and hardly any processor time."""
    return min(_MOST_READS, _READS_PER_CORE * cpu.usable_cpus())


def decode_plan(workers: int | None, *, gpu: bool, decode_in: str = "auto") -> DecodePlan:
    """Who decodes: one decoder on each core, in processes where these are faster.

    With a GPU the network takes none of the cores' time, and decoding decides how many crops a second there are.

    Args:
        workers: as the user asked; None: one on each core that this process may use.
        gpu: whether a GPU runs the model (``engine.providers.runs_on_gpu``).
        decode_in: ``threads``, ``processes`` or ``auto``.

    Raises:
        UsageError: processes were asked for where they cannot be.
    """
    count = workers or cpu.usable_cpus()
    if not processes_possible():
        if decode_in == "processes":
            raise UsageError("--decode-in processes does not work on this system. Give --decode-in threads.")
        return DecodePlan(count, False)
    return DecodePlan(count, decode_in == "processes" or (decode_in == "auto" and processes_pay(count, gpu=gpu)))


@dataclass(frozen=True)
class Settings:
    """How to run.

    Attributes:
        recipe: of the model.
        batch_size: crops per call of the engine.
        decode_workers, run_threads: threads of either kind.
        decode_processes: each decode thread hands its crops to its own process.
        decode_timeout_s: longest time from opening a file to its enhanced pixels.
        views: 1, or 8 for the mean over flips and quarter turns.
        thumbnail_px: longer side of the JPEG kept for the report; 0 for none.
        grey_px: crops of up to this many pixels are also passed on in grey; fewer where all crops in flight would take
            more than 512 MB together; 0 for none.
        follow_symlinks: whether linked files may be read.
        source: of inputs that are parts of files; None where there are none.
    """

    recipe: Recipe
    batch_size: int = 4
    decode_workers: int = 2
    run_threads: int = 2
    decode_processes: bool = False
    decode_timeout_s: float = 30.0
    views: int = 1
    thumbnail_px: int = 0
    grey_px: int = 0
    follow_symlinks: bool = False
    source: Source | None = None

    @property
    def buffers(self) -> int:
        """How many batches are in flight at once."""
        # One being filled and one waiting for each run thread, and enough that no decoder waits for a buffer.
        count = 2 * self.run_threads + 2 + self.decode_workers // self.batch_size
        lead = min(_LEAD_CROPS, _LEAD_BYTES // slot_bytes(self.recipe.size_px))
        return max(count, lead // self.batch_size)

    def preparation(self, root: bytes) -> Preparation:
        """The ``Preparation`` for crops below that folder."""
        grey_px = min(self.grey_px, _GREY_BYTES // (self.buffers * self.batch_size))
        if self.decode_processes and not grey_pays():
            grey_px = 0
        return Preparation(root, self.recipe, self.follow_symlinks, self.thumbnail_px, grey_px, self.source)
