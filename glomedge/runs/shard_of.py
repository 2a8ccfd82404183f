"""Which share of a run's inputs one process answers: ``--shard 3/7``."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from glomedge.errors import UsageError

BY_CHOICES = ("path", "case")
MOST_SHARDS = 10_000


@dataclass(frozen=True)
class Shard:
    """One share of a run.

    Attributes:
        number: from 1.
        of: how many there are.
        by: ``path``: inputs are dealt by their path; ``case``: all crops of a biopsy go to one shard.
    """

    number: int
    of: int
    by: str = "path"

    @classmethod
    def parse(cls, text: str, by: str = "path") -> Shard:
        """``3/7``. Raises UsageError."""
        match = re.fullmatch(r"([0-9]{1,9})/([0-9]{1,9})", text.strip())
        if match is None or not 1 <= int(match[1]) <= int(match[2]) <= MOST_SHARDS:
            raise UsageError(
                f"--shard {text!r} is not one share of several. Write it like 3/7, from 1/7 to 7/7, at most "
                f"{MOST_SHARDS} in all. In a Slurm array: sbatch --array=1-7"
            )
        if by not in BY_CHOICES:
            raise UsageError(f"--by {by!r} is unknown: use {' or '.join(BY_CHOICES)}.")
        return cls(int(match[1]), int(match[2]), by)

    def __str__(self) -> str:
        return f"{self.number}/{self.of} by {self.by}"

    @property
    def folder_name(self) -> str:
        """Name of its folder in ``--output``; sorted by number."""
        return f"shard-{self.number:0{len(str(self.of))}d}-of-{self.of}"

    def folder(self, output: Path) -> Path:
        """Its folder."""
        return output / self.folder_name

    def takes(self, key: bytes) -> bool:
        """Whether inputs of that key are its: the first 8 bytes of the key's SHA-256, big-endian, modulo ``of``."""
        return int.from_bytes(hashlib.sha256(key).digest()[:8], "big") % self.of == self.number - 1
