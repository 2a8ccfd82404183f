"""Thumbnails and activation maps, kept on disk during a run, so that memory stays flat and the report at the end
reads no crop a second time.

An append-only file of unframed records: the journal's rows hold the offset and CRC-32 of each, so a record that a crash
left incomplete is simply ignored.
"""

from __future__ import annotations

import os
import threading
import zlib
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from glomedge.errors import OutputError
from glomedge.files.descriptors import BINARY, read_at, write_at
from glomedge.files.names import escape_name
from glomedge.files.writing import MakeRoom, nothing_to_give, write_all
from glomedge.model.spec import MAP_SIZE
from glomedge.results.rows import Attachment

Kept = tuple[npt.NDArray[np.float32] | None, bytes]
"""A map, None where the model has none, and a JPEG."""


class Thumbnails(Protocol):
    """Where the maps and thumbnails of a run are read from."""

    def read(self, attachment: Attachment | None) -> Kept | None: ...


class ThumbnailFile:
    """The file; thread-safe. ``make_room`` is called on a full disk.

    Args:
        path: where it is.
        fresh: empty it first.
        map_shape: of one crop's map, ``ModelSpec.map_shape``; None where there are no maps.
    """

    def __init__(self, path: Path, *, fresh: bool, map_shape: tuple[int, int] | None = (MAP_SIZE, MAP_SIZE)) -> None:
        self._path = path
        self._map_shape = map_shape
        self.make_room: MakeRoom = nothing_to_give
        self._lock = threading.Lock()
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | BINARY, 0o644)
            if fresh:
                os.ftruncate(self._descriptor, 0)
            self._end = os.lseek(self._descriptor, 0, os.SEEK_END)
            self._synced = 0  # what a killed run left may not be on the disk
        except OSError as error:
            raise self._failure(error) from None

    def _failure(self, error: OSError) -> OutputError:
        return OutputError(
            f"{self._path} cannot be written: {error.strerror}. Free space or choose another --output; then run again "
            "with --resume: every batch written so far is kept."
        )

    def append(self, activation: npt.NDArray[np.float32] | None, thumbnail: bytes) -> Attachment:
        """Keep a map, float32 of ``map_shape`` (None where there are none), and a JPEG."""
        record = thumbnail
        if activation is not None:
            record = np.ascontiguousarray(activation, np.dtype("<f4")).tobytes() + thumbnail
        with self._lock:
            offset, self._end = self._end, self._end + len(record)
        end = offset + len(record)
        try:
            write_all(lambda part: write_at(self._descriptor, part, end - len(part)), record, self.make_room)
        except OSError as error:
            raise self._failure(error) from None
        return Attachment(offset, len(record), zlib.crc32(record))

    def sync(self) -> None:
        """Flush to disk what was appended so far. Raises OutputError."""
        with self._lock:
            end, synced = self._end, self._synced
        if end == synced:
            return
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._failure(error) from None
        self._synced = end

    def read(self, attachment: Attachment | None) -> Kept | None:
        """The map, float32 of ``map_shape``, and the JPEG; None if they are missing or incomplete.

        Raises:
            OutputError: the file cannot be read.
        """
        if attachment is None:
            return None
        try:
            record = read_at(self._descriptor, attachment.length, attachment.offset)
        except OSError as error:
            raise _unreadable(self._path, error) from None
        return _kept(record, attachment, self._map_shape)

    def close(self) -> None:
        """Close the file; it stays."""
        # Its number is the next file's: what came too late would be written there.
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)


def _unreadable(path: Path, error: OSError) -> OutputError:
    return OutputError(
        f"The pictures in {escape_name(bytes(path))} cannot be read: {error.strerror}. Make that file readable, then "
        "run again; or omit the report and the heatmaps."
    )


def _kept(record: bytes, attachment: Attachment, map_shape: tuple[int, int] | None) -> Kept | None:
    """The map and the JPEG of a record; None where it is not what was written."""
    if len(record) != attachment.length or zlib.crc32(record) != attachment.crc32:
        return None
    if map_shape is None:
        return None, record
    map_bytes = map_shape[0] * map_shape[1] * 4
    if len(record) < map_bytes:
        return None
    activation = np.frombuffer(record, np.dtype("<f4"), map_bytes // 4).reshape(map_shape)
    return activation.astype(np.float32), record[map_bytes:]


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
    except OSError as error:
        raise _unreadable(path, error) from None


class JoinedThumbnails:
    """The files of several runs, read as if they lay one after the other.

    Args:
        paths: of the files; one that is not there is empty.
        map_shape: as for ``ThumbnailFile``.

    Attributes:
        sizes_bytes: of the files.
        starts_bytes: where each begins.

    Raises:
        OutputError: the size of one cannot be found out.
    """

    def __init__(self, paths: Sequence[Path], map_shape: tuple[int, int] | None) -> None:
        self._paths = paths
        self._map_shape = map_shape
        self.sizes_bytes = [_size_bytes(path) for path in paths]
        self.starts_bytes = [0, *accumulate(self.sizes_bytes)][:-1]

    def read(self, attachment: Attachment | None) -> Kept | None:
        """As ``ThumbnailFile.read``. A file is open while it is read only: there may be thousands."""
        if attachment is None:
            return None
        place = bisect_right(self.starts_bytes, attachment.offset) - 1
        try:
            with self._paths[place].open("rb", buffering=0) as handle:
                offset = attachment.offset - self.starts_bytes[place]
                record = read_at(handle.fileno(), attachment.length, offset)
        except OSError as error:
            raise _unreadable(self._paths[place], error) from None
        return _kept(record, attachment, self._map_shape)


def shared_limits(attachments: Iterable[Attachment | None], thumbnails: Thumbnails) -> tuple[float, float] | None:
    """One scale for many maps: the 2nd percentile of their minima to the 98th of their maxima; None for no maps."""
    lows, highs = array("f"), array("f")
    for attachment in attachments:
        if (kept := thumbnails.read(attachment)) is not None and kept[0] is not None:
            lows.append(kept[0].min())
            highs.append(kept[0].max())
    if not lows:
        return None
    return float(np.quantile(np.asarray(lows, np.float64), 0.02)), float(
        np.quantile(np.asarray(highs, np.float64), 0.98)
    )
