"""Where the pipeline's answers go: the journal, the thumbnails, the crops kept in grey."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from glomedge.pipeline.inputs import Found
from glomedge.pipeline.prepare import Answer
from glomedge.results.grey_crops import GreyStore
from glomedge.results.journal import Entry, Journal
from glomedge.results.thumbnails import Spool

_SYNC_EVERY_S = 1.0


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
