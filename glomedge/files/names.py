"""File names as text that survives a CSV or a terminal and can be turned back into bytes.

A POSIX file name is bytes. Where the bytes are UTF-8 and printable they are shown as they are; everything else
becomes ``\\xHH``, one per byte, and a backslash is doubled. The mapping is one to one: ``unescape_name`` restores the
bytes, so a row can always be traced to its file.

Escaped are: bytes that are not UTF-8, control characters (newline and tab among them), line and paragraph
separators, and the marks that change the direction of text (they can make ``gnp.exe`` read ``exe.png``).
"""

from __future__ import annotations

import re

_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff\\\\]",
)
_ESCAPE = re.compile(rb"\\(\\|x[0-9a-f]{2})")

# What a spreadsheet may read as a formula (OWASP, "CSV Injection"), full-width forms included.
_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")
_NEUTRALISED_STARTS = (*_FORMULA_STARTS, "'")


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


def unescape_name(text: str) -> bytes:
    """The bytes of the file name that ``escape_name`` was given."""

    def byte_of(match: re.Match[bytes]) -> bytes:
        return b"\\" if match[1] == b"\\" else bytes([int(match[1][1:], 16)])

    return _ESCAPE.sub(byte_of, text.encode("utf-8", "surrogateescape"))


def neutralise(cell: str) -> str:
    """A CSV cell that no spreadsheet executes as a formula.

    Cells that begin with ``= + - @``, tab, carriage return or newline get a leading apostrophe. A cell that begins
    with an apostrophe gets one more, so that removing one (``restore``) is always correct.
    """
    return f"'{cell}" if cell.startswith(_NEUTRALISED_STARTS) else cell


def restore(cell: str) -> str:
    """Inverse of ``neutralise``."""
    return cell[1:] if cell.startswith("'") else cell
