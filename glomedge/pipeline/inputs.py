"""The inputs of a folder, in a fixed order.

An input is every entry whose name ends like an image (``images.ALLOWED_SUFFIXES``, any case) and does not
begin with a dot, at any depth. Each yields one row of the results:

- a regular file is read and classified;
- a FIFO, socket or device of such a name is never opened: ``error:not_regular`` (a folder of such a name is walked);
- a folder or thumbnail created by a NAS or an operating system (``@eaDir``, ``#recycle``) is skipped and counted;
- a folder that cannot be listed: one row ``error:permission`` under its name with a slash at the end.

Symbolic links are counted and skipped by default; if followed, no folder is entered twice, so a loop ends.
"""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, overload

from glomedge.errors import UsageError
from glomedge.files.names import escape_name, escape_names
from glomedge.system.stopping import StoppedError, unless_stopped

HEATMAP_SUFFIX = b".heatmap.jpg"
"""What ``--heatmaps`` appends to a crop's name; such files are never inputs, or they would count as crops next time."""

_SYSTEM_FOLDERS = frozenset(
    # NAS: Synology, QNAP, NetApp, Btrfs/ZFS/Samba snapshots and their recycle bins.
    b"@eadir @tmp @recycle #recycle .recycle @recently-snapshot @snapshot @snapshots #snapshot ~snapshot .snapshot "
    b".snapshots .zfs .@__thumb @sharebin @sharesnap .ckpt .snap "
    # Windows.
    b"$recycle.bin recycler recycled system?volume?information $extend found.000 "
    # macOS and what it leaves on shares and in archives.
    b"__macosx .appledouble .appledb .trash .trashes .spotlight-v100 .fseventsd .temporaryitems "
    b".documentrevisions-v100 network?trash?folder temporary?items thevolumesettingsfolder "
    # Linux and desktops.
    b"lost+found .thumbnails .thumbs .xvpics".replace(b"?", b"\0").split()
)
"""Folders created by file servers and operating systems, in lower case, with NUL for a blank: copies, thumbnails and
deleted files, never crops of a patient. Matched in any letter case."""
_SYSTEM_IMAGES = (b"synophoto_thumb_", b"synofile_thumb_", b"synoindex_")
"""Prefixes of a NAS's own thumbnails, in lower case: they remain when @eaDir is copied flat."""


def is_system_folder(name: bytes) -> bool:
    """Whether a folder of that name is a file server's or a system's own."""
    lower = name.lower().replace(b" ", b"\0")
    return lower in _SYSTEM_FOLDERS or lower.startswith(b".trash-")


PART_MARK = b"#"
"""Between the path of a file and the name of a part of it: ``S-1.svs#0000007_<id>`` is an outline on a slide."""


class Found(NamedTuple):
    """One input: its path relative to the folder, and why it cannot be opened (an error code), if so.

    Of a part of a file (an outline on a slide) ``relative`` is the file's path with ``PART_MARK`` and the part's name
    after it, or with nothing after it where the file as a whole has no answer; ``part`` is its number in the run.
    """

    relative: bytes
    error: str | None = None
    part: int | None = None

    @property
    def file(self) -> bytes:
        """The path of the file itself, relative to the folder."""
        return self.relative if self.part is None else self.relative.rpartition(PART_MARK)[0]

    @property
    def key(self) -> str:
        """The relative path as written to every output (``files.names.escape_name``)."""
        return escape_name(self.relative)


_KEYS_AT_ONCE = 1024


class Keys(Sequence[str]):
    """The keys of many inputs, made as they are asked for: a list of them would take more room than all answers."""

    def __init__(self, inputs: Sequence[Found]) -> None:
        self._inputs = inputs

    def __len__(self) -> int:
        return len(self._inputs)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> list[str]: ...
    def __getitem__(self, place: int | slice) -> str | list[str]:
        if isinstance(place, slice):
            return [found.key for found in self._inputs[place]]
        return self._inputs[place].key

    def __iter__(self) -> Iterator[str]:
        for begin in range(0, len(self._inputs), _KEYS_AT_ONCE):
            yield from escape_names([found.relative for found in self._inputs[begin : begin + _KEYS_AT_ONCE]])


@dataclass
class Scan:
    """The inputs of one folder, sorted by the bytes of their relative path.

    Attributes:
        root: the folder, or the address in object storage, as bytes.
        inputs: every input found.
        links_skipped: symbolic links that were not followed.
        hidden_skipped: image names beginning with a dot (such as macOS' ``._`` companions).
        heatmaps_skipped: overlays that ``--heatmaps`` drew in an earlier run (``HEATMAP_SUFFIX``): no crops.
        system_skipped: folders and thumbnails that a NAS or a system made (``is_system_folder``) -> how many.
        other_files: files whose name does not end like an image.
        slides_in_storage: slides that were left out, because only those on a disk can be read.
    """

    root: bytes
    inputs: list[Found] = field(default_factory=list)
    links_skipped: int = 0
    hidden_skipped: int = 0
    heatmaps_skipped: int = 0
    system_skipped: Counter[str] = field(default_factory=Counter)
    other_files: int = 0
    slides_in_storage: int = 0

    def takes(self, relative: bytes, endings: tuple[bytes, ...]) -> bool:
        """Whether a file that is known by its path alone is an input; counts what is not."""
        *folders, name = relative.split(b"/")
        is_image = name.lower().endswith(endings)
        own = next(filter(is_system_folder, folders), None)
        if own is not None:
            self.system_skipped[escape_name(own)] += 1
        elif is_image and name.lower().startswith(_SYSTEM_IMAGES):
            self.system_skipped["thumbnails of a NAS"] += 1
        elif name.startswith(b".") or any(folder.startswith(b".") for folder in folders):
            self.hidden_skipped += is_image and name.startswith(b".")
        elif name.endswith((HEATMAP_SUFFIX, b".heatmap.png")):
            self.heatmaps_skipped += 1
        elif not is_image:
            self.other_files += bool(name)  # an empty name is a folder's own object
        else:
            return True
        return False

    def path(self, found: Found) -> bytes:
        """The full path of an input, or of the file that it is a part of."""
        return os.path.join(self.root, found.file)  # noqa: PTH118 (bytes)

    def notes(self) -> list[str]:
        """What was skipped, one sentence each."""
        notes = []
        if self.links_skipped:
            notes.append(f"{self.links_skipped} symbolic links were not followed (--follow-symlinks follows them).")
        if self.hidden_skipped:
            notes.append(f"{self.hidden_skipped} images whose names begin with a dot were skipped.")
        if self.slides_in_storage:
            notes.append(
                f"{self.slides_in_storage} slides were left out: slides are read from disks only, not from storage. "
                "Copy or mount them."
            )
        if self.system_skipped:
            named = ", ".join(f"{name} ({count})" for name, count in sorted(self.system_skipped.items()))
            notes.append(f"Skipped, because created by the file server or operating system: {named}.")
        if self.heatmaps_skipped:
            notes.append(f"{self.heatmaps_skipped} heatmaps of an earlier run (*.heatmap.*) were skipped.")
        return notes


def scan(
    root: str | bytes | os.PathLike[str],
    suffixes: Collection[str],
    *,
    follow_symlinks: bool = False,
    exclude: Collection[Path] = (),
    stop: Callable[[], bool] = lambda: False,
) -> Scan:
    """Find every input under ``root`` (or ``root`` itself where it is a file).

    Args:
        suffixes: lower-case endings with their dot.
        follow_symlinks: enter linked folders and read linked files.
        exclude: folders never entered (the run's own outputs).
        stop: polled at every entry: listing a network share can take minutes.

    Raises:
        UsageError: the folder does not exist or cannot be listed.
        StoppedError: ``stop`` returned true.
    """
    top = os.fsencode(root)
    endings = tuple(suffix.encode() for suffix in suffixes)
    try:
        status = os.stat(top)  # noqa: PTH116 (bytes)
    except OSError as error:
        raise UsageError(f"{escape_name(top)}: {error.strerror}. Give a folder of glomerulus crops.") from None
    if not stat.S_ISDIR(status.st_mode):
        folder, name = os.path.split(top)
        if not stat.S_ISREG(status.st_mode) or not name.lower().endswith(endings):
            raise UsageError(
                f"{escape_name(top)} is neither a folder nor an image ({', '.join(sorted(suffixes))}). "
                "Give a folder of glomerulus crops."
            )
        return Scan(folder or b".", [Found(name)])
    barred = set()
    for path in exclude:
        try:
            barred.add(_identity(path.stat()))
        except OSError:
            continue
    found = Scan(top)
    walk = _Walk(found, endings, follow_symlinks, barred, stop)
    found.inputs.extend(walk.folder(b"", {_identity(status)}))
    if found.inputs and found.inputs[0].relative == b"/":
        raise UsageError(
            f"{escape_name(top)} cannot be listed: permission denied. Change its permissions or run as its owner."
        )
    return found


def _identity(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino


class _Walk:
    def __init__(
        self,
        result: Scan,
        endings: tuple[bytes, ...],
        follow: bool,
        barred: set[tuple[int, int]],
        stop: Callable[[], bool],
    ) -> None:
        self._result = result
        self._endings = endings
        self._follow = follow
        self._barred = barred
        self._stop = stop

    def folder(self, prefix: bytes, seen: set[tuple[int, int]]) -> Iterator[Found]:
        """Depth first. A folder sorts as its name plus a slash: that is the order of the bytes of whole paths.

        An explicit stack, because folders can be nested deeper than Python recurses.
        """
        stack = [iter(self._entries(prefix, seen))]
        while stack:
            if self._stop():  # here too: there may be nothing but empty folders
                raise StoppedError
            entry = next(stack[-1], None)
            if entry is None:
                stack.pop()
            elif isinstance(entry, Found):
                yield entry
            else:
                stack.append(iter(self._entries(entry, seen)))

    def _entries(self, prefix: bytes, seen: set[tuple[int, int]]) -> list[Found | bytes]:
        """The inputs (Found) and folders to walk (their prefix, with slash) directly under one folder, in order."""
        where = os.path.join(self._result.root, prefix) if prefix else self._result.root  # noqa: PTH118 (bytes)
        listed: list[tuple[bytes, Found | bytes]] = []
        try:
            with os.scandir(where) as entries:
                # By name first: which of two links to one folder is entered must not depend on the file system.
                by_name = sorted(unless_stopped(entries, self._stop), key=lambda entry: entry.name)
                for entry in unless_stopped(by_name, self._stop):
                    item = self._classify(prefix, entry, seen)
                    if item is not None:
                        listed.append((item.relative if isinstance(item, Found) else item, item))
        except PermissionError:
            return [Found(prefix or b"/", "permission")]
        except (FileNotFoundError, NotADirectoryError):
            return [Found(prefix or b"/", "vanished")]
        except OSError:
            return [Found(prefix or b"/", "io")]
        return [item for _, item in sorted(listed, key=lambda pair: pair[0])]

    def _is_systems_own(self, entry: os.DirEntry[bytes], is_image: bool) -> bool:
        if is_image and entry.name.lower().startswith(_SYSTEM_IMAGES):
            self._result.system_skipped["thumbnails of a NAS"] += 1
            return True
        if not is_system_folder(entry.name):
            return False
        try:
            if not entry.is_dir():
                return False
        except OSError:
            return False
        self._result.system_skipped[escape_name(entry.name)] += 1
        return True

    def _classify(self, prefix: bytes, entry: os.DirEntry[bytes], seen: set[tuple[int, int]]) -> Found | bytes | None:
        relative = prefix + entry.name
        is_image = entry.name.lower().endswith(self._endings)
        if self._is_systems_own(entry, is_image):
            return None
        if entry.name.startswith(b"."):
            self._result.hidden_skipped += is_image
            return None
        if entry.name.endswith((HEATMAP_SUFFIX, b".heatmap.png")):  # PNG: before they were JPEG
            self._result.heatmaps_skipped += 1
            return None
        if entry.is_symlink() and not self._follow:
            self._result.links_skipped += 1
            return None
        try:
            if entry.is_dir():
                identity = _identity(entry.stat())
                if identity in self._barred or identity in seen:
                    return None
                seen.add(identity)
                return relative + b"/"
            if not is_image:
                self._result.other_files += 1
                return None
            # Never opened: reading a FIFO would wait for ever, a device may do anything.
            regular = entry.is_file() or (entry.is_symlink() and not os.path.exists(entry.path))  # noqa: PTH110
        except PermissionError:
            return Found(relative, "permission")
        except OSError:
            return Found(relative, "io")
        return Found(relative, None if regular else "not_regular")
