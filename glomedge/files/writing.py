"""Safe writing: files appear complete or not at all, and on a full disk only optional files are given up."""

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
from glomedge.files.names import escape_name

TEMPORARY = ".tmp"
"""In the name of every file that is not complete yet."""

MakeRoom = Callable[[], object]
"""Frees the disk space it can."""


def nothing_to_give() -> None:
    """A ``MakeRoom`` that frees nothing."""


def write_all(write: Callable[[memoryview], int], data: bytes, make_room: MakeRoom) -> None:
    """Write every byte; where the disk or the quota is full, free space and try once more.

    It tries again whether or not ``make_room`` freed anything: another thread may have freed space in the meantime.

    Args:
        write: takes the remaining bytes and returns how many of them were written.
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
        folder: where they will appear.
        staging: folder on the same disk for incomplete files; leftovers of a crash are overwritten.
        owned: names that this program writes; ``commit`` removes those not written this time, so that the files of two
            runs are never mixed.
    """

    def __init__(self, folder: Path, staging: Path, owned: Iterable[str] = ()) -> None:
        self._folder = folder
        self._staging = staging
        self._owned = set(owned)
        self._written: dict[str, Path] = {}

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write, maybe in a folder (``annotations/S-1.geojson``); on disk when the block ends.

        Raises OutputError where it cannot be written.
        """
        temporary = self._staging / f"{name}.tmp"
        with self.naming(name):
            temporary.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as handle:
                self._written[name] = temporary
                yield handle
                handle.flush()
                os.fsync(handle.fileno())

    @contextmanager
    def naming(self, name: str) -> Iterator[None]:
        """Of several files that are open at once, the one that is written now. Raises OutputError that names it."""
        try:
            yield
        except OSError as error:
            self.discard()
            raise OutputError(
                f"{self._folder / name} cannot be written: {error.strerror}. Make room or choose another --output; the "
                "earlier result is untouched, and --resume makes the files without classifying again."
            ) from None

    def sha256s(self) -> dict[str, str]:
        """Of every file written so far, in hex."""
        digests = {}
        for name, temporary in self._written.items():
            with temporary.open("rb") as handle:
                digests[name] = hashlib.file_digest(handle, "sha256").hexdigest()
        return digests

    def commit(self) -> list[Path]:
        """Rename everything, in the order in which it was written, and sync the folders."""
        done = []
        try:
            for name, temporary in self._written.items():
                (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
                temporary.replace(self._folder / name)
                done.append(self._folder / name)
            for name in self._owned - set(self._written):
                (self._folder / name).unlink(missing_ok=True)
            for folder in {path.parent: None for path in (*done, self._folder / "any")}:
                _sync(folder)
        except OSError as error:
            raise OutputError(f"{self._folder} cannot be written: {error.strerror}. Run again with --resume.") from None
        self._written.clear()
        return done

    def discard(self) -> None:
        """Remove what was written and not renamed."""
        for temporary in self._written.values():
            temporary.unlink(missing_ok=True)
        self._written.clear()


def _sync(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows does not open folders
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write a file so that a kill leaves the old content or the new, never a part: temporary file, fsync, rename.

    Gives the path of an empty temporary file to be written by whatever means; it lies in the same folder and has the
    same suffix, by which some libraries choose a format. It replaces ``path`` when the block ends, and is removed when
    the block fails.

    Raises:
        OSError: the folder or the file cannot be written.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}.", suffix=TEMPORARY + path.suffix)
    os.close(descriptor)
    temporary = Path(name)
    try:
        yield temporary
        with temporary.open("rb") as handle:
            os.fsync(handle.fileno())
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, data: bytes) -> None:
    """Write bytes as ``replacing`` does. Raises OSError."""
    with replacing(path) as temporary:
        temporary.write_bytes(data)


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths name one file, by whatever links or spelling; neither need exist."""
    try:
        return one.resolve() == other.resolve() or one.samefile(other)
    except OSError:  # one of them is not there, or cannot be looked at
        return False


def check_writable(folder: Path, advice: str) -> None:
    """Make a folder where it is missing and write into it, before any work is done for what it is to hold.

    Args:
        folder: where results will be written.
        advice: what to do where that fails, as a sentence: ``Choose another --output.``

    Raises:
        OutputError: the folder cannot be made or written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"glomedge")
    except OSError as error:
        raise OutputError(f"{escape_name(bytes(folder))} cannot be written: {error.strerror}. {advice}") from None
