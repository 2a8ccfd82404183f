"""The bytes of an annotation file: unpacked where it is a ``.gz`` or ``.zip``, and never more than a limit.

Formats are told by content. A suffix says nothing here: QuPath writes ``.geojson``, ``.json`` and ``.gz`` alike.
"""

from __future__ import annotations

import gzip
import lzma
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Literal, cast

from glomedge.errors import AnnotationError
from glomedge.files.names import escape_name

MAX_BYTES = 1 << 30
"""Of one annotation file, unpacked: ten times what QuPath writes for 250,000 outlines."""
_HEAD_BYTES = 4096
_GZIP, _ZIP = b"\x1f\x8b", (b"PK\x03\x04", b"PK\x05\x06")
_UTF8_MARK = b"\xef\xbb\xbf"
_OTHER_MARKS = (b"\xff\xfe", b"\xfe\xff")

Kind = Literal["json", "xml", "csv"]
_NOT_TEXT = (
    (b"%PDF", "a PDF"),
    (b"\x89PNG", "a PNG image"),
    (b"\xff\xd8\xff", "a JPEG image"),
    (b"II*\0", "a TIFF image or a slide"),
    (b"MM\0*", "a TIFF image or a slide"),
    (b"II+\0", "a TIFF image or a slide"),
    (b"\xac\xed\0\5", "QuPath's own .qpdata"),
    (b"\xd0\xcf\x11\xe0", "an old Excel workbook"),
)


class Source:
    """An opened annotation file.

    Attributes:
        name: its path, for messages.
        kind: what its text begins like.
    """

    def __init__(self, name: str, stream: IO[bytes], max_bytes: int = MAX_BYTES) -> None:
        self.name = name
        self._stream = stream
        self._max_bytes = max_bytes
        self._given = 0
        self._head = b""
        while len(self._head) < _HEAD_BYTES and (more := self._read_on(_HEAD_BYTES - len(self._head))):
            self._head += more
        self._head = self._head.removeprefix(_UTF8_MARK)
        self.kind: Kind = self._kind()

    def refuse(self, what: str) -> AnnotationError:
        """The error that names the file; ``what`` ends with what to do."""
        return AnnotationError(f"{self.name}: {what}")

    def read(self, size: int) -> bytes:
        """At most ``size`` bytes, unpacked; empty at the end. Raises AnnotationError past the limit or damaged."""
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
            return data
        return self._read_on(size)

    def _read_on(self, size: int) -> bytes:
        try:
            data = self._stream.read(size)
        except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile) as error:
            raise self.refuse(f"the archive is damaged ({error}). Export the annotations again.") from None
        except OSError as error:
            raise self.refuse(f"it cannot be read: {error.strerror or error}. Check the disk and the file.") from None
        self._given += len(data)
        if self._given > self._max_bytes:
            raise self.refuse(
                f"it holds more than {self._max_bytes >> 20} MB of text. Export only the glomeruli, or in parts."
            )
        return data

    def _kind(self) -> Kind:
        for magic, what in _NOT_TEXT:
            if self._head.startswith(magic):
                raise self.refuse(
                    f"it is {what}, not a file of outlines. Export the annotations as GeoJSON (QuPath), JSON (DSA), "
                    "XML (ImageScope, ASAP) or CSV."
                )
        head = self._head.lstrip()
        if not head:
            raise self.refuse("it is empty. Export the annotations again.")
        if self._head.startswith(_OTHER_MARKS):
            # An XML parser reads UTF-16 by its mark; JSON is UTF-8 by its standard.
            if b"<" in self._head[2:4]:
                return "xml"
            raise self.refuse("its text is UTF-16. Save it as UTF-8.")
        return "json" if head[:1] in b"{[" else "xml" if head[:1] == b"<" else "csv"


@contextmanager
def open_source(path: Path, max_bytes: int = MAX_BYTES) -> Iterator[Source]:
    """Open an annotation file, packed or not.

    Raises:
        AnnotationError: no such file, unreadable, empty, a damaged archive, or an archive of several files.
    """
    name = escape_name(bytes(path))
    with ExitStack() as opened:
        try:
            if not path.is_file():
                raise AnnotationError(f"{name}: there is no such file. Give a file of outlines with --annotations.")
            stream: IO[bytes] = opened.enter_context(path.open("rb"))
            head = stream.read(4)
            stream.seek(0)
            if head.startswith(_ZIP):
                stream = opened.enter_context(_unpacked(name, opened, stream))
            elif head.startswith(_GZIP):
                stream = opened.enter_context(_gzip(stream))
        except OSError as error:
            reason = error.strerror or str(error)
            raise AnnotationError(f"{name} cannot be read: {reason}. Check its permissions.") from None
        yield Source(name, stream, max_bytes)


def _gzip(stream: IO[bytes]) -> IO[bytes]:
    return cast("IO[bytes]", gzip.GzipFile(fileobj=stream, mode="rb"))


def _unpacked(name: str, opened: ExitStack, stream: IO[bytes]) -> IO[bytes]:
    """The one file of an archive, without what macOS adds; the archive stays open as long as ``opened``."""
    try:
        archive = opened.enter_context(zipfile.ZipFile(stream))
        members = [
            member
            for member in archive.infolist()
            if not member.is_dir() and not member.filename.startswith("__MACOSX/")
            and not member.filename.rpartition("/")[2].startswith(".")
        ]  # fmt: skip
        if len(members) == 1:
            return archive.open(members[0])
    # Of a damaged directory zipfile also takes names, offsets and versions as they stand there.
    except (zipfile.BadZipFile, ValueError) as error:
        raise AnnotationError(f"{name}: the archive is damaged ({error}). Export the annotations again.") from error
    # An encrypted archive, and (NotImplementedError is one of these) a packing that Python does not know.
    except RuntimeError as error:
        raise AnnotationError(
            f"{name}: the archive cannot be unpacked here ({error}). Unpack it and give the file inside."
        ) from error
    raise AnnotationError(
        f"{name}: the archive holds {len(members)} files, and it is unclear which one has the outlines. "
        "Unpack it and give one of them."
    )
