"""The files that a run fills: the journal, and what the report and the heatmaps need later."""

from __future__ import annotations

import contextlib
from datetime import datetime
from pathlib import Path
from types import TracebackType

from glomedge.errors import OutputError
from glomedge.files.writing import write_atomically
from glomedge.pipeline.witnesses import Witnesses, evenly
from glomedge.results.folder import OutputFolder
from glomedge.results.grey_crops import GreyStore
from glomedge.results.journal import Journal
from glomedge.results.resume import Plan
from glomedge.results.sink import FolderSink
from glomedge.results.thumbnails import ThumbnailFile
from glomedge.runs.options import DICOM_FORMATS, Options

_STARTED = "started"


class RunStores:
    """Opened together, closed together; a context manager.

    Args:
        options: whether there will be a report or heatmaps.
        output: folder of the files.
        plan: whether the run starts or resumes.
        threshold: of the run; it decides which crops will have a heatmap.
        map_shape: of one crop's activation map; None for a model without.

    Attributes:
        journal: the answers.
        thumbnails: pictures and maps; None if neither report nor heatmaps are wanted.
        grey_crops: the crops that heatmaps are drawn over; None if none are wanted.
        started: when the run began, in local time; a resumed run began when the first part of it did.

    Raises:
        OutputError: one of them cannot be written.
    """

    def __init__(
        self,
        options: Options,
        output: OutputFolder,
        plan: Plan,
        threshold: float,
        map_shape: tuple[int, int] | None,
    ) -> None:
        self.thumbnails: ThumbnailFile | None = None
        self.grey_crops: GreyStore | None = None
        self._witnesses = (
            None if options.address is None else Witnesses(bytes(options.address), evenly(plan.contents.answers.inputs))
        )
        with contextlib.ExitStack() as opened:
            self.journal = Journal(output.journal_path, plan.contents.good_bytes)
            opened.callback(self.journal.close)
            if options.report or options.heatmaps is not None:
                fresh = plan.contents.good_bytes == 0
                self.thumbnails = ThumbnailFile(output.thumbnails_path, fresh=fresh, map_shape=map_shape)
                opened.callback(self.thumbnails.close)
            if self.thumbnails is not None and options.heatmaps is not None and options.shard is None:
                self.grey_crops = _grey_store(options, output.work, threshold)
                opened.callback(self.grey_crops.close)
                # They are optional, and the first to be dropped on a full disk.
                self.journal.make_room = self.thumbnails.make_room = self.grey_crops.drop
            before = plan.contents.identity
            self.started = _started(output.work, options, fresh=before is None)
            if before is None:
                self.journal.head(plan.identity)
            elif added := {slide: sha for slide, sha in plan.identity.outlines.items() if slide not in before.outlines}:
                self.journal.outlines(added)
            self._opened = opened.pop_all()

    def sink(self) -> FolderSink:
        """Where the pipeline's answers go."""
        return FolderSink(self.journal, self.thumbnails, self.grey_crops, witnesses=self._witnesses)

    def __enter__(self) -> RunStores:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._opened.close()


def left_start(work: Path) -> datetime | None:
    """When the run of that working folder began, in local time; None where it left no time, or not a whole one.

    Raises:
        OSError: what it left cannot be read.
    """
    with contextlib.suppress(FileNotFoundError, ValueError):
        return datetime.fromisoformat((work / _STARTED).read_text("ascii"))
    return None


def _started(work: Path, options: Options, *, fresh: bool) -> datetime:
    """The time that an unfinished run left, or now; answers in DICOM have it in them, so that it is left for the next.

    Raises:
        OutputError: it cannot be left.
    """
    now, path = datetime.now(), work / _STARTED
    try:
        if fresh:
            path.unlink(missing_ok=True)
        if not set(options.annotation_formats) & set(DICOM_FORMATS):
            return now
        if (before := left_start(work)) is not None:
            return before
        write_atomically(path, now.isoformat().encode("ascii"))
    except OSError as error:
        raise OutputError(f"{path} cannot be written: {error.strerror}. Choose another --output.") from None
    return now


def _grey_store(options: Options, folder: Path, threshold: float) -> GreyStore:
    from glomedge.runs.heatmaps import chosen

    return GreyStore(folder, lambda probability: chosen(probability, options, threshold))
