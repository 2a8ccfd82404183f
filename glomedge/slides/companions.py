"""The other files of a slide that lies in several: pixels of MRXS, DICOM and VMS slides are not in the file one names.

A resumed run asks whether a slide is still the one that was answered. For one file its size and time tell; here they
are told of all the others together.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

_MAGIC_END = 132  # PS3.10, 7.1
_HEAD_BYTES = 1 << 16
# The study and, next to it, the series: so they stand in the instance itself and in no reference to another one.
_SERIES = re.compile(
    rb"\x20\x00\x0d\x00(?:UI..|..\x00\x00)[0-9.]{1,64}\x00?\x20\x00\x0e\x00(?:UI..|..\x00\x00)([0-9.]{1,64})", re.DOTALL
)  # DICOM PS3.6: (0020,000D), (0020,000E); PS3.5, 7.1.2 and 7.1.3: with its VR or, implicitly, a length alone
_NAMED = re.compile(rb"^[^=\r\n]*=[ \t]*([^\r\n]+?)[ \t]*\r?$", re.MULTILINE)


class Companions:
    """Finds the files that belong to slides; each folder of DICOM files is read once."""

    def __init__(self) -> None:
        self._series: dict[Path, dict[bytes, list[Path]]] = {}

    def of(self, slide: Path, vendor: str) -> list[Path]:
        """The files of a slide besides the one that is named, sorted; none where a slide is one file.

        Args:
            slide: its path.
            vendor: of its format, as OpenSlide names it (``SlideInfo.vendor``).
        """
        try:
            if vendor == "mirax":
                return sorted(path for path in slide.with_suffix("").iterdir() if path.is_file())
            if vendor == "hamamatsu" and slide.suffix.lower() in (".vms", ".vmu"):
                names = dict.fromkeys(map(os.fsdecode, _NAMED.findall(slide.read_bytes()[:_HEAD_BYTES])))
                return sorted(path for name in names if (path := slide.parent / name).is_file())
            if vendor == "dicom":
                return [path for path in self._of_series(slide) if path != slide]
        except (OSError, ValueError):  # ValueError: a name with a NUL in it
            pass
        return []

    def _of_series(self, slide: Path) -> list[Path]:
        folder = slide.parent
        if folder not in self._series:
            found = self._series[folder] = dict[bytes, list[Path]]()
            for path in sorted(folder.iterdir()):
                found.setdefault(_series_of(path), []).append(path)
        series = _series_of(slide)
        return self._series[folder].get(series, []) if series else []

    def stamp(self, slide: Path, vendor: str) -> int:
        """A number that changes with names, sizes and times of those files; 0 where there are none."""
        companions = self.of(slide, vendor)
        if not companions:
            return 0
        digest = hashlib.blake2b(digest_size=8)
        for path in companions:
            try:
                status = path.stat()
                told = f"{status.st_size} {status.st_mtime_ns}"
            except OSError:
                told = "gone"
            digest.update(os.fsencode(path.name) + b"\0" + told.encode("ascii") + b"\0")
        return int.from_bytes(digest.digest(), "big") >> 1 or 1  # as wide as a time


def _series_of(path: Path) -> bytes:
    """The series that a DICOM file is of; empty where it is none or cannot be read."""
    try:
        if not path.is_file():  # to open a FIFO waits for a writer, for ever
            return b""
        with path.open("rb", buffering=0) as handle:
            if handle.read(_MAGIC_END)[-4:] != b"DICM":  # a folder may hold many other files
                return b""
            found = _SERIES.search(handle.read(_HEAD_BYTES))
    except OSError:
        return b""
    return found[1] if found else b""
