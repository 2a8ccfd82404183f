"""Inputs that are asked for when many in a row cannot be read: is it those inputs, or is the storage away?"""

from __future__ import annotations

import os
from collections.abc import Sequence

from glomedge.errors import StorageError
from glomedge.files.storage import storage_at
from glomedge.pipeline.inputs import Found

_MOST = 16


def evenly(inputs: Sequence[Found]) -> tuple[bytes, ...]:
    """The names of at most 16 of many inputs, the first and the last among them."""
    last, count = len(inputs) - 1, min(_MOST, len(inputs))
    return tuple(inputs[place * last // max(1, count - 1)].relative for place in range(count))


class Witnesses:
    """Inputs of a run, one of which can be read as long as its storage is there.

    Args:
        root: folder, or address in object storage, that the names are relative to.
        names: of inputs from all over the run (``evenly``).
    """

    def __init__(self, root: bytes, names: Sequence[bytes]) -> None:
        self._root, self._names = root, names
        self._seen: bytes | None = None

    def saw(self, name: bytes) -> None:
        """An input was read: it is the first that is asked for."""
        self._seen = name

    def any_readable(self) -> bool:
        """Whether any of them can be read now."""
        for name in dict.fromkeys((*([self._seen] if self._seen is not None else []), *self._names)):
            try:
                self._read(name)
            except StorageError as error:
                if error.code not in ("vanished", "permission"):
                    return False  # after all retries: each further one would take as long
            except OSError:
                continue
            else:
                return True
        return False

    def _read(self, name: bytes) -> None:
        storage = storage_at(self._root)
        if storage is not None:
            storage.part(name, 0, 1)
            return
        with open(os.path.join(self._root, name), "rb") as handle:  # noqa: PTH118, PTH123 (bytes)
            handle.read(1)
