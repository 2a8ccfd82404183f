"""What every HTML page of glomedge must have, seen through a parser."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from glomedge.about import RESEARCH_USE_NOTICE

HOSTILE = "<script>alert(1)<b>\"'&<img src=x onerror=alert(2)>"
"""A name as an attacker would choose it, or a scanner's software by accident."""

_FETCHING = ("src", "href", "srcset", "data", "action", "poster", "background", "xlink:href")
_VOID = {"meta", "img", "br", "hr", "input", "link"}


class _Outline(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.words: list[str] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"</{tag}> at {self.getpos()}")

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.words.append(data)


def text_of(page: str) -> str:
    """What a reader reads, attributes apart."""
    return "".join(_outline(page).words)


def _outline(page: str) -> _Outline:
    outline = _Outline()
    outline.feed(page)
    outline.close()
    return outline


def check_markup(markup: str) -> None:
    """Elements close in the order in which they open; nothing can run and nothing is fetched."""
    outline = _outline(markup)
    assert outline.faults == []
    assert outline.open == []
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & set(outline.tags)
    assert not [a for a in outline.attributes if a[1].startswith("on")]
    fetched = [a for a in outline.attributes if a[1] in _FETCHING and not a[2].startswith(("data:image/", "#"))]
    assert fetched == []
    assert outline.tags.count("img") == len([a for a in outline.attributes if a[:2] == ("img", "alt")])


def check_page(page: str) -> None:
    """A whole page: the markup is sound, it needs no other file, says what it is for, fits a phone and a printer."""
    check_markup(page)
    outline = _outline(page)
    assert page.startswith('<!DOCTYPE html>\n<html lang="en">')
    assert outline.tags.count("style") == outline.tags.count("h1") == page.split("</head>")[0].count("<title>") == 1
    assert outline.tags.count("main") == outline.tags.count("header") == outline.tags.count("footer") == 1
    assert text_of(page).count(RESEARCH_USE_NOTICE) == 2  # at the top and at the end
    assert ("meta", "name", "viewport") in outline.attributes
    policies = [value for tag, name, value in outline.attributes if tag == "meta" and value.startswith("default-src")]
    assert policies == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    style = page.split("<style>")[1].split("</style>")[0]
    assert "@media print" in style
    assert "@page { size: A4" in style
    assert "@media (max-width:" in style
    assert not re.search(r"https?:|//|@import|url\(", style)
