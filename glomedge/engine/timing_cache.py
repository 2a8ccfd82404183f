"""What TensorRT measured of its kernels: one set for all engines of one TensorRT, driver and GPU.

With it the second engine on a machine, for another batch size or a retrained model, is built in a fraction of the time
(TensorRT developer guide, "The timing cache"). It holds times and no code, and TensorRT refuses one of another version
or device. It lies beside the engines, not in their folders, which are named by the model.

A builder writes its file in place, so each works on a copy of its own, which replaces the set in one step.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from pathlib import Path
from types import TracebackType
from typing import Self

from glomedge.engine.cache import TIMINGS, EngineKey, fresh_folder
from glomedge.errors import OutputError


class TimingCache:
    """A private copy of the timings; a context manager around the building of an engine, discarded at its end.

    Args:
        root: the engine cache.
        key: of the engine that is opened; only ``runtime``, ``driver`` and ``device`` count.
        empty: begin without those that are there, which may be what the builder cannot read.

    Raises OutputError where the cache cannot be written to.

    Attributes:
        folder: for the builder.
        found: whether there were timings.
    """

    def __init__(self, root: Path, key: EngineKey, *, empty: bool = False) -> None:
        name = json.dumps([key.runtime, key.driver, key.device])
        self._kept = root / f"{TIMINGS}{hashlib.sha256(name.encode()).hexdigest()[:32]}"
        self.folder = fresh_folder(root)
        if not empty:
            with contextlib.suppress(OSError):
                for file in _own_files(self._kept):
                    shutil.copy(file, self.folder / file.name)
        self.found = any(self.folder.iterdir())

    def keep(self) -> None:
        """Make the copy the set that the next builder begins with; nothing where the cache cannot be written to."""
        with contextlib.suppress(OSError):
            files = _own_files(self.folder)
            if files:
                self._kept.mkdir(mode=0o700, exist_ok=True)
            for file in files:
                file.replace(self._kept / file.name)
            if files:
                os.utime(self._kept)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


def for_building(root: Path, key: EngineKey, *, empty: bool = False) -> TimingCache | None:
    """The timings for one build; None where there is no room for a copy: it only takes longer. Arguments as above."""
    try:
        return TimingCache(root, key, empty=empty)
    except OutputError:
        return None


def _own_files(folder: Path) -> list[Path]:
    """The files in a folder that is no link."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return [path for path in sorted(folder.iterdir()) if path.is_file() and not path.is_symlink()]
