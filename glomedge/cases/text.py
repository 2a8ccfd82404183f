"""Names and cells, normalised before they are compared.

macOS writes an accent as a letter and a mark (NFD), everything else as one character (NFC); spreadsheets and web pages
leave no-break spaces and zero-width characters behind. Two names that look the same are the same name here.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence

MAX_MESSAGE_CHARS = 2000
"""Maximum length of a message about files: it is read on a screen or in an e-mail."""
MAX_LISTED = 20
"""Maximum number of rows of one kind in a message."""
_MAX_NAME_CHARS = 80

_ODD_SPACES = re.compile("[\u00a0\u1680\u2000-\u200a\u202f\u205f\u3000]")
_INVISIBLE = re.compile("[\u200b-\u200d\u2060\ufeff]")


def tidy(text: str) -> str:
    """The text in Unicode form NFC, with ordinary spaces, no invisible characters and no surrounding blanks."""
    if text.isascii():  # nearly every name, and then nothing but blanks around it can be wrong
        return text.strip()
    return unicodedata.normalize("NFC", _ODD_SPACES.sub(" ", _INVISIBLE.sub("", text))).strip()


def shortened(text: str, limit: int = _MAX_NAME_CHARS) -> str:
    """The text, with its middle omitted if it is longer than ``limit`` characters."""
    return text if len(text) <= limit else f"{text[: limit // 2]}...{text[-(limit // 3) :]}"


def some(names: Iterable[str], limit: int = 5, separator: str = ", ") -> str:
    """The first few names, each shortened, and the number of further ones."""
    names = list(names)
    shown = separator.join(shortened(name) for name in names[:limit])
    return shown + (f"{separator}and {len(names) - limit} more" if len(names) > limit else "")


def counted(count: int, singular: str, plural: str = "") -> str:
    """The number and the word for it: ``1 crop``, ``2 crops``; ``plural`` where it is not the singular with an s."""
    return f"{count} {singular}" if count == 1 else f"{count} {plural or singular + 's'}"


def problem_report(head: str, kinds: Mapping[str, Sequence[str]], advice: str, separator: str = ", ") -> str:
    """One message of at most ``MAX_MESSAGE_CHARS``: what is wrong by kind, at most ``MAX_LISTED`` rows of each, advice.

    Args:
        head: what was read.
        kinds: a kind of problem, in words that follow its number ("labels are neither 0 nor 1") -> the rows.
        advice: what to do.
        separator: between the rows of a kind.
    """
    kinds = {kind: rows for kind, rows in kinds.items() if rows}
    for limit in range(MAX_LISTED, -1, -1):
        parts = [
            f"{len(rows)} {kind}" + (f": {some(rows, limit, separator)}" if limit else "")
            for kind, rows in kinds.items()
        ]
        message = f"{shortened(head, 300)}: {'; '.join(parts)}. {advice}"
        if len(message) <= MAX_MESSAGE_CHARS:
            return message
    return shortened(message, MAX_MESSAGE_CHARS - 4)


class Problems:
    """What is wrong, by kind, to be listed in one message of at most ``MAX_MESSAGE_CHARS``, one problem a line."""

    def __init__(self) -> None:
        self._rows: dict[str, list[str]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def add(self, kind: str, row: str) -> None:
        """One more problem; ``kind`` says which rows are cut short together."""
        self._rows.setdefault(kind, []).append(row)

    def message(self, subject: str, advice: str) -> str:
        """``subject`` has N problems, at most ``MAX_LISTED`` of each kind, ``advice``."""
        count = f"{len(self)} problem{'' if len(self) == 1 else 's'}"
        for limit in range(MAX_LISTED, 0, -1):
            lines = []
            for rows in self._rows.values():
                lines += [f"  {shortened(row, 300)}" for row in rows[:limit]]
                lines += [f"  ... and {len(rows) - limit} more of this kind"] if len(rows) > limit else []
            text = "\n".join([f"{shortened(subject, 300)} has {count}:", *lines, advice])
            if len(text) <= MAX_MESSAGE_CHARS:
                return text
        return f"{shortened(text, MAX_MESSAGE_CHARS - 200)}\n{advice}"
