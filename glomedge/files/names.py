"""File names as text that survives a CSV or a terminal and can be turned back into bytes.

A POSIX file name is bytes. Where the bytes are UTF-8 and printable they are shown as they are; everything else
becomes ``\\xHH``, one per byte, and a backslash is doubled. The mapping is one to one: ``unescape_name`` restores the
bytes, so a row can always be traced to its file.

Escaped are: bytes that are not UTF-8, control characters (newline and tab among them), line and paragraph
separators, and the marks that change the direction of text (they can make ``gnp.exe`` read ``exe.png``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\\\\]",
)
_ESCAPE = re.compile(rb"\\(\\|x[0-9a-f]{2})")

# What a spreadsheet may read as a formula (OWASP, "CSV Injection"), full-width forms included.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NEUTRALISED_STARTS = (*_FORMULA_STARTS, "'")
_NEUTRALISED_FIRST = frozenset(_NEUTRALISED_STARTS)


def _escape_match(match: re.Match[str]) -> str:
    character = match[0]
    if character == "\\":
        return "\\\\"
    return "".join(f"\\x{byte:02x}" for byte in character.encode("utf-8", "surrogateescape"))


def escape_name(name: bytes) -> str:
    """The name as printable text; ``unescape_name`` reverses it exactly."""
    text = name.decode("utf-8", "surrogateescape")
    if text.isascii() and text.isprintable() and "\\" not in text:  # nearly every name, and many times faster
        return text
    return _UNSAFE.sub(_escape_match, text)


def escape_names(names: Sequence[bytes]) -> list[str]:
    """``escape_name`` of each; many times faster where all of them are plain, as nearly always."""
    joined = b"\n".join(names)
    if joined.isascii() and b"\\" not in joined:
        texts = joined.decode("ascii").split("\n")
        if len(texts) == len(names) and "".join(texts).isprintable():
            return texts
    return [escape_name(name) for name in names]


def unescape_name(text: str) -> bytes:
    """The bytes of the file name that ``escape_name`` was given."""

    def byte_of(match: re.Match[bytes]) -> bytes:
        return b"\\" if match[1] == b"\\" else bytes([int(match[1][1:], 16)])

    return _ESCAPE.sub(byte_of, text.encode("utf-8", "surrogateescape"))


def all_plain(cells: Iterable[str]) -> bool:
    """Whether ``neutralise`` leaves every cell as it is; quick to tell for many."""
    return _NEUTRALISED_FIRST.isdisjoint({cell[:1] for cell in cells})


def neutralise(cell: str) -> str:
    """A CSV cell that no spreadsheet executes as a formula.

    Cells that begin with ``= + - @``, tab, carriage return or newline get a leading apostrophe. A cell that begins
    with an apostrophe gets one more, so that removing one (``restore``) is always correct.
    """
    return f"'{cell}" if cell.startswith(_NEUTRALISED_STARTS) else cell


_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|"
    r"nov(?:ember)?|dec(?:ember)?|mai|okt|dez|m\u00e4rz|m\u00e4r|ene|abr|ago|dic|gen|mag|giu|lug|set|ott|f\u00e9v|avr|"
    r"ao\u00fbt|d\u00e9c|juin|juil|mrt|mei)\.?"
)
_NUMBER_CELL = re.compile(
    r"\(?[$\u20ac\u00a3\u00a5]?\s?[0-9][0-9.,'\s]*(?:e[+-]?[0-9]+)?\s?[%$\u20ac\u00a3\u00a5]?\)?|[.,][0-9]+.*",
    re.IGNORECASE,
)
_DATE_CELL = re.compile(r"([0-9]{1,4})([-/.\s])([0-9]{1,4})(?:\2([0-9]{1,4}))?(?:[\sT]+[0-9:.]+)?")
_MONTH_CELL = re.compile(
    rf"(?:[0-9]{{1,4}}[-/.,\s]*)?{_MONTH}(?:[-/.,\s]*[0-9]{{1,4}})?(?:[-/.,\s]+[0-9]{{1,4}})?", re.IGNORECASE
)
_TIME_CELL = re.compile(
    r"[0-9]{1,4}(?::[0-9]{1,2}){1,2}(?:[.,][0-9]+)?\s*(?:[ap]m?)?|[0-9]{1,2}\s*[ap]m?", re.IGNORECASE
)
_PLAIN_INTEGER = re.compile(r"0|[1-9][0-9]{0,10}")
_FRACTION_CELL = re.compile(r"(?:[0-9]+\s+)?[0-9]+/[0-9]+")
_WORD_CELLS = frozenset({"true", "false", "wahr", "falsch", "vrai", "faux", "verdadero", "falso", "vero"})


def _is_converted(cell: str) -> bool:
    """Whether a spreadsheet may show that text as a number, date, time or truth value, and write it back as one."""
    if _PLAIN_INTEGER.fullmatch(cell):
        return False  # becomes a number, and the same text again
    text = cell.strip()
    if text.lower() in _WORD_CELLS or text[:2].lower() == "#n":
        return True
    if not any("0" <= character <= "9" for character in text):
        return _MONTH_CELL.fullmatch(text) is not None
    if match := _DATE_CELL.fullmatch(text):
        parts = [part for part in (match[1], match[3], match[4]) if part]
        # 12-345 is none: 345 is no day, no month and no year.
        if all(len(part) != 3 for part in parts) and any(1 <= int(part) <= 12 for part in parts):
            return True
    return any(pattern.fullmatch(text) for pattern in (_NUMBER_CELL, _MONTH_CELL, _TIME_CELL, _FRACTION_CELL))


def guard(cell: str) -> str:
    """A CSV cell that a spreadsheet keeps as the text it is: ``12-3``, ``1E5`` and ``0012``, too, get an apostrophe.

    For ids (biopsies, slides), which come back from a spreadsheet as ``Dec 3``, ``100000`` and ``12`` otherwise.
    ``restore`` takes it away.
    """
    changed = cell.startswith("'") or cell.lstrip(" ").startswith(_FORMULA_STARTS) or _is_converted(cell)
    return f"'{cell}" if changed else cell


def restore(cell: str) -> str:
    """Inverse of ``neutralise`` and of ``guard``."""
    return cell[1:] if cell.startswith("'") else cell
