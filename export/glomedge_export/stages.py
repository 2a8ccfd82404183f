"""How a long step says where it is."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]


def nothing(_what: str, _done: int, _of: int) -> None:
    """Progress that is not shown."""
