"""The files of a bench: ``bench.json`` and ``bench.html``, whole or not at all."""

from __future__ import annotations

from pathlib import Path

from glomedge.bench import page
from glomedge.bench.record import BenchRecord
from glomedge.errors import OutputError
from glomedge.files.writing import check_writable, write_atomically


def check_output(folder: Path) -> None:
    """Make the output folder before anything is measured. Raises OutputError where it cannot be made or written."""
    check_writable(folder, "Name another folder with --output.")


def write(record: BenchRecord, folder: Path) -> list[Path]:
    """Write ``bench.json`` and ``bench.html`` by temporary file and rename. Raises OutputError."""
    check_output(folder)
    written = []
    for name, text in (
        ("bench.json", record.model_dump_json(indent=1) + "\n"),
        ("bench.html", page.html(record)),
    ):
        try:
            write_atomically(folder / name, text.encode())
        except OSError as error:
            raise OutputError(f"{folder / name} cannot be written ({error.strerror}). Make room and repeat.") from error
        written.append(folder / name)
    return written
