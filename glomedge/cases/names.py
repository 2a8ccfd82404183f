"""The biopsy (case) and the slide of a crop, read from its file name.

Training splits, parity gates and results per biopsy all use this module, so a crop can never count for one biopsy in
training and for another in the results. docs/cases.md shows the rules with examples.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from glomedge.cases.neighbours import Neighbours, Read
from glomedge.cases.numbers import Decision, Ending, Evidence, ending_of
from glomedge.cases.readings import (
    CLASS_FOLDERS,
    CaseName,
    Reading,
    Rule,
    by_folder,
    by_shape,
    is_date,
    of_slide,
    slide_file_of,
    stem_of,
)
from glomedge.cases.text import counted, some, tidy
from glomedge.errors import UsageError

__all__ = ["CLASS_FOLDERS", "UNKNOWN_CASE", "CaseFinder", "CaseName", "case_of", "compile_case_pattern"]

UNKNOWN_CASE = "unknown"
"""The case of a crop whose name and folders say nothing about it."""

_EXAMPLES = 5
_MOST_FOLDERS_NAMED = 3
_WINDOWS_NUMBER = re.compile(r"(?P<slide>.+?) ?\((?P<number>[0-9]+)\)", re.DOTALL)
# S21_7: only where no folder says more, and only where the part before looks like an id.
_UNDERSCORE_NUMBER = re.compile(r"(?P<slide>.*[0-9].*)_[0-9]+", re.DOTALL)


def case_of(name: str, pattern: str | None = None) -> CaseName:
    """The biopsy and the slide of one crop; for a folder of crops, ``CaseFinder`` is more reliable.

    Args:
        name: file name, or path relative to the folder that was read, with ``/`` between folders.
        pattern: regular expression (Python's ``re``) with a named group ``case`` and optionally ``slide``, searched
            for in the base name with its suffix, or in the whole ``name`` when the pattern holds a ``/``. Replaces
            the rules for names. Without a ``slide`` group the slide is the case.

    Returns:
        The case and slide, in Unicode form NFC and without blanks around them. Where no rule fits, both are the nearest
        parent folder that may be a biopsy's (no class folder, magnification or date); where there is none either, both
        are ``unknown``.

    Raises:
        UsageError: the pattern is no regular expression, or has no group named ``case``.
    """
    return _read(name, pattern, {}).reading.name


_Kind = tuple[tuple[str, ...], int]
# Of the names with the same prefix if there are enough of them, else of all of that kind.
_Decisions = Mapping[tuple[_Kind, str | None], Decision]


def _read(name: str, pattern: str | None, decisions: _Decisions) -> Read:
    """The reading of one name."""
    parts = tuple(tidy(name).split("/"))
    folders, base = parts[:-1], parts[-1]
    if pattern is not None:
        reading = _by_pattern("/".join(parts), base, pattern)
        return Read(reading or by_folder(folders) or _unknown(), reading is not None)
    if (slide := slide_file_of(base)) is not None:
        return Read(of_slide("slide", slide) or by_folder(folders) or _unknown(), sure=True)
    stem = stem_of(base.strip())
    if reading := by_shape(stem):
        return Read(reading, sure=True)
    if ending := ending_of(stem):
        return _by_numbers(ending, stem, folders, decisions)
    if (match := _WINDOWS_NUMBER.fullmatch(stem)) and (reading := of_slide("running number", match["slide"])):
        return Read(reading, sure=False)
    reading = by_folder(folders)
    return Read(reading, sure=True) if reading else Read(_unknown(), sure=False)


def _by_numbers(ending: Ending, stem: str, folders: tuple[str, ...], decisions: _Decisions) -> Read:
    free_numbers = 1
    if len(ending.numbers) > 1:
        kind = ending.kind
        decision = decisions.get((kind, ending.start)) or decisions.get((kind, None))
        free_numbers = decision.dropped if decision and decision.dropped in (1, 2) else 0
        decision = decision or _alone(ending)
        rule: Rule = "running number" if decision.dropped == 1 else "coordinates"
        if reading := of_slide(rule, ending.without(decision.dropped)):
            return Read(reading, decision.sure, free_numbers)
    elif ending.separators == ("-",) and (reading := of_slide("running number", ending.start)):
        return Read(reading, True, free_numbers)
    if reading := by_folder(folders):
        return Read(reading, True, free_numbers)
    match = _UNDERSCORE_NUMBER.fullmatch(stem)
    if match and len(ending.numbers) == 1 and (reading := of_slide("running number", match["slide"])):
        return Read(reading, False, free_numbers)
    return Read(_unknown(), False, free_numbers)


def _alone(ending: Ending) -> Decision:
    """The meaning of the numbers of one name, without other names to compare."""
    evidence = Evidence()
    evidence.add(ending)
    decision = evidence.decide(ending.kind)
    # 12-345-110 without others: two numbers before the last make an id as likely as a place.
    if decision.dropped == 2 and "_" not in ending.separators and not re.search("[-_ ]", ending.without(2)):
        return Decision(1, sure=False) if ending.without(2).isdecimal() else decision
    return decision


def _unknown() -> Reading:
    return Reading("unknown", CaseName(UNKNOWN_CASE, UNKNOWN_CASE))


def _by_pattern(path: str, base: str, pattern: str) -> Reading | None:
    compiled = compile_case_pattern(pattern)
    match = compiled.search(path if "/" in pattern else base)
    if not match or not match["case"] or not (case := match["case"].strip()):
        return None
    slide = (match["slide"] or "").strip() if "slide" in compiled.groupindex else ""
    return Reading("pattern", CaseName(case, slide or case))


class CaseFinder:
    """The biopsy of every crop of a folder, judged with all its names in view, and how it was found.

    Args:
        names: all names, relative to the folder that was read, ``/`` between folders; gone through twice and not kept.
        pattern: as for ``case_of``.

    Raises:
        UsageError: the pattern is not usable, or fits none of the names.
    """

    def __init__(self, names: Iterable[str], pattern: str | None = None) -> None:
        self._pattern = pattern
        names = names if isinstance(names, Sequence) else list(names)
        self._decisions = {} if pattern is not None else _decisions(names)
        self._found: Counter[Rule] = Counter()
        self._doubtful: Counter[Rule] = Counter()
        self._examples: dict[Rule, list[str]] = defaultdict(list)
        self._folders: Counter[str] = Counter()
        self._dates: Counter[str] = Counter()  # folders of crops that no rule fits
        self._cases: Counter[str] = Counter()
        neighbours = Neighbours()
        last, first, count = None, "", 0
        for name in names:
            read = self._read(name, neighbours)
            if read is not last:
                self._count(last, first, count)
                last, first, count = read, name, 0
            count += 1
            if not read.sure and len(examples := self._examples[read.reading.rule]) < _EXAMPLES:
                examples.append(name)
        self._count(last, first, count)
        if pattern is not None and names and not self._found["pattern"]:
            raise UsageError(
                f"The case pattern {pattern!r} matches none of the {len(names)} names, such as {some(names, 2)}. "
                "Correct --case-pattern, or omit it to use the standard rules."
            )

    def case_of(self, name: str) -> CaseName:
        """The biopsy and the slide of one crop, decided from all names."""
        return _read(name, self._pattern, self._decisions).reading.name

    def cases_of(self, names: Iterable[str]) -> list[CaseName]:
        """The same of many crops, quickest where those of a slide follow each other."""
        neighbours = Neighbours()
        return [self._read(name, neighbours).reading.name for name in names]

    def _read(self, name: str, neighbours: Neighbours) -> Read:
        read = neighbours.again(name)
        if read is None:
            read = neighbours.keep(name, _read(name, self._pattern, self._decisions))
        return read

    def _count(self, read: Read | None, first: str, count: int) -> None:
        """So many names that follow each other, all in the folder of the first, were read in that way."""
        if read is None:
            return
        rule, name = read.reading
        self._found[rule] += count
        self._cases[name.case] += count
        if rule == "folder":
            self._folders[name.slide] += count
        elif rule == "unknown":
            for folder in [folder for folder in tidy(first).split("/")[:-1] if is_date(folder)][-1:]:
                self._dates[folder] += count
        if not read.sure:
            self._doubtful[rule] += count

    def found_by(self) -> dict[str, int]:
        """Number of crops by rule: ``pattern``, ``region``, ``parts``, ``coordinates``, ``running number``, ..."""
        return {rule: count for rule, count in sorted(self._found.items()) if count}

    def summary(self) -> str:
        """How the biopsies were found, in one sentence with counts."""
        found, parts = self._found, []
        by_name = {rule: found[rule] for rule in _RULE_WORDS if found[rule]}
        if found["pattern"]:
            parts.append(f"{_crops(found['pattern'])}: by --case-pattern")
        if by_name:
            rules = [_RULE_WORDS[rule] + (f": {count}" if len(by_name) > 1 else "") for rule, count in by_name.items()]
            parts.append(f"{_crops(sum(by_name.values()))}: by name ({', '.join(rules)})")
        if self._folders:
            parts.append(f"{_crops(found['folder'])}: from {self._folder_words()}")
        if found["unknown"]:
            parts.append(f"{_crops(found['unknown'])}: no biopsy found, pooled as '{UNKNOWN_CASE}'")
        biopsies = len(self._cases) - (0 < self._cases[UNKNOWN_CASE] == found["unknown"])
        if not biopsies and self._cases:
            return f"No biopsy was found: {_crops(found['unknown'])}, pooled as '{UNKNOWN_CASE}'."
        many = "1 biopsy was" if biopsies == 1 else f"{biopsies} biopsies were"
        return f"How the {many} found: {'; '.join(parts) or 'there is no crop'}."

    def warnings(self) -> list[str]:
        """What had to be guessed and what looks wrong, one sentence each; empty if nothing did."""
        return [*self._guesses(), *self._oddities()]

    def as_json(self) -> dict[str, Any]:
        """For ``run.json``: counts by rule, the summary and the warnings."""
        return {"counts": self.found_by(), "summary": self.summary(), "warnings": self.warnings()}

    def sentences(self) -> list[str]:
        """The summary, then the warnings."""
        return [self.summary(), *self.warnings()]

    def _folder_words(self) -> str:
        folders = [folder for folder, _ in sorted(self._folders.items())]
        if len(folders) > _MOST_FOLDERS_NAMED:
            return f"{len(folders)} folders"
        named = ", ".join(f"'{some([folder])}'" for folder in folders)
        return f"the folder{'s' if len(folders) > 1 else ''} {named}"

    def _guesses(self) -> list[str]:
        found, doubtful, sentences = self._found, self._doubtful, []
        if found["pattern"]:
            unfit = doubtful["folder"] + doubtful["unknown"]
            examples = [*self._examples["folder"], *self._examples["unknown"]]
            if unfit:
                sentences.append(
                    f"CHECK: --case-pattern does not match {unfit} of {sum(found.values())} names: "
                    f"{some(examples[:_EXAMPLES])}{' ...' if unfit > _EXAMPLES else ''}. They are assigned to their "
                    f"folder, or to '{UNKNOWN_CASE}'."
                )
            return sentences
        readings: tuple[tuple[Rule, str], ...] = (
            ("coordinates", "the numbers at the end were read as the position on the slide"),
            ("running number", "only the last number was read as the crop's, the rest as the biopsy's"),
        )
        for rule, reading in readings:
            if doubtful[rule]:
                sentences.append(
                    f"CHECK: {_names_of(doubtful[rule], 'is', 'are')} ambiguous; {reading}: "
                    f"{self._shown(rule)}. Give --case-pattern if that is wrong."
                )
        others = sum(found.values()) - found["folder"] - found["unknown"]
        if found["folder"] and others:
            sentences.append(
                f"CHECK: {_names_of(found['folder'], 'does', 'do')} not identify a biopsy, unlike the others; "
                f"{'it is' if found['folder'] == 1 else 'they are'} assigned to {self._folder_words()}."
            )
        return sentences

    def _oddities(self) -> list[str]:
        sentences = []
        if self._dates and self._pattern is None:
            dates = some((f"'{folder}'" for folder in sorted(self._dates)), _MOST_FOLDERS_NAMED)
            sentences.append(
                f"CHECK: a date is not taken for a biopsy ({dates}), and nothing else tells that of "
                f"{_crops(self._dates.total())}. If each such folder is one biopsy, give "
                "--case-pattern '(?P<case>[^/]+)/[^/]+$'."
            )
        crops = sum(self._cases.values())
        if crops >= 2 * _EXAMPLES and len(self._cases) * 10 > crops * 9:
            sentences.append(
                f"CHECK: {crops} crops gave {len(self._cases)} biopsies, nearly one per crop, such as "
                f"{some(sorted(self._cases), 3)}. The biopsy is probably named differently: give --case-pattern."
            )
        alike: dict[str, list[str]] = defaultdict(list)
        for case in sorted(self._cases):
            alike[case.casefold()].append(case)
        twins = ["/".join(cases) for cases in alike.values() if len(cases) > 1]
        if twins:
            sentences.append(
                f"CHECK: biopsies that differ only in letter case are counted separately: {some(twins, _EXAMPLES)}."
            )
        return sentences

    def _shown(self, rule: Rule) -> str:
        return some((f"{name} -> {self.case_of(name).case}" for name in self._examples[rule]), 3)


_RULE_WORDS: dict[Rule, str] = {
    "slide": "the slide's",
    "region": "QuPath or HistomicsTK",
    "parts": "stain and part",
    "coordinates": "coordinates",
    "running number": "running number",
}


def _crops(count: int) -> str:
    return counted(count, "crop")


def _names_of(count: int, singular: str, plural: str) -> str:
    return f"the name of 1 crop {singular}" if count == 1 else f"the names of {count} crops {plural}"


def _decisions(names: Iterable[str]) -> dict[tuple[_Kind, str | None], Decision]:
    """The meaning of the numbers at the end: by prefix if enough names share it, else by kind."""
    enough = 5
    alike: dict[tuple[_Kind, str], Evidence] = defaultdict(Evidence)
    neighbours = Neighbours()
    evidence, head = None, ""
    for name in names:
        if neighbours.again(name) is not None:
            if evidence is not None:
                evidence.add_pair(head, *neighbours.numbers)
            continue
        evidence = None
        base = tidy(name.rpartition("/")[2])
        if slide_file_of(base) is not None:
            neighbours = Neighbours()
            continue
        stem = stem_of(base)
        if reading := by_shape(stem):
            neighbours.keep(name, Read(reading, sure=True))
        elif (ending := ending_of(stem)) and len(ending.numbers) > 1:
            evidence, head = alike[ending.kind, ending.start], ending.without(2)
            evidence.add(ending)
            # Whatever the last two numbers are, what stands before them is the same.
            neighbours.keep(name, Read(_unknown(), sure=False, free_numbers=2))
        else:
            neighbours = Neighbours()
    of_kind: dict[_Kind, Evidence] = defaultdict(Evidence)
    decisions: dict[tuple[_Kind, str | None], Decision] = {}
    for (kind, start), seen in alike.items():
        of_kind[kind].join(seen)
        if seen.names >= enough:
            decisions[kind, start] = seen.decide(kind)
    return decisions | {(kind, None): seen.decide(kind) for kind, seen in of_kind.items()}


@functools.lru_cache(maxsize=16)
def compile_case_pattern(pattern: str) -> re.Pattern[str]:
    """A user's ``--case-pattern``, checked; commands call it before any work begins.

    Raises:
        UsageError: it is not a regular expression, or has no group named ``case``.
    """
    example = "for example: --case-pattern '^(?P<case>[^_]+)_'"
    try:
        compiled = re.compile(unicodedata.normalize("NFC", pattern), re.DOTALL)
    except (re.error, RecursionError, OverflowError) as error:
        raise UsageError(
            f"The case pattern {pattern!r} is not a regular expression: {error}. Correct it, {example}"
        ) from None
    if "case" not in compiled.groupindex:
        raise UsageError(
            f"The case pattern {pattern!r} has no group named 'case', so it does not mark the part of a file name "
            f"that is the biopsy. Put that part in (?P<case>...), {example}"
        )
    return compiled
