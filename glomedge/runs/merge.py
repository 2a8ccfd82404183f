"""``glomedge merge``: the shards of a run become the files that one process would have written.

Their journals are joined and published by the code of ``infer``. First it is checked that they are all the shards of
one run: each is named that is missing, doubled, unfinished, or of another run.
"""

from __future__ import annotations

import heapq
import os
import time
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np

from glomedge.errors import OutputError, UsageError
from glomedge.files.names import escape_name
from glomedge.files.writing import same_file
from glomedge.model.file import ModelFile, read_model_file
from glomedge.pipeline.inputs import Found, Scan
from glomedge.results.answer_table import AnswerTable
from glomedge.results.folder import JOURNAL, WORK_FOLDER, OutputFolder
from glomedge.results.journal import Identity, read_journal
from glomedge.results.published_rows import PublishedRows
from glomedge.results.thumbnails import JoinedThumbnails
from glomedge.runs import answer_files
from glomedge.runs.manifest import Manifest, case_finder, read_manifest
from glomedge.runs.options import Options
from glomedge.runs.outcome import OWNED, Outcome
from glomedge.runs.publish import Publication
from glomedge.runs.shard import list_sha256
from glomedge.runs.shard_files import ShardFiles, find_shards, require_one_run
from glomedge.runs.slides import Inputs, outline_parts
from glomedge.runs.stores import left_start


@dataclass(frozen=True)
class MergeOptions:
    """The options of ``glomedge merge``; all others are those of the shards.

    Attributes:
        shards: folders of shards, or folders with shards in them.
        output: folder of the results.
        overwrite: replace results that are there.
    """

    shards: tuple[Path, ...]
    output: Path
    overwrite: bool = False


def merge_shards(options: MergeOptions, *, stop: Callable[[], bool] = lambda: False) -> Outcome:
    """Publish the answers of all shards of one run.

    Args:
        stop: polled at every block of rows.

    Raises:
        UsageError: a folder is no shard, or the outlines have changed.
        OutputError: shards are missing, doubled, unfinished or of different runs; or the output cannot be written.
        StoppedError: ``stop`` returned true; nothing was written.
    """
    begin_s = time.perf_counter()
    shards = find_shards(options.shards)
    require_one_run(shards)
    _check_output(options, shards)
    merge = _Merge(shards, options.output, stop)
    output = OutputFolder(options.output, merge.count)
    try:
        return merge.publish(options, begin_s)
    finally:
        output.close()


def _check_output(options: MergeOptions, shards: Sequence[ShardFiles]) -> None:
    output, shown = options.output, escape_name(bytes(options.output))
    if any(same_file(output, shard.folder) for shard in shards) or (output / WORK_FOLDER / JOURNAL).exists():
        raise OutputError(
            f"{shown} holds a run of its own, which would be mixed with the merged one. Choose another -o."
        )
    there = [name for name in OWNED if os.path.lexists(output / name)]
    if there and not options.overwrite:
        raise OutputError(
            f"{shown} holds {', '.join(there)}. Choose another -o, or replace what is there with --overwrite."
        )


class _Merge:
    """What the shards say together."""

    def __init__(self, shards: Sequence[ShardFiles], output: Path, stop: Callable[[], bool]) -> None:
        first = shards[0]
        self._shards = shards
        self._stop = stop
        self._options = merged_options(first, output)
        self._model = _model(first, self._options.model)
        self._manifest = _manifest(first, self._options.inputs)
        names, self._shard_of = _joined_names(shards)
        if (sha256 := list_sha256(names)) != first.inputs_sha256:
            raise OutputError(
                f"The inputs of these shards are not those of their run: the SHA-256 of the list is {sha256}, and each "
                f"says {first.inputs_sha256}. Run the shards again with --overwrite."
            )
        self._inputs = _inputs(first, self._options, names, stop)
        if self._inputs.parts is not None:
            self._inputs.parts.model_mpp = self._model.spec.mpp
            answer_files.find_dicom(self._options, self._inputs.parts)  # whose notes the shards have
        self.count = len(names)

    def publish(self, options: MergeOptions, begin_s: float) -> Outcome:
        """Read every journal and write every file."""
        map_shape = self._model.spec.map_shape
        thumbnails = None
        if self._options.report or self._options.heatmaps is not None:
            thumbnails = JoinedThumbnails([shard.thumbnails_path for shard in self._shards], map_shape)
        answers, identity, provider = self._answers(thumbnails)
        finder = case_finder(self._options, self._inputs.found.inputs, self._manifest)
        rows = PublishedRows(
            answers=answers,
            threshold=identity.threshold,
            class_names=self._model.spec.class_names,
            provider=provider,
            review_band=self._options.band(identity.threshold),
            cases=finder,
            outline=None if self._inputs.parts is None else self._inputs.parts.facts,
        )
        outcome = Outcome(
            complete=True,
            inputs=self.count,
            answered=len(answers),
            predicted=0,
            provider=provider,
            notes=list(dict.fromkeys(note for shard in self._shards for note in shard.record["notes"])),
            biopsies_found=finder.as_json(),
        )
        also = self._said()
        publication = Publication(
            self._options, self._model, self._inputs, rows, thumbnails, None, None, self._stop, also,
            started=_started(self._shards),
        )  # fmt: skip
        publication.write(outcome, identity.batch_size, begin_s)
        return outcome

    def _answers(self, thumbnails: JoinedThumbnails | None) -> tuple[AnswerTable, Identity, str]:
        """All answers, what they depend on, and the provider. One journal is in memory at a time."""
        inputs = self._inputs.found.inputs
        answers, providers, identity = AnswerTable(inputs), dict[str, str](), self._shards[0].identity
        outlines = {} if self._inputs.parts is None else self._inputs.parts.outlines_sha256()
        shard_of = np.frombuffer(self._shard_of, np.uint16)
        for number, shard in enumerate(self._shards):
            places = np.flatnonzero(shard_of == number)
            contents = read_journal(shard.journal_path, [inputs[place] for place in places.tolist()])
            if contents.identity is None or contents.bad_bytes or not contents.complete or contents.answers.missing():
                raise OutputError(f"{shard.named} is not finished or damaged. {shard.advice}")
            if contents.identity.outlines != outlines:
                raise OutputError(
                    f"The outlines that {shard.named} read are not those that lie beside the slides now. Put them "
                    "back, or run the shards again with --overwrite."
                )
            if contents.provider is not None:
                providers.setdefault(contents.provider, shard.named)
            start_bytes = 0
            if thumbnails is not None:
                _require_pictures(shard, contents.answers, thumbnails.sizes_bytes[number])
                start_bytes = thumbnails.starts_bytes[number]
            answers.take(contents.answers, places, start_bytes)
        if len(providers) > 1:
            said = ", ".join(f"{provider} ({named})" for provider, named in providers.items())
            raise OutputError(
                f"The shards ran on different providers: {said}. Run those of one of them again with --overwrite and "
                "the --provider of the others."
            )
        return answers, identity, next(iter(providers), "none")

    def _said(self) -> dict[str, Any]:
        """What ``run.json`` says in place of what it would say of a process that classified."""
        ran = next((shard.record for shard in self._shards if shard.record["engine"] is not None), {})
        return {
            "engine": ran.get("engine"),
            "decoding": ran.get("decoding"),
            "inputs_sha256": self._shards[0].inputs_sha256,
            "shards": [
                {
                    "shard": str(shard.shard),
                    "rows": shard.record["rows"],
                    "started_utc": shard.record["started_utc"],
                    "times": shard.record["times"],
                    "machine": shard.record["machine"],
                }
                for shard in self._shards
            ],
        }


def _started(shards: Sequence[ShardFiles]) -> datetime | None:
    """When the first of them began, which answers in DICOM have in them; None where none of them left that."""
    try:
        times = [left_start(shard.folder / WORK_FOLDER) for shard in shards]
    except OSError as error:
        shown = escape_name(os.fsencode(error.filename))
        raise OutputError(f"{shown} cannot be read: {error.strerror}. Make it readable, then merge again.") from None
    return min(filter(None, times), default=None)


def _require_pictures(shard: ShardFiles, answers: AnswerTable, size_bytes: int) -> None:
    """Raise OutputError where pictures of the shard are missing: the report would have fewer, and not say so."""
    end_bytes = answers.attachments_end_bytes()
    if size_bytes < end_bytes:
        raise OutputError(
            f"The pictures of {shard.named} are missing: {escape_name(bytes(shard.thumbnails_path))} has {size_bytes} "
            f"bytes, and its journal tells of {end_bytes}. Put that file back, or run the shard again with --resume."
        )


def merged_options(shard: ShardFiles, output: Path) -> Options:
    """The options of one process that had answered all; heatmaps lie in the merged folder, if they did in the other."""
    options, inside = shard.options, None
    if options.heatmaps is not None:
        inside = output / "heatmaps" if options.heatmaps == shard.run_output / "heatmaps" else options.heatmaps
    return replace(options, output=output, heatmaps=inside, shard=None)


def _model(shard: ShardFiles, path: Path) -> ModelFile:
    model = read_model_file(path)
    if model.sha256 != shard.identity.model_sha256:
        raise OutputError(
            f"{escape_name(bytes(path))} is not the model of the shards: its SHA-256 is {model.sha256}, and theirs is "
            f"{shard.identity.model_sha256}. Put that model back."
        )
    return model


def _manifest(shard: ShardFiles, path: Path | None) -> Manifest | None:
    """The manifest again, which gives the biopsies. Raises OutputError where it is not the one of the shards."""
    if path is None:
        return None
    try:
        manifest = read_manifest(path, shard.options.place)
    except UsageError as error:
        raise OutputError(f"{error} Put the one back that the shards read.") from None
    if manifest.sha256 != shard.described.get("manifest_sha256"):
        shown = escape_name(bytes(path))
        raise OutputError(f"The manifest {shown} is not the one that the shards read. Put that one back.")
    return manifest


def _joined_names(shards: Sequence[ShardFiles]) -> tuple[list[bytes], array[int]]:
    """The names of all inputs, sorted, and the place in ``shards`` of the shard that has each. Raises OutputError."""
    names, shard_of = list[bytes](), array("H")
    last = None
    for name, place in heapq.merge(*(zip(shard.names(), repeat(place)) for place, shard in enumerate(shards))):
        if name == last:
            raise OutputError(
                f"{escape_name(name)} is an input of {shards[shard_of[-1]].named} and of {shards[place].named}. Run "
                "both again with --overwrite."
            )
        names.append(name)
        shard_of.append(place)
        last = name
    return names, shard_of


def _inputs(shard: ShardFiles, options: Options, names: list[bytes], stop: Callable[[], bool]) -> Inputs:
    """The inputs of the run, as the shards have found them: the folder is not searched, the outlines are read again."""
    if not shard.slides:
        return Inputs(Scan(shard.root, [Found(name) for name in names]))
    slides = set(shard.slides)

    def crops() -> Iterator[bytes]:
        # A crop's name may have the mark of a part in it, but what is before the mark is then no slide.
        return (name for name in names if name.rpartition(b"#")[0] not in slides)

    found = Scan(shard.root, [Found(name) for name in sorted((*slides, *crops()))])
    parts = outline_parts(found, options, stop)
    if list_sha256(each.relative for each in found.inputs) != shard.inputs_sha256:
        raise UsageError(
            f"The outlines or slides in {escape_name(shard.root)} are not those that the shards read. Put them back, "
            "or run the shards again with --overwrite."
        )
    return Inputs(found, parts)
