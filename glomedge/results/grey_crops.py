"""The crops that heatmaps are drawn over, in grey, kept when they are decoded for classification.

Decoding is the most expensive step of a heatmap, and the decoder holds Python's interpreter lock: repeated at the end
of a run, it would keep every other core waiting. Grey is all that an overlay shows of a crop, and a third of its
size. The file has no name where the system can do without, and goes with the process whatever happens. It is never a
reason to fail: what is not in it is read and decoded again, and what runs out of room takes its (``drop``).
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import threading
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import numpy.typing as npt

from glomedge.files.descriptors import read_at, write_at

Grey = npt.NDArray[np.uint8]

MAX_GREY_PX = 1 << 21
"""Larger crops are not kept: all that are between decoder and engine are in memory at once (``Settings.grey_px``)."""

_MOST_BYTES = 1 << 30
_SHARE_OF_FREE = 4
_LEAST_BYTES = 1 << 15  # what the smallest counts for, so that the index is bounded too


class GreyStore:
    """Pictures by the key of their input; thread-safe.

    Args:
        folder: of the file, which takes at most 1 GiB and a quarter of the free space there.
        wanted: whether a crop of that probability will have a heatmap.
    """

    def __init__(self, folder: Path, wanted: Callable[[float], bool]) -> None:
        self.wanted = wanted
        self._lock = threading.Lock()
        self._places: dict[str, tuple[int, tuple[int, int], int]] = {}
        self._end = 0
        self._dropped = False
        self._file: IO[bytes] | None = None
        try:
            self._left_bytes = min(_MOST_BYTES, shutil.disk_usage(folder).free // _SHARE_OF_FREE)
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed by close)
        except OSError:
            self._left_bytes = 0

    def put(self, key: str, grey: Grey) -> None:
        """Keep a crop, uint8 ``[H, W]``, if there is space."""
        if self._file is None:
            return
        with self._lock:
            self._left_bytes -= max(_LEAST_BYTES, grey.nbytes)
            if self._left_bytes < 0:
                return
            offset, self._end = self._end, self._end + grey.nbytes
        checksum = zlib.crc32(grey.data)
        try:
            written = write_at(self._file.fileno(), grey.data, offset)
        except (OSError, ValueError):  # ValueError: closed by now
            written = 0
        with self._lock:
            if not self._dropped and written == grey.nbytes:
                self._places[key] = offset, (grey.shape[0], grey.shape[1]), checksum
                return
        self.drop()  # again, where another thread has: the file is longer by what was written since

    def get(self, key: str) -> Grey | None:
        """The crop, uint8 ``[H, W]``, not writeable; None if it was not kept."""
        place = self._places.get(key)
        if place is None or self._file is None:
            return None
        offset, (height_px, width_px), checksum = place
        try:
            data = read_at(self._file.fileno(), height_px * width_px, offset)
        except (OSError, ValueError):
            return None
        # A disk may fail after it took the bytes, and a colour map would lie on nothing.
        if len(data) < height_px * width_px or zlib.crc32(data) != checksum:
            return None
        return np.frombuffer(data, np.uint8).reshape(height_px, width_px)

    def drop(self) -> None:
        """Release the space and keep nothing from now on."""
        with self._lock:
            self._places.clear()
            self._left_bytes, self._dropped = 0, True
            if self._file is not None:
                with contextlib.suppress(OSError, ValueError):
                    os.ftruncate(self._file.fileno(), 0)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # nothing is lost with it
                self._file.close()
