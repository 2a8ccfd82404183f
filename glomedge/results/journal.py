"""The journal: the truth while a run goes on, and what ``--resume`` goes on from.

An append-only file of lines, each the CRC-32 of its payload in eight hex digits, a space, and the payload, a JSON
object whose ``kind`` is one of

- ``head``: what the rows depend on (model, recipe, threshold ...); the first line and no other;
- ``engine``: the provider that ran, once it is known;
- ``start``: paths about to be decoded: after a crash, these are the suspects;
- ``stop``: the run was stopped in good order: nothing that was started is a suspect;
- ``rows``: the results of one batch, whole;
- ``done``: the run came to its end with that many rows.

The CRC of every line but the first goes on from that of the head, so that a line of another run, whole as it may be,
is none of this one.

A batch is one line, so a torn write can only lose a whole batch; what is done again on resume is then the same
batches of the same crops, and gives the same bytes. Reading stops at the first line that is not whole: everything
from there on is a bad tail, to be cut off, and said.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from glomedge.errors import OutputError
from glomedge.files.writing import MakeRoom, nothing_to_give, write_all

FORMAT = 2
# A batch of 1,024 rows with long names stays far below; more is not ours.
MAX_LINE_BYTES = 16 << 20


class Attachment(NamedTuple):
    """Where a row's thumbnail lies in the spool file (``spool.py``)."""

    offset: int
    length: int
    crc32: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One row as the journal holds it.

    Attributes:
        key: escaped relative path.
        status: ``ok``, ``flagged:<a+b>`` or ``error:<code>``.
        probability: shortest decimal of the float32 answer; None for an error.
        sha256: of the bytes that were read, in hex; None where there were none.
        size_bytes, mtime_ns: of the file when it was read: a resumed run notices that it has changed.
        message: why, for an error.
        disagreement: largest minus smallest probability over the views, with ``--tta``.
        attachment: the thumbnail and heatmap, if kept.
    """

    key: str
    status: str
    probability: float | None = None
    sha256: str | None = None
    size_bytes: int | None = None
    mtime_ns: int | None = None
    message: str = ""
    disagreement: float | None = None
    attachment: Attachment | None = None


@dataclass(frozen=True)
class Identity:
    """What every row of a journal depends on; a run with another identity must not be mixed into it."""

    folder: str
    model_sha256: str
    recipe: str
    threshold: float
    tta: int
    batch_size: int
    bf16: bool = False

    # Not refused but taken over: the batches of the resumed run are then those of the first.
    ADOPTED = ("batch_size",)

    def differences(self, other: Identity) -> list[str]:
        """Each field in which ``other`` differs, in words."""
        mine, theirs = asdict(self), asdict(other)
        return [
            f"{name}: {mine[name]} in the unfinished run, {theirs[name]} now"
            for name in mine
            if mine[name] != theirs[name] and name not in self.ADOPTED
        ]


@dataclass
class Contents:
    """What a journal file says.

    Attributes:
        identity: of its first line; None where even that is not whole.
        provider: short name of the provider that gave the rows so far.
        where: key of each row -> (offset of its line, position in it); the last one counts.
        retry: keys whose fault may have passed (``RETRIED``).
        suspects: keys that were started and never finished, in order.
        complete: whether the run came to its end.
        good_bytes: length of the part that is whole.
        bad_bytes: length of the tail that is not.
        damaged: whether that tail holds whole lines: no write was torn there, something else happened to the file.
    """

    identity: Identity | None = None
    provider: str | None = None
    where: dict[str, tuple[int, int]] = field(default_factory=dict)
    stamps: dict[str, tuple[int | None, int | None]] = field(default_factory=dict)
    retry: set[str] = field(default_factory=set)
    suspects: dict[str, None] = field(default_factory=dict)
    complete: bool = False
    good_bytes: int = 0
    bad_bytes: int = 0
    damaged: bool = False


RETRIED = frozenset({"error:permission", "error:vanished", "error:io", "error:not_regular"})


def _may_pass(entry: Entry) -> bool:
    """Whether a fault may be gone next time. Given up before its bytes were there: the disk's fault, not the file's."""
    return entry.status in RETRIED or (entry.status == "error:decoder" and entry.sha256 is None)


def _line(payload: Mapping[str, Any], seed: int) -> bytes:
    body = json.dumps(payload, separators=(",", ":"), allow_nan=False).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(body, seed), body)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no answer")


def _head_crc(line: bytes) -> int:
    """What the CRC of every later line goes on from."""
    return zlib.crc32(line[9:-1])


def _payload(line: bytes, seed: int) -> dict[str, Any] | None:
    """The object of one line, None where the line is not whole or not ours."""
    if len(line) < 10 or line[8:9] != b" " or not line.endswith(b"\n"):
        return None
    body = line[9:-1]
    if line[:8] != b"%08x" % zlib.crc32(body, seed):
        return None
    try:
        value = json.loads(body, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _optional(value: Any, kind: type) -> Any:
    if value is None or (isinstance(value, kind) and not isinstance(value, bool)):
        return value
    raise TypeError(f"{value!r} is no {kind.__name__}")


def _pack(entry: Entry) -> list[Any]:
    return [
        entry.key,
        entry.status,
        entry.probability,
        entry.sha256,
        entry.size_bytes,
        entry.mtime_ns,
        entry.message,
        entry.disagreement,
        list(entry.attachment) if entry.attachment else None,
    ]


def _unpack(row: Any) -> Entry:
    """Raises TypeError or ValueError where the list is not a row."""
    key, status, probability, sha256, size, mtime, message, disagreement, attachment = row
    if not (isinstance(key, str) and isinstance(status, str) and isinstance(message, str)):
        raise TypeError("a row without key, status or message")
    key.encode("utf-8")  # a lone surrogate is no name that ``escape_name`` gives
    kind = status.partition(":")[0]
    if kind not in ("ok", "flagged", "error") or (probability is None) != (kind == "error"):
        raise ValueError(f"status {status!r} with probability {probability!r}")
    if not all(value is None or 0.0 <= value <= 1.0 for value in (probability, disagreement)):
        raise ValueError(f"probability {probability!r}, disagreement {disagreement!r}")
    if attachment is not None:
        offset, length, crc32 = attachment
        if not all(isinstance(number, int) and number >= 0 for number in (offset, length, crc32)):
            raise TypeError("attachment")
        attachment = Attachment(offset, length, crc32)
    return Entry(
        key=key,
        status=status,
        probability=_optional(probability, float),
        sha256=_optional(sha256, str),
        size_bytes=_optional(size, int),
        mtime_ns=_optional(mtime, int),
        message=message,
        disagreement=_optional(disagreement, float),
        attachment=attachment,
    )


def _take(contents: Contents, payload: dict[str, Any], offset: int) -> None:
    """Add one line. Raises KeyError, TypeError or ValueError where it is not one of ours."""
    kind = payload["kind"]
    if kind == "head":
        if contents.identity is not None:
            raise ValueError("a second head: another run's journal")
        if payload["format"] != FORMAT:
            raise ValueError("another format")
        identity = Identity(**payload["identity"])
        if not (isinstance(identity.batch_size, int) and 1 <= identity.batch_size <= 1 << 20):
            raise ValueError("batch size")
        contents.identity = identity
    elif contents.identity is None:
        raise ValueError("no head")
    elif kind == "engine":
        contents.provider = str(payload["provider"])
    elif kind == "start":
        keys = payload["keys"]
        if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
            raise TypeError("keys")
        contents.suspects.update(dict.fromkeys(keys))
        contents.complete = False
    elif kind == "stop":
        contents.suspects.clear()
    elif kind == "rows":
        entries = [_unpack(row) for row in payload["rows"]]
        for position, entry in enumerate(entries):
            contents.where[entry.key] = (offset, position)
            contents.stamps[entry.key] = (entry.size_bytes, entry.mtime_ns)
            contents.suspects.pop(entry.key, None)
            (contents.retry.add if _may_pass(entry) else contents.retry.discard)(entry.key)
    elif kind == "done":
        contents.complete = True
    else:
        raise ValueError("another kind")


def read_journal(path: Path) -> Contents:
    """Read a journal, whatever state it is in; a file that is missing or empty gives empty contents.

    Raises:
        OutputError: the file cannot be read at all.
    """
    contents, seed = Contents(), 0
    try:
        with path.open("rb") as handle:
            for line in iter(lambda: handle.readline(MAX_LINE_BYTES), b""):
                payload = _payload(line, seed)
                if payload is None:
                    break
                try:
                    _take(contents, payload, contents.good_bytes)
                except (KeyError, TypeError, ValueError):
                    break
                if contents.good_bytes == 0:
                    seed = _head_crc(line)
                contents.good_bytes += len(line)
            handle.seek(contents.good_bytes)
            for part in iter(lambda: handle.read(1 << 20), b""):
                contents.bad_bytes += len(part)
                contents.damaged = contents.damaged or b"\n" in part
    except FileNotFoundError:
        return contents
    except OSError as error:
        raise OutputError(f"The journal {path} cannot be read: {error.strerror}. Choose another --output.") from None
    return contents


def read_entries(path: Path, where: Iterable[tuple[int, int]]) -> Iterator[Entry]:
    """The rows at those places (``Contents.where``), in the order asked for, one line of the file at a time."""
    with path.open("rb") as handle:
        seed = _head_crc(handle.readline(MAX_LINE_BYTES))
        loaded, entries = -1, list[Entry]()
        for offset, position in where:
            if offset != loaded:
                handle.seek(offset)
                payload = _payload(handle.readline(MAX_LINE_BYTES), seed)
                if payload is None:
                    raise OutputError(f"The journal {path} was changed while it was read. Run again with --resume.")
                loaded, entries = offset, [_unpack(row) for row in payload["rows"]]
            yield entries[position]


class Journal:
    """The writing end. Thread-safe; each call is one ``write`` of one line.

    Args:
        path: the file.
        keep_bytes: length of the whole part to go on from (0 starts anew); the rest is cut off.

    Attributes:
        make_room: called on a full disk.
    """

    def __init__(self, path: Path, keep_bytes: int = 0) -> None:
        self._path = path
        self.make_room: MakeRoom = nothing_to_give
        self._lock = threading.Lock()
        self._dirty = False
        self._seed = 0
        try:
            if keep_bytes:
                with path.open("rb") as handle:
                    self._seed = _head_crc(handle.readline(MAX_LINE_BYTES))
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise self._failure(error) from None
        # A device such as /dev/full cannot be cut; writing to it will say what is wrong.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, keep_bytes)

    def _failure(self, error: OSError) -> OutputError:
        return OutputError(
            f"The journal {self._path} cannot be written: {error.strerror}. Make room or choose another --output; "
            "then go on with --resume: every batch written so far is kept."
        )

    def _append(self, payload: Mapping[str, Any]) -> bytes:
        line = _line(payload, self._seed)
        with self._lock:
            try:
                write_all(lambda part: os.write(self._descriptor, part), line, self.make_room)
            except OSError as error:
                raise self._failure(error) from None
            self._dirty = True
        return line

    def head(self, identity: Identity) -> None:
        """First line of a fresh journal."""
        self._seed = _head_crc(self._append({"kind": "head", "format": FORMAT, "identity": asdict(identity)}))

    def engine(self, provider: str) -> None:
        """The provider that runs."""
        self._append({"kind": "engine", "provider": provider})

    def start(self, keys: Sequence[str]) -> None:
        """These inputs are about to be decoded. Survives a crash of this process, not necessarily a power cut."""
        self._append({"kind": "start", "keys": list(keys)})

    def stop(self) -> None:
        """The run was stopped and no decoder took it down: nothing that was started is a suspect."""
        self._append({"kind": "stop"})

    def rows(self, entries: Sequence[Entry]) -> None:
        """The results of one batch."""
        self._append({"kind": "rows", "rows": [_pack(entry) for entry in entries]})

    def done(self, rows: int) -> None:
        """The run came to its end; on disk when this returns."""
        self._append({"kind": "done", "rows": rows})
        self.sync()

    def sync(self) -> None:
        """Put on disk what was appended so far."""
        if self._dirty:
            self._dirty = False
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                raise self._failure(error) from None

    def close(self) -> None:
        """Close without a last sync."""
        os.close(self._descriptor)
