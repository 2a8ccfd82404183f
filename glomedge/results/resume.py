"""Whether a run starts or resumes: what remains to be done according to the journal found."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import compress, islice
from pathlib import Path

from glomedge.cases.text import counted, some
from glomedge.errors import OutputError, StorageError
from glomedge.files.storage import Storage, storage_at
from glomedge.pipeline.inputs import Found
from glomedge.pipeline.prepare import Source
from glomedge.results.answer_table import AnswerTable, Fingerprint
from glomedge.results.journal import Contents, Identity, read_journal, read_on
from glomedge.system.stopping import unless_stopped

_MAX_REASON_CHARACTERS = 240
_ASKED_AT_ONCE, _ASKERS = 1024, 32


@dataclass
class Plan:
    """What a run does with the journal it found.

    Attributes:
        identity: of this run; on resume with the batch size of the first.
        contents: of the journal; empty for a fresh run.
        notes: what was found and done, one sentence each.
    """

    identity: Identity
    contents: Contents
    notes: list[str]


def plan(
    path: Path,
    identity: Identity,
    inputs: Sequence[Found] = (),
    *,
    resume: bool,
    overwrite: bool,
    results: Sequence[str] = (),
) -> Plan:
    """Decide between starting and resuming.

    Args:
        path: the journal.
        identity: of this run.
        inputs: of this run, sorted.
        resume: continue an unfinished run.
        overwrite: discard it.
        results: names of the files that the run will replace in the output folder.

    Raises:
        OutputError: an unfinished run is there and neither ``resume`` nor ``overwrite`` is set; or it is to be
            resumed with another model, recipe, threshold ...; or the journal's run cannot be identified; or
            result files lie there without a journal, so they are not glomedge's to replace.
    """
    fresh = Contents(answers=AnswerTable(inputs))
    if overwrite:
        return Plan(identity, fresh, [])
    contents = read_journal(path, inputs)
    answered, folder = len(contents.answers), path.parent.parent
    # A run killed at its very first write leaves less than one line: nothing is lost.
    if contents.identity is None and contents.damaged:
        raise OutputError(
            f"The journal of an earlier run in {folder} is damaged or of another version of glomedge: its first line "
            f"cannot be read, so none of its {contents.bad_bytes} bytes can be used. Choose another --output, or start "
            "over with --overwrite."
        )
    foreign = [name for name in results if os.path.lexists(folder / name)]
    if contents.identity is None and foreign:
        raise OutputError(
            f"{folder} holds {', '.join(foreign)}, and no journal that says that glomedge wrote "
            f"{'it' if len(foreign) == 1 else 'them'}. Choose another --output, or replace "
            f"{'it' if len(foreign) == 1 else 'them'} with --overwrite."
        )
    if not resume:
        if not contents.complete and (answered or contents.damaged):
            raise OutputError(
                f"{folder} contains an unfinished run with {counted(answered, 'result')}. Run again with --resume to "
                "continue it, or with --overwrite to start over."
            )
        return Plan(identity, fresh, [])
    if contents.identity is None:
        return Plan(identity, fresh, ["There was no run to resume; a new run was started."])
    differences = contents.identity.differences(identity)
    if differences:
        raise OutputError(
            f"The run in {folder} cannot be resumed with other settings: {'; '.join(differences)}. "
            "Use the same settings, another --output, or start over with --overwrite."
        )
    return Plan(replace(contents.identity, outlines=identity.outlines), contents, _resumed(contents))


def forget_unpictured(plan_: Plan, thumbnails: Path) -> None:
    """Classify again what the journal has and the file of pictures has not: a power cut can shorten one of the two.

    Args:
        plan_: of the run; rows are taken out of its contents, and a note says how many.
        thumbnails: the file; missing counts as empty.

    Raises:
        OutputError: its size cannot be found out.
    """
    try:
        size_bytes = thumbnails.stat().st_size
    except FileNotFoundError:
        size_bytes = 0
    except OSError as error:
        raise OutputError(f"{thumbnails} cannot be read: {error.strerror}. Make it readable.") from None
    lost = plan_.contents.answers.drop_unpictured(size_bytes)
    if lost:
        plan_.notes.append(
            f"The pictures of {counted(lost, 'result')} were lost, as by a power cut: these crops are classified again."
        )


def require_outlines(plan_: Plan, folder: Path, problems: Mapping[str, str]) -> None:
    """Refuse to resume a run whose slides do not have the outlines that it began with.

    Args:
        plan_: of the run; nothing is asked of one that starts.
        folder: of its output.
        problems: slides that cannot be used now, by their escaped paths, with the reasons.

    Raises:
        OutputError: a slide is gone, cannot be used, or has another file of outlines.
    """
    if plan_.contents.identity is None:
        return
    changed = plan_.contents.identity.other_outlines(plan_.identity)
    failed = [slide for slide in changed if slide in problems]
    gone = [slide for slide in changed if slide not in problems and slide not in plan_.identity.outlines]
    begin = f"The run in {folder} cannot be resumed"
    if gone:
        # A TIFF or a DICOM file without outlines is no slide.
        shared = any(slide.lower().endswith((".tif", ".tiff", ".dcm")) for slide in gone)
        one = len(gone) == 1
        raise OutputError(
            f"{begin}: {some(gone, 3)} {'or its outlines ' if shared else ''}{'is' if one else 'are'} no longer there. "
            f"Put {'it' if one else 'them'} back, then run again with --resume, or use another --output."
        )
    if failed:
        also = f" Nor can {counted(len(failed) - 1, 'other slide')}."
        reason = problems[failed[0]]
        reason = reason if len(reason) <= _MAX_REASON_CHARACTERS else reason[:_MAX_REASON_CHARACTERS] + " ..."
        raise OutputError(
            f"{begin}, because {some(failed[:1])} cannot be used now: {reason}{also if len(failed) > 1 else ''} Mend "
            "it, then run again with --resume, or use another --output."
        )
    if changed:
        raise OutputError(
            f"{begin}, because the outlines of {some(changed, 3)} are not those that it began with. Put the file of "
            "outlines back, use another --output, or start over with --overwrite."
        )


def _resumed(contents: Contents) -> list[str]:
    """What was found of the run that is resumed."""
    answered = len(contents.answers)
    notes = [f"Resumed: {counted(answered, 'result was', 'results were')} already there."]
    if contents.complete:
        notes = [
            f"The earlier run had finished, with {counted(answered, 'result')}: only new or modified files are "
            "classified, and the result files are written again."
        ]
    if contents.damaged:
        notes.append(
            f"The journal was damaged: its {_last(contents.bad_bytes, 'was', 'were')} discarded, and the crops in that "
            "part are classified again."
        )
    elif contents.bad_bytes:
        notes.append(
            f"The {_last(contents.bad_bytes, 'was an incomplete line', 'were an incomplete line')} of the journal, and "
            "discarded."
        )
    return notes


def unanswered(
    root: bytes, contents: Contents, stop: Callable[[], bool] = lambda: False, source: Source | None = None
) -> tuple[list[Found], list[Found]]:
    """What remains: inputs without an answer or modified since, and those whose error may have been transient.

    The two are batched separately, so that the batches of the first are those of an uninterrupted run.

    Args:
        root: folder that the inputs are relative to.
        contents: of the journal.
        stop: polled.
        source: of inputs that are parts of files, which lie in it under names of their own or in several files.

    Raises:
        StoppedError: ``stop`` returned true; it is polled at every file that is asked for.
        StorageError: the objects cannot be asked for.
    """
    new, again = list[Found](), list[Found]()
    storage = storage_at(root)
    open_ = unless_stopped(compress(contents.answers.inputs, ~contents.answers.settled()), stop)
    for part in iter(lambda: list(islice(open_, 1 if storage is None else _ASKED_AT_ONCE)), []):
        befores = [contents.answers.fingerprint(found.relative) for found in part]
        changed = changed_since(root, part, befores, source)
        for found, before, is_changed in zip(part, befores, changed, strict=True):
            if before is None or is_changed:
                new.append(found)
            elif before.may_pass:
                again.append(found)
    return new, again


def changed_since(
    root: bytes, part: Sequence[Found], befores: Sequence[Fingerprint | None], source: Source | None = None
) -> list[bool]:
    """Of each of some inputs, whether its file has changed since it was answered; one that is gone keeps its answer.

    Raises:
        StorageError: the objects cannot be asked for.
    """
    storage = storage_at(root)
    if storage is None:
        return [_changed(root, found, before, source) for found, before in zip(part, befores, strict=True)]
    return _changed_in(storage, part, befores)


def _changed_in(storage: Storage, part: Sequence[Found], befores: Sequence[Fingerprint | None]) -> list[bool]:
    """``_changed`` of objects, many at once: each answer is a round trip away. Raises StorageError."""

    def changed(found: Found, before: Fingerprint | None) -> bool:
        if before is None or before.mtime_ns is None:
            return False
        try:
            stored = storage.stat(found.relative)
        except StorageError as error:
            if error.code == "vanished":
                return False
            raise
        return before.differs(stored.size_bytes, stored.version_ns)

    with ThreadPoolExecutor(_ASKERS) as pool:
        return list(pool.map(changed, part, befores))


def _changed(root: bytes, found: Found, before: Fingerprint | None, source: Source | None) -> bool:
    """Whether a file has changed since it was answered; one that is gone keeps its answer."""
    if before is None or before.mtime_ns is None:
        return False
    if found.part is not None and source is not None:
        _, size_bytes, mtime_ns = source.stamp(found)
        return size_bytes is not None and mtime_ns is not None and before.differs(size_bytes, mtime_ns)
    try:
        status = os.stat(os.path.join(root, found.file))  # noqa: PTH116, PTH118 (bytes)
    except OSError:
        return False
    return before.differs(status.st_size, status.st_mtime_ns)


def publishable(path: Path, inputs: Sequence[Found], contents: Contents) -> Contents:
    """The journal of a run that finished: what was written since ``contents`` is read back from disk.

    A folder that can now be listed and a slide that now has outlines are no longer inputs, and their rows of an earlier
    run are omitted.

    Raises:
        OutputError: an input has no answer, or part of the journal is unreadable. An incomplete table must never be
            published as complete.
    """
    contents = read_on(path, contents)
    contents.answers.drop_replaced()
    missing = contents.answers.missing()
    if missing or contents.bad_bytes:
        lost = []
        if missing:
            lost.append(f"{missing} of {counted(len(inputs), 'input')} {'has' if missing == 1 else 'have'} no result")
        if contents.bad_bytes:
            lost.append(f"its {_last(contents.bad_bytes, '', '')}cannot be read")
        raise OutputError(
            f"The journal {path} does not contain everything that was written to it: {', and '.join(lost)}. No result "
            "file was written. Check the disk; then run again with --resume, which classifies the missing inputs."
        )
    return contents


def _last(count: int, singular: str, plural: str) -> str:
    """``last byte`` or ``last N bytes`` of the journal, and a verb."""
    return f"last byte {singular}" if count == 1 else f"last {count} bytes {plural}"
