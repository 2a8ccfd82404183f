"""Where the pipeline's answers go: the journal, the thumbnails, the crops kept in grey."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from glomedge.errors import StorageError
from glomedge.pipeline.inputs import Found
from glomedge.pipeline.prepare import Answer
from glomedge.pipeline.witnesses import Witnesses
from glomedge.results.grey_crops import GreyStore
from glomedge.results.journal import Journal
from glomedge.results.rows import Attachment
from glomedge.results.thumbnails import ThumbnailFile

_SYNC_EVERY_S = 1.0
MOST_UNREAD = 32
"""So many objects in a row that could not be read are a reason to ask whether it is away, or access has ended."""


class FolderSink:
    """Writes answers to the journal and thumbnails to their file, and keeps crops for heatmaps; counts ``answered``.

    Args:
        journal, thumbnails, grey_crops: where they go; None for what is not wanted.
        witnesses: where the inputs are objects in storage: many in a row that cannot be read end the run, unless one of
            these can be.

    Raises OutputError where the disk is full, StorageError where the storage is away.
    """

    def __init__(
        self,
        journal: Journal,
        thumbnails: ThumbnailFile | None,
        grey_crops: GreyStore | None = None,
        *,
        witnesses: Witnesses | None = None,
    ) -> None:
        self._journal = journal
        self._thumbnails = thumbnails
        self._grey_crops = grey_crops
        self._synced_s = time.monotonic()
        self._lock = threading.Lock()
        self._witnesses = witnesses
        self._unread = 0
        self.answered = 0

    def start(self, batch: Sequence[Found]) -> None:
        """Record the suspects, in case a decoder crashes this process."""
        self._journal.start([found.key for found in batch])

    def rows(self, answers: Sequence[Answer]) -> None:
        """Keep one batch."""
        self._journal.rows([(answer, self._kept(answer)) for answer in answers])
        with self._lock:
            self.answered += len(answers)
            if self._witnesses is not None:
                self._require_storage(answers, self._witnesses)

    def _require_storage(self, answers: Sequence[Answer], witnesses: Witnesses) -> None:
        """Their rows are in the journal, and are asked for again on resume."""
        for answer in answers:
            if answer.sha256 is not None:
                witnesses.saw(answer.found.relative)
            unread = answer.sha256 is None and answer.status not in ("error:vanished", "error:too_large")
            self._unread = self._unread + 1 if unread else 0
            if self._unread >= MOST_UNREAD:
                if witnesses.any_readable():  # so those cannot be, for good
                    self._unread = 0
                    continue
                raise StorageError(
                    "io",
                    f"{self._unread} inputs in a row could not be read from storage, the last one because: "
                    f"{answer.message} What was answered is kept; run again with --resume.",
                )

    def _kept(self, answer: Answer) -> Attachment | None:
        """Store what is kept of a crop in addition to its row; returns the location of the thumbnail."""
        attachment = None
        if self._thumbnails is not None and answer.probability is not None:
            attachment = self._thumbnails.append(answer.activation, answer.thumbnail or b"")
        if self._grey_crops is not None and answer.grey is not None and answer.probability is not None:
            if self._grey_crops.wanted(answer.probability):
                self._grey_crops.put(answer.found.key, answer.grey)
            answer.grey = None
        return attachment

    def sync(self) -> None:
        """``flush``, at most once a second: a power cut loses that much work, a kill none."""
        now_s = time.monotonic()
        if now_s - self._synced_s >= _SYNC_EVERY_S:
            self._synced_s = now_s
            self.flush()

    def flush(self) -> None:
        """Bring everything to the disk: the pictures before the rows that tell where they are.

        Rows that come in between, and what the system writes by itself, may still get there before their pictures; so
        a resumed run looks (``resume.forget_unpictured``). A run that says that it is done has them all.
        """
        if self._thumbnails is not None:
            self._thumbnails.sync()
        self._journal.sync()
