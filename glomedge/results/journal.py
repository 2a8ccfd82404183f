"""The journal: the authoritative record of an unfinished run, from which ``--resume`` continues.

An append-only file of lines, each the CRC-32 of its payload in eight hex digits, a space, and the payload, a JSON
object whose ``kind`` is one of

- ``head``: what the rows depend on (model, recipe, threshold ...); the first line and no other;
- ``outlines``: slides that were added since, with the SHA-256 of their files of outlines;
- ``engine``: the provider that ran, once it is known;
- ``start``: paths about to be decoded: after a crash, these are the suspects;
- ``stop``: the run was stopped cleanly: nothing that was started is a suspect;
- ``rows``: the results of one complete batch;
- ``done``: the run finished with that many rows.

The CRC of every line but the first is seeded with that of the head, so that an intact line of another run is not
accepted.

A batch is one line, so an incomplete write can only lose a whole batch; the batches repeated on resume then hold the
same crops and give the same bytes. Reading stops at the first invalid line: a damaged tail is truncated and reported.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import IO, Any

from glomedge.errors import OutputError
from glomedge.files.descriptors import BINARY
from glomedge.files.writing import MakeRoom, nothing_to_give, write_all
from glomedge.pipeline.inputs import Found
from glomedge.pipeline.prepare import Answer
from glomedge.results.answer_table import AnswerTable
from glomedge.results.rows import Attachment

FORMAT = 2
# A batch of 1,024 rows with long names stays far below this limit.
MAX_LINE_BYTES = 16 << 20
_READ_BYTES = 1 << 20


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
    classes: str = ""
    mpp: float | None = None
    outlines: Mapping[str, str] = field(default_factory=dict)
    """Slide -> SHA-256 of its file of outlines."""
    shard: str = ""
    """Which share of the inputs; empty for all of them."""

    # Adopted rather than rejected: the batches of the resumed run are then those of the first.
    ADOPTED = ("batch_size", "outlines")
    # Of slides and shards: not written by a run without any, whose journal is as it always was.
    _OPTIONAL = ("classes", "mpp", "outlines", "shard")

    def as_json(self) -> dict[str, Any]:
        """Its fields, without those of slides and shards that say nothing."""
        return {name: value for name, value in asdict(self).items() if value or name not in self._OPTIONAL}

    def other_outlines(self, other: Identity) -> list[str]:
        """Slides whose outlines in ``other`` are different ones, or that it does not have."""
        return [slide for slide, sha256 in self.outlines.items() if other.outlines.get(slide) != sha256]

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
    """The contents of a journal file.

    Attributes:
        identity: of its first line; None if that line is invalid.
        provider: short name of the provider that gave the rows so far.
        answers: the last row of each input.
        suspects: keys that were started and never finished, in order.
        complete: whether the run finished.
        good_bytes: length of the valid part.
        bad_bytes: length of the invalid tail.
        damaged: whether that tail contains complete lines, so that it is not the result of an interrupted write.
        head_crc: seed of the CRC of every line but the first.
    """

    identity: Identity | None = None
    provider: str | None = None
    answers: AnswerTable = field(default_factory=AnswerTable)
    suspects: dict[str, None] = field(default_factory=dict)
    complete: bool = False
    good_bytes: int = 0
    bad_bytes: int = 0
    damaged: bool = False
    head_crc: int = 0


def _line(payload: Mapping[str, Any], seed: int) -> bytes:
    body = json.dumps(payload, separators=(",", ":"), allow_nan=False).encode("ascii")
    return b"%08x %s\n" % (zlib.crc32(body, seed), body)


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is no answer")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _head_crc(line: bytes) -> int:
    """Seed of the CRC of every later line."""
    return zlib.crc32(line[9:-1])


def _payload(line: bytes, seed: int) -> dict[str, Any] | None:
    """The object of one line; None if the line is incomplete or does not belong to this journal."""
    if len(line) < 10 or line[8:9] != b" " or not line.endswith(b"\n"):
        return None
    body = line[9:-1]
    if line[:8] != b"%08x" % zlib.crc32(body, seed):
        return None
    try:
        value = _DECODER.decode(body.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def pack(answer: Answer, attachment: Attachment | None) -> list[Any]:
    """A row as the journal holds it; ``AnswerTable.put`` takes it in again.

    The probability is the shortest decimal of the float32 answer; the size and time of the file when it was read let a
    resumed run notice that it has changed.
    """
    return [
        answer.found.key,
        answer.status,
        answer.probability,
        answer.sha256,
        answer.size_bytes,
        answer.mtime_ns,
        answer.message,
        answer.disagreement,
        list(attachment) if attachment else None,
    ]


def _texts(value: Any) -> dict[str, str]:
    """The object, where it holds nothing but texts. Raises TypeError."""
    if not (isinstance(value, dict) and all(isinstance(each, str) for each in value.values())):
        raise TypeError("an object of texts")
    return value


def _take(contents: Contents, payload: dict[str, Any]) -> None:
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
        contents.identity = replace(identity, outlines=_texts(identity.outlines))
    elif contents.identity is None:
        raise ValueError("no head")
    elif kind == "engine":
        contents.provider = str(payload["provider"])
    elif kind == "outlines":
        outlines = {**contents.identity.outlines, **_texts(payload["files"])}
        contents.identity = replace(contents.identity, outlines=outlines)
    elif kind == "start":
        keys = payload["keys"]
        if not (isinstance(keys, list) and all(isinstance(key, str) for key in keys)):
            raise TypeError("keys")
        contents.suspects.update(dict.fromkeys(keys))
        contents.complete = False
    elif kind == "stop":
        contents.suspects.clear()
    elif kind == "rows":
        rows = payload["rows"]
        if not isinstance(rows, list):
            raise TypeError("rows")
        contents.answers.put(rows)
        for row in rows:
            contents.suspects.pop(row[0], None)
    elif kind == "done":
        contents.complete = True
    else:
        raise ValueError("another kind")


def read_journal(path: Path, inputs: Sequence[Found] = ()) -> Contents:
    """Read a journal in any state; a missing or empty file gives empty contents.

    Args:
        path: the file.
        inputs: those of the run, sorted; others cost more memory (``AnswerTable``).

    Raises:
        OutputError: the file cannot be read at all.
    """
    return read_on(path, Contents(answers=AnswerTable(inputs)))


def read_head(path: Path) -> Identity | None:
    """What the rows of a journal depend on, by its first line; None where the file or a valid line is missing.

    Raises:
        OutputError: the file cannot be read.
    """
    contents = Contents()
    try:
        with path.open("rb") as handle:
            payload = _payload(handle.readline(MAX_LINE_BYTES), 0)
        if payload is not None:
            _take(contents, payload)
    except (FileNotFoundError, KeyError, TypeError, ValueError):
        return None
    except OSError as error:
        raise OutputError(f"The journal {path} cannot be read: {error.strerror}. Make it readable.") from None
    return contents.identity


def read_on(path: Path, contents: Contents) -> Contents:
    """Read what was appended since ``contents`` was read, and add it; the whole file where it has become shorter.

    Raises:
        OutputError: the file cannot be read at all.
    """
    try:
        with path.open("rb", buffering=_READ_BYTES) as handle:
            if contents.good_bytes > os.fstat(handle.fileno()).st_size:
                contents = Contents(answers=AnswerTable(contents.answers.inputs))
            handle.seek(contents.good_bytes)
            _take_lines(contents, handle)
            handle.seek(contents.good_bytes)
            contents.bad_bytes, contents.damaged = 0, False
            for part in iter(lambda: handle.read(_READ_BYTES), b""):
                contents.bad_bytes += len(part)
                contents.damaged = contents.damaged or b"\n" in part
    except FileNotFoundError:
        return Contents(answers=AnswerTable(contents.answers.inputs))
    except OSError as error:
        raise OutputError(f"The journal {path} cannot be read: {error.strerror}. Choose another --output.") from None
    return contents


def _take_lines(contents: Contents, handle: IO[bytes]) -> None:
    """Add lines up to the first invalid one."""
    for line in iter(lambda: handle.readline(MAX_LINE_BYTES), b""):
        payload = _payload(line, contents.head_crc)
        if payload is None:
            break
        try:
            _take(contents, payload)
        except (KeyError, TypeError, ValueError):
            break
        if contents.good_bytes == 0:
            contents.head_crc = _head_crc(line)
        contents.good_bytes += len(line)


class Journal:
    """The writing end. Thread-safe; each call is one ``write`` of one line.

    Args:
        path: the file.
        keep_bytes: length of the valid part to continue from (0 starts an empty journal); the rest is truncated.

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
            self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | BINARY, 0o644)
        except OSError as error:
            raise self._failure(error) from None
        # A device such as /dev/full cannot be truncated; the first write reports the error.
        with contextlib.suppress(OSError):
            os.ftruncate(self._descriptor, keep_bytes)

    def _failure(self, error: OSError) -> OutputError:
        return OutputError(
            f"The journal {self._path} cannot be written: {error.strerror}. Free space or choose another --output; "
            "then run again with --resume: every batch written so far is kept."
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
        self._seed = _head_crc(self._append({"kind": "head", "format": FORMAT, "identity": identity.as_json()}))

    def outlines(self, files: Mapping[str, str]) -> None:
        """Slides that were added since the run began, with the SHA-256 of their files of outlines."""
        self._append({"kind": "outlines", "files": dict(files)})

    def engine(self, provider: str) -> None:
        """The provider in use."""
        self._append({"kind": "engine", "provider": provider})

    def start(self, keys: Sequence[str]) -> None:
        """These inputs are about to be decoded. Survives a crash of this process, not necessarily a power cut."""
        self._append({"kind": "start", "keys": list(keys)})

    def stop(self) -> None:
        """The run was stopped and not ended by a decoder: nothing that was started is a suspect."""
        self._append({"kind": "stop"})

    def rows(self, answers: Iterable[tuple[Answer, Attachment | None]]) -> None:
        """The results of one batch, each with the place of its thumbnail, if one was kept."""
        self._append({"kind": "rows", "rows": [pack(*answer) for answer in answers]})

    def done(self, rows: int) -> None:
        """The run finished; on disk when this returns."""
        self._append({"kind": "done", "rows": rows})
        self.sync()

    def sync(self) -> None:
        """Flush to disk what was appended so far."""
        if self._dirty:
            self._dirty = False
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                raise self._failure(error) from None

    def close(self) -> None:
        """Close without a last sync."""
        # Its number is the next file's: what came too late would be written there.
        descriptor, self._descriptor = self._descriptor, -1
        os.close(descriptor)
