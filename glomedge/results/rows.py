"""The rows of the results, and the CSV, JSON Lines and Parquet files made from them.

Every file is written under a temporary name, put on disk, and only then given its name: whoever looks sees the earlier
result or the new one, whole. The bytes depend on the rows alone.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.errors import MissingExtraError, OutputError
from glomedge.files.names import neutralise
from glomedge.results.journal import Attachment

FORMATS = ("csv", "jsonl", "parquet")


@dataclass(frozen=True, slots=True)
class Row:
    """One input in the results.

    ``probability``, ``label`` and ``class_name`` are None where ``status`` begins with ``error:``. ``path`` is escaped
    (``escape.escape_name``) and relative; ``sha256`` is of the bytes predicted on; ``review`` is 1 where the
    probability lies in the review band, 0 where not, None for an error.
    """

    path: str
    case: str
    slide: str
    probability: float | None
    label: int | None
    class_name: str | None
    threshold: float
    status: str
    provider: str
    sha256: str | None
    tta_disagreement: float | None
    message: str
    attachment: Attachment | None = None
    review: int | None = None

    @property
    def failed(self) -> bool:
        """Whether there is no prediction."""
        return self.status.startswith("error:")

    @property
    def flags(self) -> tuple[str, ...]:
        """The quality flags, such as ``("blurred",)``."""
        return tuple(self.status.removeprefix("flagged:").split("+")) if self.status.startswith("flagged:") else ()


COLUMNS = (
    "path",
    "case",
    "slide",
    "probability",
    "label",
    "class_name",
    "threshold",
    "review",
    "status",
    "provider",
    "sha256",
    "tta_disagreement",
    "message",
)


def columns(*, tta: bool) -> tuple[str, ...]:
    """The columns of every format, in order; the research-use notice is the last."""
    return (*(name for name in COLUMNS if tta or name != "tta_disagreement"), "notice")


def _values(row: Row, names: tuple[str, ...]) -> list[Any]:
    return [RESEARCH_USE_NOTICE if name == "notice" else getattr(row, name) for name in names]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    # A bare carriage return would not be quoted (the line ends with a newline only) and would end the line.
    return repr(value) if isinstance(value, float) else neutralise(str(value).replace("\r", "\\x0d"))


def write_csv(handle: IO[bytes], rows: Iterable[Row], *, tta: bool) -> None:
    """UTF-8, comma, newline, header first. No cell can be taken for a formula (``escape.neutralise``)."""
    names = columns(tta=tta)
    text = io.TextIOWrapper(handle, "utf-8", newline="", write_through=False)
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(value) for value in _values(row, names)])
    text.flush()
    text.detach()


def write_jsonl(handle: IO[bytes], rows: Iterable[Row], *, tta: bool) -> None:
    """One JSON object a line, values as they are (nothing neutralised)."""
    names = columns(tta=tta)
    for row in rows:
        record = dict(zip(names, _values(row, names), strict=True))
        handle.write(json.dumps(record, ensure_ascii=False, allow_nan=False).encode("utf-8") + b"\n")


def write_parquet(handle: IO[bytes], rows: Iterable[Row], *, tta: bool) -> None:
    """Parquet with fixed column types, zstd. Raises MissingExtraError where pyarrow is not installed."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtraError("--format parquet", "pyarrow", "parquet") from None
    names = columns(tta=tta)
    kinds = {
        "probability": pyarrow.float32(),
        "tta_disagreement": pyarrow.float32(),
        "threshold": pyarrow.float64(),
        "label": pyarrow.int8(),
        "review": pyarrow.int8(),
    }
    schema = pyarrow.schema(
        [(name, kinds.get(name, pyarrow.string())) for name in names], metadata={"notice": RESEARCH_USE_NOTICE}
    )
    with pyarrow.parquet.ParquetWriter(handle, schema, compression="zstd") as writer:
        chunk: list[list[Any]] = []

        def flush() -> None:
            if chunk:
                arrays = [
                    pyarrow.array(column, schema.field(index).type)
                    for index, column in enumerate(zip(*chunk, strict=True))
                ]
                writer.write_table(pyarrow.Table.from_arrays(arrays, schema=schema))
                chunk.clear()

        for row in rows:
            chunk.append(_values(row, names))
            if len(chunk) == 8192:
                flush()
        flush()


WRITERS: dict[str, Callable[..., None]] = {"csv": write_csv, "jsonl": write_jsonl, "parquet": write_parquet}


class Staged:
    """A set of files that appear together: each is written under a temporary name, ``commit`` renames them all.

    Args:
        folder: where they will stand.
        staging: folder on the same disk for what is not complete yet; what a crash leaves there is written over.
        owned: names that this program writes; those not written this time are removed by ``commit``, so that no file
            of an earlier run stands beside those of another.
    """

    def __init__(self, folder: Path, staging: Path, owned: Iterable[str] = ()) -> None:
        self._folder = folder
        self._staging = staging
        self._owned = set(owned)
        self._written: dict[str, Path] = {}

    @contextmanager
    def open(self, name: str) -> Iterator[IO[bytes]]:
        """A file to write; on disk when the block ends. Raises OutputError where it cannot be written."""
        temporary = self._staging / f"{name}.tmp"
        try:
            with temporary.open("wb") as handle:
                self._written[name] = temporary
                yield handle
                handle.flush()
                os.fsync(handle.fileno())
        except OSError as error:
            self.discard()
            raise OutputError(
                f"{self._folder / name} cannot be written: {error.strerror}. Make room or choose another --output; the "
                "earlier result is untouched, and --resume makes the files without predicting again."
            ) from None

    def sha256s(self) -> dict[str, str]:
        """Of every file written so far, in hex."""
        digests = {}
        for name, temporary in self._written.items():
            with temporary.open("rb") as handle:
                digests[name] = hashlib.file_digest(handle, "sha256").hexdigest()
        return digests

    def commit(self) -> list[Path]:
        """Rename everything, in the order in which it was written, and put the folder itself on disk."""
        done = []
        try:
            for name, temporary in self._written.items():
                temporary.replace(self._folder / name)
                done.append(self._folder / name)
            for name in self._owned - set(self._written):
                (self._folder / name).unlink(missing_ok=True)
            descriptor = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OutputError(f"{self._folder} cannot be written: {error.strerror}. Run again with --resume.") from None
        self._written.clear()
        return done

    def discard(self) -> None:
        """Remove what was written and not renamed."""
        for temporary in self._written.values():
            temporary.unlink(missing_ok=True)
        self._written.clear()
