"""The blocks of code of a page in Markdown, what is to be done with each, and whether its printed lines still hold.

What is run and what is shown stands in the pages alone. A block is

* a session: commands behind ``$``, below each the lines that it prints, or some of them, in their order. Figures may
  differ, and ``...`` stands for anything;
* commands: every command must end well; what they print is not compared;
* Python;
* text: everything else, such as a list of files, and every fenced block of another language.

Comments on the line above a block tell what the page's reader does not see::

    <!-- run first: COMMAND -->            what must be there before
    <!-- quick: COMMAND -->                the block takes long: only the slow suite runs it, the default suite COMMAND
    <!-- quick first: COMMAND -->          in the default suite in place of what is run first
    <!-- exits with: 0 or 2 -->            the exit codes that the last command may end with, where it is not 0 alone
    <!-- serves: URL -->                   the commands go on in the background; URL answers when they are ready
    <!-- not run: REASON -->               nothing is run
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt

KEYS = ("run first", "quick first", "quick", "exits with", "serves", "not run")
PROGRAMS = ("glomedge", "{", "make", "pip", "python", "python3", ".venv/bin/", "curl", "openssl", "docker", "podman",
            "buildah", "sudo", "sbatch", "job=", "for ", "tritonserver", "npm", "node", "git", "systemctl")  # fmt: skip
_COMMENT = re.compile(r"<!--\s*(.+?)\s*-->", re.DOTALL)
_FIGURE = re.compile(r"\d+(?:[.,]\d+)*(?:e[-+]?\d+)?")
_SIGN = re.compile(r"(?<![^\s(=])[-+](?=\d)")


class PageError(Exception):
    """A page cannot be read as described above; the message says where and why."""


@dataclass(frozen=True)
class Block:
    """One block of code.

    Attributes:
        place: page and line, for messages.
        kind: ``session``, ``commands``, ``python`` or ``text``.
        text: without the indentation.
        said: what the comments above it say, by key.
    """

    place: str
    kind: str
    text: str
    said: dict[str, str]

    def session(self) -> list[tuple[str, list[str]]]:
        """Each command of a session with the lines that are shown below it."""
        steps: list[tuple[str, list[str]]] = []
        for line in self.text.splitlines():
            if line.startswith("$ "):
                steps.append((line[2:], []))
            elif not steps:
                raise PageError(f"{self.place}: a line is shown before the first command")
            elif line.strip():
                steps[-1][1].append(line)
        return steps


def _kind(language: str, text: str) -> str:
    if language:
        return {"console": "session", "sh": "commands", "bash": "commands", "python": "python"}.get(language, "text")
    lines = [line for line in text.splitlines() if line.strip()]
    if any(line.startswith("$ ") for line in lines):
        return "session"
    if any(line.startswith(("import ", "from ")) for line in lines):
        return "python"
    return "commands" if any(line.lstrip().startswith(_starts()) for line in lines) else "text"


def _starts() -> tuple[str, ...]:
    return tuple(name if name.endswith(("/", "=", " ")) else f"{name} " for name in PROGRAMS)


def _said(comments: str, place: str) -> dict[str, str]:
    said: dict[str, str] = {}
    for comment in _COMMENT.findall(comments):
        key, colon, value = comment.partition(": ")
        if key not in KEYS or not colon or key in said:
            raise PageError(f"{place}: the comment {comment!r} is none of {', '.join(KEYS)}, or is there twice")
        said[key] = value.strip()
    return said


def blocks_of(page: Path) -> list[Block]:
    """The blocks of a page, in order.

    Raises:
        PageError: a comment above a block says something unknown.
    """
    found: list[Block] = []
    tokens = MarkdownIt().parse(page.read_text("utf-8"))
    for before, token in zip([None, *tokens], tokens, strict=False):
        if token.type not in ("code_block", "fence") or token.map is None:
            continue
        place = f"{page.name}:{token.map[0] + 1}"
        above = before.content if before is not None and before.type == "html_block" else ""
        found.append(Block(place, _kind(token.info.strip(), token.content), token.content, _said(above, place)))
    return found


def masked(line: str) -> str:
    """The line with every figure as ``#``, and rules of tables and blanks of any length as one."""
    text = _FIGURE.sub("#", _SIGN.sub("", line))
    return " ".join(re.sub(r"([━─═-])\1+", r"\1", text).split())


def missing_line(shown: Sequence[str], printed: str) -> str | None:
    """The first shown line that was not printed behind those before it; None where all were."""
    rest = iter([masked(line) for line in printed.splitlines()])
    for line in shown:
        pattern = ".*".join(re.escape(masked(part)) for part in line.split("..."))
        wanted = re.compile(r"\s*".join(pattern.split(r"\ ")))
        if not any(wanted.fullmatch(actual) for actual in rest):
            return line
    return None
