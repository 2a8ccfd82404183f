"""The options of ``glomedge infer-ray``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from glomedge.errors import UsageError
from glomedge.runs.options import Options

MOST_WORKERS = 10_000


@dataclass(frozen=True)
class CohortOptions:
    """The options of a run on Ray.

    Attributes:
        run: those that it shares with ``glomedge infer``: ``inputs`` is the manifest, ``folder`` what its paths are
            relative to, ``workers`` the decoders of each worker; ``output`` is not used.
        output: folder or URI of the results.
        workers: engines at the same time; None: as many as the cluster has room for.
        cpus_per_worker: CPUs of each; None: 2, or all where the machine has fewer.
        part_rows: inputs a part; None: by their number.
    """

    run: Options
    output: str
    workers: int | None = None
    cpus_per_worker: int | None = None
    part_rows: int | None = None

    @property
    def folder(self) -> Path | None:
        """The folder of the results; None where they go to a URI."""
        return None if "://" in self.output else Path(self.output)

    def checked(self) -> CohortOptions:
        """With the provider named, before any work begins.

        Nodes with and without a GPU would answer ``auto`` differently, so it stands for the CPU here.

        Raises:
            UsageError, MissingExtraError: an option is out of its range, or a package is missing.
        """
        for option, number in (
            ("--workers", self.workers),
            ("--cpus-per-worker", self.cpus_per_worker),
            ("--part-rows", self.part_rows),
        ):
            if number is not None and number < 1:
                raise UsageError(f"{option} must be at least 1, not {number}.")
        if self.workers is not None and self.workers > MOST_WORKERS:
            raise UsageError(f"--workers must be 1 to {MOST_WORKERS}, not {self.workers}.")
        engine = self.run.engine
        if engine.provider == "auto":
            engine = replace(engine, provider="cpu")
        if engine.allow_fallback:
            raise UsageError("--allow-fallback would let nodes answer differently. Name the provider that all have.")
        run = replace(self.run, engine=engine, formats=("parquet",))
        run.check()
        return replace(self, run=run)
