"""Engines built for this machine, kept between runs, and never run when stale, damaged or someone else's.

A runtime's own cache key is not sufficient: onnxruntime's TensorRT provider does not hash the weights, so a retrained
model under the old name would run the old engine. Here each entry is a folder named by the SHA-256 of everything that
invalidates an engine when it changes. It holds the runtime's files and a passport: the key in words, and the SHA-256
of each file. An entry is used only when its passport and all its files agree; otherwise it is rebuilt.

Engines contain device code, so the folder is owner-only, and one that others could have written to is refused.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from glomedge.errors import OutputError, UsageError
from glomedge.system.user_folders import cache_folder

PASSPORT = "passport.json"
KEPT_ENTRIES = 16
TIMINGS = "timings-"
"""How the names of folders begin that ``timing_cache`` keeps in the cache."""


@dataclass(frozen=True)
class EngineKey:
    """Everything an engine depends on; a change in any field makes it another engine.

    Attributes:
        provider: short name.
        file_sha256: of the sealed model file: weights and spec.
        shapes: batch profile in words, such as ``1-8-32``.
        precision: what is computed in.
        onnxruntime: its version; empty where it takes no part.
        runtime: version of TensorRT, TensorRT-RTX or OpenVINO.
        driver: of the GPU; empty on a CPU.
        device: name with compute capability, or processor with its features.
        options: the remaining build options, canonical JSON.
        file_name: of the model file, where the runtime names its engine by it (TensorRT's providers do): under
            another name it would not find the engine, and build another beside it. Empty elsewhere.
    """

    provider: str
    file_sha256: str
    shapes: str
    precision: str
    onnxruntime: str
    runtime: str
    driver: str
    device: str
    options: str
    file_name: str = ""

    def digest(self) -> str:
        """SHA-256 (hex) over all fields and their names; the entry's folder name."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()


def default_root() -> Path:
    """The user's cache folder for glomedge by the platform's convention (XDG on Linux).

    Raises:
        OutputError: the user has no home folder, as in some containers.
    """
    folder = cache_folder()
    if folder is None:
        raise OutputError(
            "There is no place for the engine cache: this user has no home folder (HOME is not set to one, and user id "
            f"{os.getuid() if hasattr(os, 'getuid') else '?'} is not in the password database). Set HOME or "
            "XDG_CACHE_HOME to a folder of yours, or name one with --cache-dir."
        )
    return folder


def secure_root(given: Path | None = None) -> Path:
    """Create the cache folder owner-only, or check the existing one.

    Raises:
        UsageError: it is a link, belongs to another user, or others may write to it.
        OutputError: it cannot be created, or there is no home folder to create it in.
    """
    root = given or default_root()
    try:
        root.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            root.mkdir(mode=0o700)
        found = root.lstat()
    except OSError as error:
        raise OutputError(
            f"The engine cache {root} cannot be created: {error.strerror}. Name another with --cache-dir."
        ) from error
    if not stat.S_ISDIR(found.st_mode):
        raise UsageError(f"The engine cache {root} is a link or a file, not a folder. Name another with --cache-dir.")
    if hasattr(os, "getuid"):
        if found.st_uid != os.getuid():
            raise UsageError(
                f"The engine cache {root} belongs to another user (uid {found.st_uid}). Engines contain code, so "
                "only your own folder is used: name another with --cache-dir."
            )
        if found.st_mode & 0o022:
            raise UsageError(
                f"Other users can write to the engine cache {root} (mode {stat.S_IMODE(found.st_mode):o}). Engines "
                f"contain code: check its content and run chmod 700 {root}, or name another with --cache-dir."
            )
    return root


class Entry:
    """One engine in the cache: ``folder`` is where the runtime reads or writes it.

    Used as a context manager around the opening of a session: ``commit`` keeps what was built; leaving without it
    discards a new entry.

    Raises OutputError where the cache cannot be written to.

    Args:
        root: the cache.
        key: of the engine.
        instead: why an existing entry is not to be used, although it is valid: ``commit`` replaces it. Empty to use
            it.

    Attributes:
        folder: for the runtime.
        found: whether a valid engine existed at the start.
        built: whether one exists now.
        extended: whether the runtime built another engine beside the one that was found.
        reason: why an existing entry is not used; empty when there was none or it is valid.
    """

    def __init__(self, root: Path, key: EngineKey, instead: str = "") -> None:
        self._final = root / key.digest()
        self._key = key
        there = self._final.exists() or self._final.is_symlink()
        self.reason = (instead or problem(self._final, key)) if there else ""
        self.found = self.built = self._final.is_dir() and not self.reason
        self.extended = False
        self._replaces = bool(instead)
        if self.built:
            self.folder = self._final
            with contextlib.suppress(OSError):
                os.utime(self._final)  # prune() drops the least recently used
        else:
            if not instead:
                _remove(self._final)
            self.folder = fresh_folder(root)
        self._at_start = _states(self.folder)

    def commit(self) -> bool:
        """Keep what the runtime built, by one rename.

        False when it wrote nothing, the disk is full, or another process was first. A runtime that did not take the
        engine it was given has written into the folder: what is there now is recorded, or the next start would refuse
        it all.
        """
        if self.built:
            # The look first, because hashes take time. A file that was written anew as it was changes nothing.
            self.extended = _states(self.folder) != self._at_start and bool(problem(self.folder, self._key))
            if self.extended:
                with contextlib.suppress(OSError):
                    _seal(self.folder, self._key)
            return True
        if not _files(self.folder):
            self.discard()
            return False
        try:
            _seal(self.folder, self._key)
            if self._replaces:
                _remove(self._final)
            self.folder.rename(self._final)
        except OSError:  # the disk is full, or another process was first; the loaded engine still runs
            self.discard()
            return False
        self.folder, self.built = self._final, True
        prune(self._final.parent)
        return True

    def drop(self) -> bool:
        """Remove the entry although its passport agrees: the runtime cannot use it, or gives wrong answers with it.

        Returns whether it existed at the start.
        """
        shutil.rmtree(self._final, ignore_errors=True)
        return self.found

    def discard(self) -> None:
        """Discard a new entry; a valid one that was found stays."""
        if not self.built:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.discard()


class WorkingCopy:
    """An engine for a runtime that rewrites its cache each time it closes (TensorRT-RTX).

    The runtime reads and writes a private copy; ``keep``, called once the runtime is closed, replaces the entry with it
    if it holds anything new. So a valid entry never disagrees with its passport.

    Args: as of ``Entry``.

    Attributes:
        folder: for the runtime.
        entry: the cache entry at the start.
    """

    def __init__(self, root: Path, key: EngineKey, instead: str = "") -> None:
        self.entry = Entry(root, key, instead)
        self._root, self._key, self._unwanted = root, key, False
        self.folder = self.entry.folder
        if self.entry.built:
            self.folder = fresh_folder(root)
            try:
                for name in _files(self.entry.folder):
                    (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(self.entry.folder / name, self.folder / name)
                (self.folder / PASSPORT).unlink()
            except OSError:  # another process is replacing the entry; an empty copy is rebuilt
                shutil.rmtree(self.folder, ignore_errors=True)
                self.folder = fresh_folder(root)

    def keep(self) -> bool:
        """Keep what the runtime left; False when it left nothing new or the cache cannot be written to."""
        if self._unwanted:
            self.discard()
            return False
        if not self.entry.built:
            return self.entry.commit()
        try:
            new = bool(_files(self.folder))
            if new:
                _seal(self.folder, self._key)
                new = (self.folder / PASSPORT).read_bytes() != (self.entry.folder / PASSPORT).read_bytes()
            if new:
                # A reader between the two steps finds no entry and builds one.
                _remove(self.entry.folder)
                self.folder.rename(self.entry.folder)
                return True
        except OSError:
            pass
        self.discard()
        return False

    def drop(self) -> bool:
        """Remove the entry and discard the copy; returns whether the entry existed at the start."""
        self._unwanted = True
        return self.entry.drop()

    def discard(self) -> None:
        """Discard the copy; the entry stays."""
        shutil.rmtree(self.folder, ignore_errors=True)


def cache_notes(entry: Entry) -> tuple[str, ...]:
    """What happened with the engine cache, for the user; asked once ``Entry.commit`` was called, or before."""
    if entry.extended:
        return ("the provider did not take the cached engine and built another beside it",)
    if entry.found:
        return ("engine taken from the cache",)
    if entry.reason:
        return (f"cached engine not used: {entry.reason}; rebuilt",)
    return ("engine built; glomedge warm builds it ahead of time",)


def problem(folder: Path, key: EngineKey) -> str:
    """Why an entry must not be used, in words; empty when it is valid."""
    try:
        found = folder.lstat()
        if not stat.S_ISDIR(found.st_mode) or (hasattr(os, "getuid") and found.st_uid != os.getuid()):
            return "it is not a folder that you own"
        passport = json.loads((folder / PASSPORT).read_text(encoding="utf-8"))
        if passport["key"] != asdict(key):
            return "it was built for something else"
        recorded: dict[str, str] = dict(passport["files"])
        present = _files(folder)
        if set(present) - {PASSPORT} != set(recorded):
            return "files were added or removed"
        changed = [name for name, sha256 in recorded.items() if _sha256(folder / name) != sha256]
    except OSError as error:
        return f"it cannot be read ({error.strerror})"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its passport is damaged"
    return f"{changed[0]} has changed" if changed else ""


def prune(root: Path, keep: int = KEPT_ENTRIES) -> None:
    """Remove all but the ``keep`` most recently used entries, and leftovers of builds interrupted over a day ago.

    As many timing caches are kept as entries.
    """
    entries: list[tuple[float, Path]] = []
    timings: list[tuple[float, Path]] = []
    for folder in root.iterdir():
        with contextlib.suppress(OSError):
            if len(folder.name) == 64 and folder.is_dir():
                entries.append((folder.stat().st_mtime, folder))
            elif folder.name.startswith(TIMINGS):
                timings.append((folder.stat().st_mtime, folder))
            elif folder.name.startswith(".building-") and _age_s(folder) > 86_400:
                _remove(folder)
    for _, folder in (*sorted(entries, reverse=True)[keep:], *sorted(timings, reverse=True)[keep:]):
        _remove(folder)


def fresh_folder(root: Path) -> Path:
    """An empty folder in the cache, for what is not finished. Raises OutputError where it cannot be made."""
    folder = root / f".building-{os.getpid()}-{secrets.token_hex(6)}"
    try:
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise OutputError(
            f"The engine cache {root} cannot be written to: {error.strerror}. Name another with --cache-dir."
        ) from error
    return folder


def _seal(folder: Path, key: EngineKey) -> None:
    """Write the passport for everything in the folder."""
    files = {name: _sha256(folder / name) for name in _files(folder) if name != PASSPORT}
    with (folder / PASSPORT).open("w", encoding="utf-8") as handle:
        json.dump({"key": asdict(key), "files": files}, handle, indent=1, sort_keys=True)
        handle.flush()
        os.fsync(handle.fileno())


def _age_s(folder: Path) -> float:
    import time

    return time.time() - folder.stat().st_mtime


def _remove(folder: Path) -> None:
    if folder.is_symlink() or folder.is_file():
        folder.unlink(missing_ok=True)
    else:
        shutil.rmtree(folder, ignore_errors=True)


def _files(folder: Path) -> list[str]:
    """Relative names of everything that is not a folder, sorted; links count as files whose hash never matches."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_symlink() or not path.is_dir())


def _states(folder: Path) -> dict[str, tuple[int, int]]:
    """Size in bytes and time of the last change in ns of every file: a look, where hashes would take a second."""
    found = {}
    for name in _files(folder):
        with contextlib.suppress(OSError):
            state = (folder / name).lstat()
            found[name] = (state.st_size, state.st_mtime_ns)
    return found


def _sha256(path: Path) -> str:
    if path.is_symlink() or not path.is_file():
        return "not a regular file"
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
