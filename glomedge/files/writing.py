"""A full disk: what is only a convenience gives its room to what must not be lost."""

from __future__ import annotations

import errno
from collections.abc import Callable

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
