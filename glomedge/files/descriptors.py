"""Files by descriptor on every system: what POSIX has and Windows lacks.

Windows has neither ``pread`` nor ``pwrite``, translates line ends unless it is told not to, and locks ranges of bytes
instead of files.
"""

from __future__ import annotations

import importlib
import os
import threading

BINARY = getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0) | getattr(os, "O_NOINHERIT", 0)
"""Flags of ``os.open`` for a file of bytes that no child inherits."""
_FAR_BYTES = 1 << 30
_moving = threading.Lock()


def read_at(descriptor: int, length: int, offset: int) -> bytes:
    """Up to ``length`` bytes from ``offset`` on; thread-safe. Raises OSError."""
    if hasattr(os, "pread"):
        return os.pread(descriptor, length, offset)
    with _moving:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.read(descriptor, length)


def write_at(descriptor: int, data: bytes | memoryview, offset: int) -> int:
    """Write at ``offset``; thread-safe. Returns how many bytes were written. Raises OSError."""
    if hasattr(os, "pwrite"):
        return os.pwrite(descriptor, data, offset)
    with _moving:
        os.lseek(descriptor, offset, os.SEEK_SET)
        return os.write(descriptor, data)


def lock_alone(descriptor: int) -> None:
    """Lock an open file for this process until the descriptor is closed, however the process ends.

    Raises:
        BlockingIOError: another one holds it.
        OSError: the disk cannot lock files.
    """
    try:
        import fcntl
    except ImportError:
        _lock_a_byte(descriptor)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock_a_byte(descriptor: int) -> None:
    """On Windows, which refuses to read what is locked: a byte far behind the content, so that others can read that."""
    msvcrt = importlib.import_module("msvcrt")
    os.lseek(descriptor, _FAR_BYTES, os.SEEK_SET)
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
    except PermissionError as error:
        raise BlockingIOError(error.errno, error.strerror) from None
    finally:
        os.lseek(descriptor, 0, os.SEEK_SET)
