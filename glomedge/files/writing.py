"""Writing that survives: files appear whole or not at all, and a full disk costs only what is a convenience."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from glomedge.errors import OutputError

MakeRoom = Callable[[], object]
"""Gives back what it can."""


def nothing_to_give() -> None:
    """For files that have no one to ask."""


def write_all(write: Callable[[memoryview], int], data: bytes, make_room: MakeRoom) -> None:
    """Write every byte; where the disk or the quota is full, ask for room and try once more.

    Once whoever asks, and whatever the answer: another thread may have made the room between this one's failure and
    its asking.

    Args:
        write: takes what is left and returns how many bytes of it were written.
        data: the bytes.
        make_room: called on a full disk.

    Raises:
        OSError: of ``write``.
    """
    view, asked = memoryview(data), False
    while view:
        try:
            view = view[write(view) :]
        except OSError as error:
            if asked or error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            asked = True
            make_room()


class Staged:
    """A set of files that appear together: each is written under a temporary name, ``commit`` renames them all.

    Args:
        folder: where they will stand.
        staging: folder on the same disk for what is not complete yet; what a crash leaves there is written over.
        owned: names that this program writes; those not written this time are removed by ``commit``, so that no file
            of an earlier run stands beside those of another.
    """

    def __init__(self, folder: Path, staging: Path, owned: Iterable[str] = ()) -> None:
        self._folder = folder
        self._staging = staging
        self._owned = set(owned)
        self._written: dict[str, Path] = {}

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write; on disk when the block ends. Raises OutputError where it cannot be written."""
        temporary = self._staging / f"{name}.tmp"
        try:
            with temporary.open("wb") as handle:
                self._written[name] = temporary
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            self.discard()
            raise OutputError(
                f"{self._folder / name} cannot be written: {error.strerror}. Make room or choose another --output; the "
                "earlier result is untouched, and --resume makes the files without predicting again."
            ) from None

    def sha256s(self) -> dict[str, str]:
        """Of every file written so far, in hex."""
        digests = {}
        for name, temporary in self._written.items():
            with temporary.open("rb") as handle:
                digests[name] = hashlib.file_digest(handle, "sha256").hexdigest()
        return digests

    def commit(self) -> list[Path]:
        """Rename everything, in the order in which it was written, and put the folder itself on disk."""
        done = []
        try:
            for name, temporary in self._written.items():
                temporary.replace(self._folder / name)
                done.append(self._folder / name)
            for name in self._owned - set(self._written):
                (self._folder / name).unlink(missing_ok=True)
            descriptor = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OutputError(f"{self._folder} cannot be written: {error.strerror}. Run again with --resume.") from None
        self._written.clear()
        return done

    def discard(self) -> None:
        """Remove what was written and not renamed."""
        for temporary in self._written.values():
            temporary.unlink(missing_ok=True)
        self._written.clear()


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a kill leaves the old content or the new, never a part: temporary file, fsync, rename."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as handle:
            handle.write(data)
            handle.flush()
            os.fsync(handle.fileno())
        umask = os.umask(0)
        os.umask(umask)
        Path(temporary).chmod(0o666 & ~umask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
