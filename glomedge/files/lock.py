"""One run per output folder."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType

from glomedge.errors import OutputError
from glomedge.files.descriptors import BINARY, lock_alone, read_at, write_at


class OutputLock:
    """Locks a folder for one run; released by ``close`` or by the end of the process, however it ends.

    The lock file is never deleted: deleting it would let a third run lock another file of the same name.
    """

    def __init__(self, path: Path) -> None:
        """Raises OutputError where another run holds the lock or the file cannot be made."""
        try:
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | BINARY, 0o644)
        except OSError as error:
            raise OutputError(f"{path} cannot be written: {error.strerror}. Choose another --output.") from None
        try:
            lock_alone(self._descriptor)
        except BlockingIOError:
            holder = read_at(self._descriptor, 100, 0).decode("ascii", "replace").strip() or "unknown"
            os.close(self._descriptor)
            raise OutputError(
                f"Another run (process {holder}) is writing to {path.parent.parent}. "
                "Wait for it to end, or choose another --output."
            ) from None
        except OSError as error:
            os.close(self._descriptor)
            raise OutputError(
                f"{path} cannot be locked: {error.strerror}. Choose an --output on a disk that can lock files."
            ) from None
        os.ftruncate(self._descriptor, 0)
        try:
            write_at(self._descriptor, f"{os.getpid()}\n".encode(), 0)
        except OSError as error:
            self.close()
            raise OutputError(
                f"{path} cannot be written: {error.strerror}. Make room or choose another --output."
            ) from None

    def close(self) -> None:
        """Release the lock."""
        os.close(self._descriptor)

    def __enter__(self) -> OutputLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
