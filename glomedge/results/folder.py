"""The output folder of a run: its lock, its journal, and what may be done to what lies there already."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from glomedge.errors import OutputError
from glomedge.files.lock import OutputLock
from glomedge.pipeline.inputs import Found
from glomedge.pipeline.prepare import Answer
from glomedge.results.grey_crops import GreyStore
from glomedge.results.journal import Contents, Entry, Identity, Journal, read_journal
from glomedge.results.thumbnails import Spool

WORK_FOLDER = ".glomedge"
JOURNAL = "journal"
# Rows, journal and report of one crop take less than this; thumbnails come on top and are not foreseen.
_BYTES_PER_INPUT = 1500
_SPARE_BYTES = 4 << 20
_SYNC_EVERY_S = 1.0


class OutputFolder:
    """An output folder held by this run.

    Raises:
        OutputError: it cannot be made or written, there is no room, or another run holds it.
    """

    def __init__(self, folder: Path, inputs: int) -> None:
        self.folder = folder
        self.work = folder / WORK_FOLDER
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            free = os.statvfs(self.work)
        except OSError as error:
            raise OutputError(
                f"The output folder {folder} cannot be made: {error.strerror}. Choose another --output."
            ) from None
        self._lock = OutputLock(self.work / "lock")
        needed = _SPARE_BYTES + inputs * _BYTES_PER_INPUT
        if free.f_bavail * free.f_frsize < needed:
            self.close()
            raise OutputError(
                f"There is no room in {folder}: {inputs} inputs need at least {needed >> 20} MB and "
                f"{free.f_bavail * free.f_frsize >> 20} MB are free. Make room or choose another --output."
            )
        try:
            probe = self.work / "probe"
            probe.write_bytes(b"glomedge")
            probe.unlink()
        except OSError as error:
            self.close()
            raise OutputError(f"{folder} cannot be written: {error.strerror}. Choose another --output.") from None

    @property
    def journal_path(self) -> Path:
        """The journal's file."""
        return self.work / JOURNAL

    @property
    def spool_path(self) -> Path:
        """The thumbnails' file."""
        return self.work / "thumbnails"

    def close(self) -> None:
        """Let the next run in."""
        self._lock.close()


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


class FolderSink:
    """Takes answers into the journal, thumbnails into the spool, crops to draw on aside; ``answered`` counts them.

    Raises OutputError where the disk is full.
    """

    def __init__(self, journal: Journal, spool: Spool | None, kept: GreyStore | None = None) -> None:
        self._journal = journal
        self._spool = spool
        self._kept = kept
        self._synced_s = time.monotonic()
        self._lock = threading.Lock()
        self.answered = 0

    def start(self, batch: Sequence[Found]) -> None:
        """Note the suspects, should a decoder take this process down."""
        self._journal.start([found.key for found in batch])

    def rows(self, answers: Sequence[Answer]) -> None:
        """Keep one batch."""
        self._journal.rows([self._entry(answer) for answer in answers])
        with self._lock:
            self.answered += len(answers)

    def _entry(self, answer: Answer) -> Entry:
        attachment = None
        if self._spool is not None and answer.activation is not None:
            attachment = self._spool.append(answer.activation, answer.thumbnail or b"")
        if self._kept is not None and answer.grey is not None and answer.probability is not None:
            if self._kept.wanted(answer.probability):
                self._kept.put(answer.found.key, answer.grey)
            answer.grey = None
        return Entry(
            key=answer.found.key,
            status=answer.status,
            probability=answer.probability,
            sha256=answer.sha256,
            size_bytes=answer.size_bytes,
            mtime_ns=answer.mtime_ns,
            message=answer.message,
            disagreement=answer.disagreement,
            attachment=attachment,
        )

    def sync(self) -> None:
        """Put the journal on disk, at most once a second: a power cut costs that much work, a kill costs none."""
        now_s = time.monotonic()
        if now_s - self._synced_s >= _SYNC_EVERY_S:
            self._synced_s = now_s
            self._journal.sync()
