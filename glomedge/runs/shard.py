"""``glomedge infer --shard 3/7``: one share of a run, answered by a process of its own.

Every process finds all inputs, and takes those whose key has its number: no two take the same one, and none is left.
What a shard leaves is for ``glomedge merge``: its journal, its pictures, and two files beside them that say which share
of which run they are. It has no tables, so that the percentage of half a biopsy can never be taken for a biopsy's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from glomedge.about import __version__
from glomedge.cases.names import UNKNOWN_CASE, CaseFinder
from glomedge.errors import OutputError
from glomedge.files.names import escape_name
from glomedge.files.writing import Staged, write_atomically
from glomedge.pipeline.inputs import Found
from glomedge.results.folder import WORK_FOLDER
from glomedge.results.published_rows import PublishedRows
from glomedge.runs.manifest import case_finder
from glomedge.runs.options import Options
from glomedge.runs.outcome import OWNED, Outcome
from glomedge.runs.publish import Collected
from glomedge.runs.record import arguments
from glomedge.runs.shard_of import Shard
from glomedge.runs.slides import Inputs

SCHEMA = 1
SHARD_FILE, INPUTS_FILE = "shard.json", "inputs"
"""In the work folder of a shard: what it is of, and the names of its inputs, each followed by NUL."""

_AT_ONCE = 4096


def list_sha256(names: Iterable[bytes]) -> str:
    """SHA-256 of a list of inputs: their sorted relative paths, each followed by NUL."""
    digest = hashlib.sha256()
    for name in names:
        digest.update(name)
        digest.update(b"\0")
    return digest.hexdigest()


@dataclass(frozen=True)
class Share:
    """One shard of a run.

    Attributes:
        shard: which one.
        whole: every input of the run.
        mine: those of this shard.
        finder: of the biopsies, having seen the names of all.
        sha256: of the whole list (``list_sha256``).
    """

    shard: Shard
    whole: Inputs
    mine: Inputs
    finder: CaseFinder
    sha256: str

    @classmethod
    def of(cls, options: Options, inputs: Inputs) -> Share:
        """The share of ``options.shard``. Raises UsageError where the case pattern fits no name."""
        shard, found = options.shard, inputs.found.inputs
        assert shard is not None
        finder = case_finder(options, found, inputs.manifest)
        mine = replace(inputs.found, inputs=_chosen(shard, found, finder))
        return cls(shard, inputs, Inputs(mine, inputs.parts), finder, list_sha256(each.relative for each in found))

    def write(self, work: Path, options: Options) -> None:
        """Leave beside the journal what the merge asks for.

        Args:
            work: folder of the journal.
            options: of the run.

        Raises:
            OutputError: a file cannot be written.
        """
        found, parts = self.whole.found, self.whole.parts
        described = self.as_json() | {
            "schema": SCHEMA,
            "glomedge": __version__,
            "working_folder": escape_name(bytes(Path.cwd())),
            "arguments": arguments(options),
            "root": escape_name(found.root),
            "manifest_sha256": None if self.whole.manifest is None else self.whole.manifest.sha256,
            "slides": [] if parts is None else [escape_name(slide.relative) for slide in parts.slides],
        }
        names = b"".join(each.relative + b"\0" for each in self.mine.found.inputs)
        try:
            write_atomically(work / INPUTS_FILE, names)
            write_atomically(work / SHARD_FILE, json.dumps(described, indent=2).encode("utf-8"))
        except OSError as error:
            raise OutputError(f"{work} cannot be written: {error.strerror}. Choose another --output.") from None

    def as_json(self) -> dict[str, Any]:
        """Which share of which list of inputs."""
        return {
            "shard": asdict(self.shard),
            "inputs_sha256": self.sha256,
            "inputs_of_all_shards": len(self.whole.found.inputs),
            "inputs": len(self.mine.found.inputs),
        }

    def publish(self, outcome: Outcome, rows: PublishedRows, options: Options, record: dict[str, Any]) -> None:
        """Write ``run.json``, which says that this is one share; no tables.

        Args:
            outcome: gets its counts, its record and its files.
            rows: of this shard.
            options: of the run.
            record: for ``run.json`` (``runs.record.record``), without counts.

        Raises:
            OutputError: it cannot be written.
        """
        collected = Collected(replace(options, report=False), None)
        for block in rows.blocks():
            collected.add(block)
        outcome.counts, outcome.errors = dict(collected.counts), dict(sorted(collected.errors.items()))
        outcome.record = record | {"counts": outcome.counts, "errors": outcome.errors} | self.as_json()
        staged = Staged(options.output, options.output / WORK_FOLDER, OWNED)
        try:
            with staged.open("run.json") as handle:
                handle.write(json.dumps(outcome.record, indent=2, ensure_ascii=False).encode("utf-8") + b"\n")
            outcome.files = staged.commit()
        finally:
            staged.discard()


def _chosen(shard: Shard, found: Sequence[Found], finder: CaseFinder) -> list[Found]:
    """Those of the shard, in their order: by the path of their file, or by their biopsy where one is known."""
    if shard.by == "path":
        return [each for each in found if shard.takes(each.file)]
    chosen = []
    for begin in range(0, len(found), _AT_ONCE):
        some = found[begin : begin + _AT_ONCE]
        for each, name in zip(some, finder.cases_of([one.key for one in some]), strict=True):
            # Crops without a biopsy's name are no biopsy that must be kept whole.
            key = each.file if name.case == UNKNOWN_CASE else name.case.encode("utf-8", "surrogateescape")
            if shard.takes(key):
                chosen.append(each)
    return chosen
