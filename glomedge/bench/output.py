"""The files of a bench: ``bench.json`` and ``bench.html``, whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from glomedge.bench import page
from glomedge.bench.record import BenchRecord
from glomedge.errors import OutputError


def check_output(folder: Path) -> None:
    """Make the output folder before anything is measured. Raises OutputError where it cannot be made or written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be written ({error.strerror}). Name another folder with --output."
        ) from error


def write(record: BenchRecord, folder: Path) -> list[Path]:
    """Write ``bench.json`` and ``bench.html`` by temporary file and rename. Raises OutputError."""

    check_output(folder)
    written = []
    for name, text in (
        ("bench.json", record.model_dump_json(indent=1) + "\n"),
        ("bench.html", page.html(record)),
    ):
        try:
            with tempfile.NamedTemporaryFile("w", dir=folder, encoding="utf-8", delete=False) as handle:
                handle.write(text)
                handle.flush()
                os.fsync(handle.fileno())
            Path(handle.name).chmod(0o644)
            Path(handle.name).replace(folder / name)
        except OSError as error:
            Path(handle.name).unlink(missing_ok=True)
            raise OutputError(f"{folder / name} cannot be written ({error.strerror}). Make room and repeat.") from error
        written.append(folder / name)
    return written
