"""Whether a run starts or goes on: what the journal it found says is left to do."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from glomedge.errors import OutputError
from glomedge.pipeline.inputs import Found
from glomedge.results.journal import Contents, Identity, read_journal


@dataclass
class Plan:
    """What a run does with the journal it found.

    Attributes:
        identity: of this run; on resume with the batch size of the first.
        contents: of the journal; empty for a fresh run.
        notes: what was found and done, in sentences.
    """

    identity: Identity
    contents: Contents
    notes: list[str]


def plan(path: Path, identity: Identity, *, resume: bool, overwrite: bool) -> Plan:
    """Decide between starting and going on.

    Raises:
        OutputError: an unfinished run is there and neither ``resume`` nor ``overwrite`` was asked for; or it is to be
            resumed with another model, recipe, threshold ...; or there are answers of a run that cannot be told.
    """
    contents = read_journal(path)
    if overwrite:
        return Plan(identity, Contents(), [])
    answered, folder = len(contents.where), path.parent.parent
    # A run killed at its very first write leaves less than a line: nothing that anyone could miss.
    if contents.identity is None and contents.damaged:
        raise OutputError(
            f"The journal of an earlier run in {folder} is damaged or of another version of glomedge: its first line "
            f"cannot be read, so none of its {contents.bad_bytes} bytes can be used. Choose another --output, or start "
            "over with --overwrite."
        )
    if not resume:
        if not contents.complete and (answered or contents.damaged):
            raise OutputError(
                f"An unfinished run with {answered} answers lies in {folder}. Go on with it: --resume. "
                "Or start over: --overwrite."
            )
        return Plan(identity, Contents(), [])
    if contents.identity is None:
        return Plan(identity, Contents(), ["There was no run to resume; started a new one."])
    differences = contents.identity.differences(identity)
    if differences:
        raise OutputError(
            f"The run in {folder} cannot be resumed with other settings: {'; '.join(differences)}. "
            "Use the same settings, another --output, or start over with --overwrite."
        )
    notes = [f"Resumed: {answered} answers were there already."]
    if contents.damaged:
        notes.append(
            f"The journal was damaged: its last {contents.bad_bytes} bytes were dropped, and what they held is "
            "predicted on anew."
        )
    elif contents.bad_bytes:
        notes.append(f"The last {contents.bad_bytes} bytes of the journal were torn and were dropped.")
    return Plan(contents.identity, contents, notes)


def unanswered(root: bytes, inputs: Iterable[Found], contents: Contents) -> tuple[list[Found], list[Found]]:
    """What is left to do: inputs without an answer or changed since, and those whose fault may have passed.

    The two are batched apart, so that the batches of the first are the ones of an uninterrupted run.
    """
    new, again = [], []
    for found in inputs:
        key = found.key
        if key not in contents.where or _changed(root, found, contents.stamps[key]):
            new.append(found)
        elif key in contents.retry:
            again.append(found)
    return new, again


def _changed(root: bytes, found: Found, stamp: tuple[int | None, int | None]) -> bool:
    """Whether a file is another one than when it was answered; one that is gone keeps its answer.

    A file that was not read to its end (too large, the decoder hung) has a time and no size: the time decides.
    """
    size_bytes, mtime_ns = stamp
    if mtime_ns is None:
        return False
    try:
        status = os.stat(os.path.join(root, found.relative))  # noqa: PTH116, PTH118 (bytes)
    except OSError:
        return False
    return status.st_mtime_ns != mtime_ns or size_bytes not in (None, status.st_size)


def publishable(path: Path, inputs: Sequence[Found]) -> Contents:
    """What the journal of a run that came to its end says, read back from disk.

    A folder that can be listed by now is no input any more, and its row of an earlier run is left out.

    Raises:
        OutputError: an input has no answer, or there is more than can be read. A shorter table must never pass for the
            whole one.
    """
    contents = read_journal(path)
    keys = {found.key for found in inputs}
    for key in [key for key in contents.where if key.endswith("/") and key not in keys]:
        del contents.where[key]
    missing = len(keys - contents.where.keys())
    if missing or contents.bad_bytes:
        raise OutputError(
            f"The journal {path} does not hold all that was written to it: {missing} of {len(keys)} inputs have no "
            f"answer, its last {contents.bad_bytes} bytes cannot be read. No file was made. Check the disk; then run "
            "again with --resume, which predicts on what is missing."
        )
    return contents
