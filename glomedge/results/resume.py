"""Whether a run starts or goes on: what the journal it found says is left to do."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from glomedge.errors import OutputError
from glomedge.pipeline.inputs import Found
from glomedge.results.answer_table import AnswerTable, Fingerprint
from glomedge.results.journal import Contents, Identity, read_journal, read_on


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


def plan(path: Path, identity: Identity, inputs: Sequence[Found] = (), *, resume: bool, overwrite: bool) -> Plan:
    """Decide between starting and going on.

    Args:
        path: the journal.
        identity: of this run.
        inputs: of this run, sorted.
        resume: go on with an unfinished run.
        overwrite: drop it.

    Raises:
        OutputError: an unfinished run is there and neither ``resume`` nor ``overwrite`` was asked for; or it is to be
            resumed with another model, recipe, threshold ...; or there are answers of a run that cannot be told.
    """
    fresh = Contents(answers=AnswerTable(inputs))
    if overwrite:
        return Plan(identity, fresh, [])
    contents = read_journal(path, inputs)
    answered, folder = len(contents.answers), path.parent.parent
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
        return Plan(identity, fresh, [])
    if contents.identity is None:
        return Plan(identity, fresh, ["There was no run to resume; started a new one."])
    differences = contents.identity.differences(identity)
    if differences:
        raise OutputError(
            f"The run in {folder} cannot be resumed with other settings: {'; '.join(differences)}. "
            "Use the same settings, another --output, or start over with --overwrite."
        )
    notes = [f"Resumed: {answered} answers were there already."]
    if contents.complete:
        notes = [
            f"The earlier run had finished, with {answered} answers: only new or modified files are classified, and "
            "the result files are written again."
        ]
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
        before = contents.answers.fingerprint(found.relative)
        if before is None or _changed(root, found, before):
            new.append(found)
        elif before.may_pass:
            again.append(found)
    return new, again


def _changed(root: bytes, found: Found, before: Fingerprint) -> bool:
    """Whether a file is another one than when it was answered; one that is gone keeps its answer."""
    if before.mtime_ns is None:
        return False
    try:
        status = os.stat(os.path.join(root, found.relative))  # noqa: PTH116, PTH118 (bytes)
    except OSError:
        return False
    return before.differs(status.st_size, status.st_mtime_ns)


def publishable(path: Path, inputs: Sequence[Found], contents: Contents) -> Contents:
    """What the journal of a run that came to its end says: what was written since ``contents`` is read back from disk.

    A folder that can be listed by now is no input any more, and its row of an earlier run is left out.

    Raises:
        OutputError: an input has no answer, or there is more than can be read. A shorter table must never pass for the
            whole one.
    """
    contents = read_on(path, contents)
    contents.answers.drop_folders()
    missing = contents.answers.missing()
    if missing or contents.bad_bytes:
        raise OutputError(
            f"The journal {path} does not hold all that was written to it: {missing} of {len(inputs)} inputs have no "
            f"answer, its last {contents.bad_bytes} bytes cannot be read. No file was made. Check the disk; then run "
            "again with --resume, which predicts on what is missing."
        )
    return contents
