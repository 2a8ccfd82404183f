"""Reading what a stranger's file holds, within limits, and showing it in a message.

An archive may declare sizes that fill the memory, JSON may be nested without end, a name may be a page long or hold
control characters.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from glomedge.errors import GlomedgeError, MissingExtraError, ModelError, shortened
from glomedge.files.names import escape_name
from glomedge.system.memory import is_memory_error

MAX_CONFIG_BYTES = 32 << 20
"""EfficientNetV2L's configuration has 1 MB."""
MAX_ARCHIVE_BYTES = 8 << 30
MAX_MEMBERS = 1_000
# Weights hardly shrink; text may, up to about a thousand times.
_MAX_INFLATION = 50
_MAX_DEPTH = 100
_MAX_SHOWN = 100
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_NOT_READABLE = (errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE)

CONFIG, METADATA, WEIGHTS = "config.json", "metadata.json", "model.weights.h5"
SAVED_MODEL = "saved_model.pb"

TAKEN = "glomedge takes .keras, a whole-model .h5, or a SavedModel folder."


def shown(value: Any) -> str:
    """A path or a name out of a file as printable text of at most 100 characters."""
    return shortened(escape_name(str(value).encode("utf-8", "surrogatepass")), _MAX_SHOWN)


def reason(error: BaseException) -> str:
    """The first line of a library's message, at most 100 characters; the error's type where there is none."""
    lines = str(error).strip().splitlines()
    return shown(lines[0]) if lines else type(error).__name__


@contextmanager
def refusing(path: Path, message: str) -> Iterator[None]:
    """What a reader raises inside becomes a ModelError of that message, in which ``{reason}`` is what the reader said.

    Everything: zipfile, h5py, Keras and TensorFlow raise whatever their parts raise on a damaged file (BadZipFile,
    struct.error, KeyError, TypeError, RuntimeError ...). But not where this machine is the reason: memory that ran out
    is left to the caller, and of a full disk or a missing permission the message says so.
    """
    try:
        yield
    except GlomedgeError:
        raise
    except Exception as error:
        if is_memory_error(error):
            raise
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            raise ModelError(
                f"There is no room for a temporary copy of {shown(path)} in {shown(tempfile.gettempdir())}: "
                f"{os.strerror(error.errno)}. Free some, or set TMPDIR to another folder."
            ) from error
        if isinstance(error, OSError) and error.errno in _NOT_READABLE:
            raise ModelError(
                f"{shown(path)} cannot be read: {os.strerror(error.errno)}. Check its permissions and the disk."
            ) from error
        raise ModelError(message.replace("{reason}", reason(error))) from error


@contextmanager
def opened_archive(path: Path) -> Iterator[zipfile.ZipFile]:
    """A ``.keras`` archive whose directory is plausible. Raises ModelError where it is damaged or a trap."""
    with refusing(path, f"{shown(path)} is a damaged archive ({{reason}}). Copy it again."):
        archive = zipfile.ZipFile(path)
    with archive:
        _check_members(path, archive)
        yield archive


def _check_members(path: Path, archive: zipfile.ZipFile) -> None:
    members = archive.infolist()
    names = [member.filename for member in members]
    if CONFIG not in names:
        torch = any(name.endswith("data.pkl") for name in names)
        what = "a PyTorch file" if torch else "a zip archive without config.json"
        raise ModelError(f"{shown(path)} is {what}, not a Keras model. {TAKEN}")
    if len(set(names)) != len(names) or len(names) > MAX_MEMBERS:
        raise ModelError(f"{shown(path)} is no archive that Keras wrote: repeated or too many members. Save it again.")
    size, packed = sum(member.file_size for member in members), sum(member.compress_size for member in members)
    if size > MAX_ARCHIVE_BYTES or size > _MAX_INFLATION * packed + MAX_CONFIG_BYTES or packed > path.stat().st_size:
        raise ModelError(
            f"{shown(path)} claims to hold {size / 1e9:.1f} GB, more than a model of its size can. Save it again."
        )
    for name in names:
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/") or ":" in name:
            raise ModelError(f"{shown(path)} holds a member {shown(name)!r}, which leads out of it. Save it again.")


def member_of(path: Path, archive: zipfile.ZipFile, name: str) -> bytes:
    """A small member of an archive. Raises ModelError where it is damaged or large."""
    if archive.getinfo(name).file_size > MAX_CONFIG_BYTES:
        raise ModelError(f"{name} inside {shown(path)} is larger than {MAX_CONFIG_BYTES >> 20} MB. Save it again.")
    damaged = f"{name} inside {shown(path)} is damaged ({{reason}}). Copy it again."
    with refusing(path, damaged), archive.open(name) as handle:
        # The declared size is checked above, the real one here.
        data = handle.read(MAX_CONFIG_BYTES + 1)
    if len(data) > MAX_CONFIG_BYTES:
        raise ModelError(f"{name} inside {shown(path)} is larger than {MAX_CONFIG_BYTES >> 20} MB. Save it again.")
    return data


@contextmanager
def opened_hdf5(path: Path, shown_as: Path | None = None) -> Iterator[Any]:
    """An ``h5py.File``, to read. Raises ModelError where it is damaged, MissingExtraError where h5py is missing."""
    try:
        import h5py
    except ModuleNotFoundError as error:
        raise MissingExtraError("Reading an HDF5 file", "h5py", "export") from error
    where = shown_as or path
    with refusing(where, f"{shown(where)} holds damaged HDF5 ({{reason}}). Copy it again."):
        file = h5py.File(path, "r")
    with file:
        yield file


def json_of(path: Path, data: bytes, what: str) -> dict[str, Any]:
    """The JSON object in ``data``. Raises ModelError where it is damaged, no object, or nested too deeply."""
    try:
        value = json.loads(data)
    # Deep nesting, numbers of too many digits, text that is not UTF-8.
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{what} inside {shown(path)} is damaged ({reason(error)}). Copy it again.") from error
    if not isinstance(value, dict):
        raise ModelError(f"{what} inside {shown(path)} is damaged (no JSON object). Copy it again.")
    _check_depth(path, value, what)
    return value


def _check_depth(path: Path, value: Any, what: str) -> None:
    level, depth = [value], 0
    while level:
        depth += 1
        if depth > _MAX_DEPTH:
            raise ModelError(f"{what} inside {shown(path)} is nested too deeply for a model. Save the model again.")
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, dict | list)
        ]
