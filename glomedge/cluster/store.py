"""Where a run on many machines keeps its files: a folder that all of them see, or an object store by its URI.

Every file appears whole or not at all, and writing it again with the same content changes nothing: a worker that was
thought dead may still write its part beside the one that has taken its place.
"""

from __future__ import annotations

import io
import posixpath
from pathlib import Path
from typing import Any

from glomedge.errors import MissingExtraError, OutputError, UsageError
from glomedge.files.writing import write_atomically


class Store:
    """A folder or a URI (``s3://bucket/run``); names in it have ``/`` between folders. Pickles without a connection.

    Credentials and endpoints of object stores come from their libraries' own means: the environment, the instance.
    """

    def __init__(self, where: str) -> None:
        self.where = where

    def __getstate__(self) -> str:
        return self.where

    def __setstate__(self, where: str) -> None:
        self.where = where

    @property
    def is_local(self) -> bool:
        """Whether it is a folder."""
        return "://" not in self.where

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where it is not there. Raises OutputError."""
        try:
            if self.is_local:
                return (Path(self.where) / name).read_bytes()
            system, root = _file_system(self.where)
            with system.open_input_stream(posixpath.join(root, name)) as stream:
                return bytes(stream.read())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise self._failure(name, "read", error) from None

    def open(self, name: str) -> Any:
        """A file to read parts of; raises OutputError where it is not there."""
        try:
            if self.is_local:
                return (Path(self.where) / name).open("rb")
            system, root = _file_system(self.where)
            return system.open_input_file(posixpath.join(root, name))
        except OSError as error:
            raise self._failure(name, "read", error) from None

    def write(self, name: str, data: bytes) -> None:
        """Write a file, in place of one of that name. Raises OutputError."""
        try:
            if self.is_local:
                path = Path(self.where) / name
                path.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(path, data)
                return
            system, root = _file_system(self.where)
            # An object appears when its stream is closed; of a process that dies before, nothing does.
            with system.open_output_stream(posixpath.join(root, name)) as stream:
                stream.write(data)
        except OSError as error:
            raise self._failure(name, "written", error) from None

    def names(self, folder: str) -> list[str]:
        """The names of the files in a folder, without it, sorted; none where there is no such folder."""
        try:
            if self.is_local:
                path = Path(self.where) / folder
                return sorted(each.name for each in path.iterdir()) if path.is_dir() else []
            system, root = _file_system(self.where)
            selector = _pyarrow_fs().FileSelector(posixpath.join(root, folder), allow_not_found=True)
            return sorted(found.base_name for found in system.get_file_info(selector))
        except OSError as error:
            raise self._failure(folder, "listed", error) from None

    def has(self, name: str) -> bool:
        """Whether a file is there."""
        try:
            if self.is_local:
                return (Path(self.where) / name).is_file()
            system, root = _file_system(self.where)
            (found,) = system.get_file_info([posixpath.join(root, name)])
            return bool(found.type == _pyarrow_fs().FileType.File)
        except OSError as error:
            raise self._failure(name, "read", error) from None

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        try:
            if self.is_local:
                (Path(self.where) / name).unlink(missing_ok=True)
            elif self.has(name):
                system, root = _file_system(self.where)
                system.delete_file(posixpath.join(root, name))
        except OSError as error:
            raise self._failure(name, "removed", error) from None

    def _failure(self, name: str, what: str, error: OSError) -> OutputError:
        reason = error.strerror or str(error).partition("\n")[0][:200]
        return OutputError(
            f"{self.where.rstrip('/')}/{name} cannot be {what}: {reason}. Check the storage, then run again with "
            "--resume."
        )


def _pyarrow_fs() -> Any:
    try:
        import pyarrow.fs
    except ImportError:
        raise MissingExtraError("A run on Ray", "pyarrow", "ray") from None
    return pyarrow.fs


def _file_system(where: str) -> tuple[Any, str]:
    """The file system of a URI, and the path in it. Raises UsageError."""
    try:
        system, root = _pyarrow_fs().FileSystem.from_uri(where)
    except (OSError, ValueError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise UsageError(f"--output {where} cannot be used: {reason}. Give a folder, or a URI as s3://... .") from None
    return system, root


def parquet_bytes(table: Any, row_group_rows: list[int] | None = None) -> bytes:
    """A table as Parquet; with a row group of each of those lengths, if they are given."""
    import pyarrow.parquet

    sink = io.BytesIO()
    with pyarrow.parquet.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        begin = 0
        for rows in row_group_rows or [table.num_rows]:
            writer.write_table(table.slice(begin, rows), row_group_size=max(1, rows))
            begin += rows
    return sink.getvalue()
