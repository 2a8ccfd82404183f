"""Where a run on many machines keeps its files: a folder that all of them see, or an address in object storage.

Every file appears whole or not at all, and writing it again with the same content changes nothing: a worker that was
thought dead may still write its part beside the one that has taken its place.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from glomedge.errors import OutputError, StorageError
from glomedge.files.addresses import Address, address_of
from glomedge.files.storage import Storage
from glomedge.files.writing import write_atomically

_MOST_BYTES = 1 << 34
_UNCONDITIONAL = "NotImplemented"
"""What a store answers that writes without conditions only."""


class Store:
    """A folder or an address (``s3://bucket/run``); names in it have ``/`` between folders. Can be pickled.

    Credentials and endpoint of object storage are those of the environment, on every node (``files.storage``).

    Raises:
        UsageError: the address is none.
    """

    def __init__(self, where: str) -> None:
        self.where = where
        self._address = address_of(where.encode("utf-8", "surrogateescape"))

    def read(self, name: str) -> bytes | None:
        """A file's bytes; None where it is not there. Raises OutputError."""
        try:
            if self._address is None:
                return (Path(self.where) / name).read_bytes()
            return _opened(self._address).read(name.encode(), _MOST_BYTES)[0]
        except (FileNotFoundError, NotADirectoryError):
            return None
        except StorageError as error:
            if error.code == "vanished":
                return None
            raise OutputError(str(error)) from None
        except OSError as error:
            raise self._failure(name, "read", error) from None

    def open(self, name: str) -> io.RawIOBase | io.BufferedReader:
        """A file to read parts of. Raises OutputError."""
        try:
            if self._address is None:
                return (Path(self.where) / name).open("rb")
            return _opened(self._address).reader(name)
        except StorageError as error:
            raise OutputError(str(error)) from None
        except OSError as error:
            raise self._failure(name, "read", error) from None

    def write(self, name: str, data: bytes) -> None:
        """Write a file, in place of one of that name. Raises OutputError."""
        try:
            if self._address is not None:
                _opened(self._address).write(name, data)
                return
            path = Path(self.where) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, data)
        except StorageError as error:
            raise OutputError(str(error)) from None
        except OSError as error:
            raise self._failure(name, "written", error) from None

    def create(self, name: str, data: bytes) -> bool:
        """Write a file unless there is one of that name; whether it was written. Raises OutputError.

        In object storage only one of several that try at once succeeds, and one that succeeded may be told that it did
        not, where the answer was lost: the content tells. In a folder one process tries, which holds its lock.
        """
        if self._address is None:
            if self.has(name):
                return False
            self.write(name, data)
            return True
        try:
            return _opened(self._address).create(name, data)
        except StorageError as error:
            raise OutputError(str(error)) from None

    def names(self, folder: str) -> list[str]:
        """What is in a folder, sorted: files, and folders on disk; nothing where it is not there."""
        try:
            if self._address is not None:
                return _opened(self._address).names(folder)
            path = Path(self.where) / folder
            return sorted(each.name for each in path.iterdir()) if path.is_dir() else []
        except StorageError as error:
            raise OutputError(str(error)) from None
        except OSError as error:
            raise self._failure(folder, "listed", error) from None

    def has(self, name: str) -> bool:
        """Whether a file is there. Raises OutputError."""
        try:
            if self._address is None:
                return (Path(self.where) / name).is_file()
            _opened(self._address).stat(name.encode())
        except StorageError as error:
            if error.code == "vanished":
                return False
            raise OutputError(str(error)) from None
        except OSError as error:
            raise self._failure(name, "read", error) from None
        return True

    def remove(self, name: str) -> None:
        """Remove a file, if it is there. Raises OutputError."""
        try:
            if self._address is None:
                (Path(self.where) / name).unlink(missing_ok=True)
            else:
                _opened(self._address).remove(name)
        except StorageError as error:
            raise OutputError(str(error)) from None
        except OSError as error:
            raise self._failure(name, "removed", error) from None

    def _failure(self, name: str, what: str, error: OSError) -> OutputError:
        return OutputError(
            f"{self.where.rstrip('/')}/{name} cannot be {what}: {error.strerror}. Check the disk, then run again with "
            "--resume."
        )


class _Writable(Storage):
    """Object storage that is also written. What it raises is StorageError."""

    def reader(self, name: str) -> io.RawIOBase:
        """A file to read parts of."""
        with self._told(name.encode()):
            reader = self._library.open_reader(self._store, self._key(name.encode()))
        return _Reader(reader, lambda: self._told(name.encode()))

    def write(self, name: str, data: bytes) -> None:
        """An object appears when all of it has arrived."""
        with self._told(name.encode()):
            self._library.put(self._store, self._key(name.encode()), data)

    def create(self, name: str, data: bytes) -> bool:
        """Write an object unless there is one of that name; whether it was written."""
        key = self._key(name.encode())
        with self._told(name.encode()):
            try:
                self._library.put(self._store, key, data, mode="create", use_multipart=False)
            except self._library.exceptions.AlreadyExistsError:
                return False
            except Exception as error:
                # Some stores that speak S3 refuse the condition; who comes at the same time is then found out later.
                if _UNCONDITIONAL not in str(error):
                    raise
                self._library.put(self._store, key, data)
        return True

    def names(self, folder: str) -> list[str]:
        """Of the objects right below a folder of the address."""
        where = "/".join(filter(None, (self.address.prefix, folder)))
        with self._told(folder.encode()):
            found = self._library.list_with_delimiter(self._store, where or None)["objects"]
        return sorted(each["path"].rpartition("/")[2] for each in found)

    def remove(self, name: str) -> None:
        """Nothing where there is no such object."""
        try:
            with self._told(name.encode()):
                self._library.delete(self._store, self._key(name.encode()))
        except StorageError as error:
            if error.code != "vanished":
                raise


class _Reader(io.RawIOBase):
    """The library's reader as a file of Python's, which pyarrow takes.

    Args:
        reader: the library's.
        told: what turns an error of the library's into StorageError: it asks for the bytes only when they are read.
    """

    def __init__(self, reader: Any, told: Callable[[], AbstractContextManager[None]]) -> None:
        super().__init__()
        self._reader, self._told = reader, told

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        with self._told():
            return int(self._reader.seek(offset, whence))

    def tell(self) -> int:
        with self._told():
            return int(self._reader.tell())

    def read(self, size: int = -1) -> bytes:
        with self._told():
            return bytes(self._reader.readall() if size < 0 else self._reader.read(size))


@functools.cache
def _opened(address: Address) -> _Writable:
    return _Writable(address)


def parquet_bytes(table: Any, row_group_rows: Sequence[int] = ()) -> bytes:
    """A table as Parquet; with a row group of each of those lengths, if they are given."""
    import pyarrow.parquet

    sink = io.BytesIO()
    with pyarrow.parquet.ParquetWriter(sink, table.schema, compression="zstd") as writer:
        begin = 0
        for rows in row_group_rows or [table.num_rows]:
            writer.write_table(table.slice(begin, rows), row_group_size=max(1, rows))
            begin += rows
    return sink.getvalue()
