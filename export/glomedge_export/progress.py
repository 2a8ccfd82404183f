"""How the long steps of an export report their progress."""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Called with (stage, done, of)."""


def silent(_stage: str, _done: int, _of: int) -> None:
    """Progress that is not shown."""
