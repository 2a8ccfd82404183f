"""A full disk: what is only a convenience gives its room to what must not be lost."""

from __future__ import annotations

import errno
from collections.abc import Callable

MakeRoom = Callable[[], bool]
"""Gives back what it can; whether that was anything."""


def nothing_to_give() -> bool:
    """For files that have no one to ask."""
    return False


def room_was_made(error: OSError, make_room: MakeRoom) -> bool:
    """Whether to write again after that error: the disk or the quota was full, and something was given back."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT) and make_room()
