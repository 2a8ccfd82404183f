"""Where the pipeline's answers go: the journal, the thumbnails, the crops kept in grey."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

from glomedge.pipeline.inputs import Found
from glomedge.pipeline.prepare import Answer
from glomedge.results.grey_crops import GreyStore
from glomedge.results.journal import Journal
from glomedge.results.rows import Attachment
from glomedge.results.thumbnails import ThumbnailFile

_SYNC_EVERY_S = 1.0


class FolderSink:
    """Writes answers to the journal and thumbnails to their file, and keeps crops for heatmaps; counts ``answered``.

    Raises OutputError where the disk is full.
    """

    def __init__(self, journal: Journal, thumbnails: ThumbnailFile | None, grey_crops: GreyStore | None = None) -> None:
        self._journal = journal
        self._thumbnails = thumbnails
        self._grey_crops = grey_crops
        self._synced_s = time.monotonic()
        self._lock = threading.Lock()
        self.answered = 0

    def start(self, batch: Sequence[Found]) -> None:
        """Record the suspects, in case a decoder crashes this process."""
        self._journal.start([found.key for found in batch])

    def rows(self, answers: Sequence[Answer]) -> None:
        """Keep one batch."""
        self._journal.rows([(answer, self._kept(answer)) for answer in answers])
        with self._lock:
            self.answered += len(answers)

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
        """Flush the journal to disk, at most once a second: a power cut loses that much work, a kill none."""
        now_s = time.monotonic()
        if now_s - self._synced_s >= _SYNC_EVERY_S:
            self._synced_s = now_s
            self._journal.sync()
