"""The output folder of a run: its lock, its journal, and checks before anything is written to it."""

from __future__ import annotations

import shutil
from pathlib import Path

from glomedge.errors import OutputError
from glomedge.files.lock import OutputLock
from glomedge.files.writing import check_writable

WORK_FOLDER = ".glomedge"
JOURNAL = "journal"
# Rows, journal and report of one crop take less than this; thumbnails come on top and are not foreseen.
_BYTES_PER_INPUT = 1500
_SPARE_BYTES = 4 << 20


class OutputFolder:
    """An output folder held by this run.

    Raises:
        OutputError: it cannot be created or written, there is not enough space, or another run holds it.
    """

    def __init__(self, folder: Path, inputs: int) -> None:
        self.folder = folder
        self.work = folder / WORK_FOLDER
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            free_bytes = shutil.disk_usage(self.work).free
        except OSError as error:
            raise OutputError(
                f"The output folder {folder} cannot be created: {error.strerror}. Choose another --output."
            ) from None
        self._lock = OutputLock(self.work / "lock")
        needed = _SPARE_BYTES + inputs * _BYTES_PER_INPUT
        if free_bytes < needed:
            self.close()
            raise OutputError(
                f"There is not enough space in {folder}: {inputs} inputs need at least {needed >> 20} MB and "
                f"{free_bytes >> 20} MB are free. Free space or choose another --output."
            )
        try:
            check_writable(folder, "Choose another --output.")
        except OutputError:
            self.close()
            raise

    @property
    def journal_path(self) -> Path:
        """The journal's file."""
        return self.work / JOURNAL

    @property
    def thumbnails_path(self) -> Path:
        """The thumbnails' file."""
        return self.work / "thumbnails"

    def close(self) -> None:
        """Release the folder for the next run."""
        self._lock.close()
