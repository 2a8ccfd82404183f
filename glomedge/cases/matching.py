"""The file of each listed name, and contradictions between a table of labels and the files."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from glomedge.cases.readings import CLASS_FOLDERS, NEGATIVE_FOLDER, POSITIVE_FOLDER, UNLABELLED_FOLDER
from glomedge.cases.text import some, tidy


@dataclass(frozen=True)
class Matches:
    """Which file each listed name means.

    Attributes:
        file_of: name -> index of its file, for the names that mean exactly one.
        missing: names without a file.
        ambiguous: names that may mean several files -> the indices of these.
        shared: index of a file that several names mean -> these names.
        relaxed: how names had to be read to find their file -> how many, such as ``without their suffix``.
    """

    file_of: dict[str, int]
    missing: list[str]
    ambiguous: dict[str, list[int]]
    shared: dict[int, list[str]]
    relaxed: Counter[str]

    def notes(self, listed_in: str) -> list[str]:
        """How names had to be read, one sentence each."""
        return [
            f"{count} name{' in ' if count == 1 else 's in '}{listed_in} {'was' if count == 1 else 'were'} found {how}."
            for how, count in sorted(self.relaxed.items())
        ]


def match_files(names: Iterable[str], files: Sequence[str]) -> Matches:
    """Find the file of each name, where only one can be meant.

    Args:
        names: as somebody listed them: base names, or with folders, without a suffix or with another case of it.
        files: paths with ``/`` between folders; a name of bytes that are not UTF-8 as ``os.fsdecode`` gives it.
    """
    index = _Index(files)
    file_of: dict[str, int] = {}
    missing: list[str] = []
    ambiguous: dict[str, list[int]] = {}
    named: dict[int, list[str]] = defaultdict(list)
    relaxed: Counter[str] = Counter()
    for name in names:
        places, how = index.find(name)
        if len(places) == 1:
            file_of[name] = places[0]
            named[places[0]].append(name)
            if how:
                relaxed[how] += 1
        elif places:
            ambiguous[name] = places
        else:
            missing.append(name)
    shared = {place: together for place, together in named.items() if len(together) > 1}
    return Matches(file_of, missing, ambiguous, shared, relaxed)


class _Index:
    """Files by what their names may be called."""

    def __init__(self, files: Sequence[str]) -> None:
        self._full = [_parts(path) for path in files]
        self._paths = [_without_class_folders(parts) for parts in self._full]
        self._exact: dict[str, list[int]] = defaultdict(list)
        self._tidy: dict[str, list[int]] = defaultdict(list)
        self._suffix: dict[str, list[int]] = defaultdict(list)
        self._stem: dict[str, list[int]] = defaultdict(list)
        for place, (path, parts) in enumerate(zip(files, self._paths, strict=True)):
            self._exact[path.rpartition("/")[2]].append(place)
            self._tidy[parts[-1]].append(place)
            stem, suffix = _split(parts[-1])
            self._suffix[stem + suffix.lower()].append(place)
            self._stem[stem].append(place)

    def find(self, name: str) -> tuple[list[int], str]:
        """Indices of the files that may be meant, and how the name had to be read ("" : as it is)."""
        raw = name.replace("\\", "/") if "\\" in name and name not in self._exact else name
        full = _parts(raw)
        parts = _without_class_folders(full)
        base = parts[-1]
        stem, suffix = _split(base)
        for table, key, how in (
            (self._exact, raw.rpartition("/")[2], ""),
            (self._tidy, base, ""),
            (self._suffix, stem + suffix.lower(), "with a suffix in different letter case"),
            (self._stem, base, "without their suffix"),
        ):
            if places := [place for place in table.get(key, ()) if _agree(parts, self._paths[place])]:
                nearest = [
                    place for place in places if len(full) > 1 and self._full[place][-len(full) : -1] == full[:-1]
                ]
                return (nearest if len(nearest) == 1 else places), how
        return [], ""


def _split(base: str) -> tuple[str, str]:
    """The name and its suffix with the dot; "" where there is none."""
    stem, dot, suffix = base.rpartition(".")
    return (stem, dot + suffix) if stem else (base, "")


def _parts(path: str) -> list[str]:
    """Tidied folders and the base name."""
    *folders, base = tidy(path).split("/")
    return [folder.strip() for folder in folders if folder not in ("", ".")] + [base.strip()]


def _without_class_folders(parts: Sequence[str]) -> list[str]:
    return [folder for folder in parts[:-1] if folder not in CLASS_FOLDERS] + [parts[-1]]


def _agree(listed: Sequence[str], found: Sequence[str]) -> bool:
    """Whether the folders do not contradict each other: one path goes on where the other ends."""
    return all(a == b for a, b in zip(reversed(listed[:-1]), reversed(found[:-1]), strict=False))


# --- contradictions -------------------------------------------------------------------------------------------------


def class_folder_label(path: str) -> int | None:
    """The label that the nearest class folder of a path says; None if there is none, or it is that of no label."""
    for folder in reversed(path.split("/")[:-1]):
        if folder in CLASS_FOLDERS:
            return None if folder == UNLABELLED_FOLDER else int(folder == POSITIVE_FOLDER)
    return None


def copies(crops: Iterable[tuple[str, str, int, str]]) -> tuple[list[str], list[str]]:
    """Files with the same bytes that contradict each other.

    Args:
        crops: name, SHA-256 of the file's bytes, label and biopsy of each.

    Returns:
        Groups of names under two labels, and groups in two biopsies (with one label), as text, in order.
    """
    groups: dict[str, list[tuple[str, int, str]]] = defaultdict(list)
    for name, sha256, label, case in crops:
        groups[sha256].append((name, label, case))
    labels, cases = [], []
    for group in groups.values():
        if len({label for _, label, _ in group}) > 1:
            labels.append(some((f"{name} (label {label})" for name, label, _ in sorted(group)), 4, " = "))
        elif len({case for _, _, case in group}) > 1:
            cases.append(some((f"{name} (biopsy {case})" for name, _, case in sorted(group)), 4, " = "))
    return sorted(labels), sorted(cases)


def contradictions(labels: Mapping[str, int], paths: Mapping[str, str], names: Collection[str]) -> list[str]:
    """Names whose file lies in the class folder of the other label; ``paths`` gives each name's path."""
    rows = []
    for name in names:
        in_folder = class_folder_label(paths[name])
        if in_folder is not None and in_folder != labels[name]:
            rows.append(
                f"{name}: labelled {labels[name]}, but is in {POSITIVE_FOLDER if in_folder else NEGATIVE_FOLDER}"
            )
    return rows
