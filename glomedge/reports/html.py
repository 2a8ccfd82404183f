"""The one way from a template of ``templates/`` to HTML: Jinja2, autoescape on, an undefined name is an error.

Jinja2 takes 20 ms to import and a page's templates as long to compile: both happen when the first page is written, or
beside other work (``prepare``).
"""

from __future__ import annotations

import base64
import functools
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Literal

from markupsafe import Markup

from glomedge.about import RESEARCH_USE_NOTICE

if TYPE_CHECKING:
    from jinja2 import Environment

_COMPILING = threading.Lock()
_PIECES_A_PART = 200
"""Pieces of a template (a text between two variables, a variable) that are joined before they are encoded."""


def render(template: str, **context: Any) -> str:
    """A whole page or a part of one.

    Args:
        template: name of a file in ``templates/``.
        context: what the template names; a name it misses raises ``jinja2.UndefinedError``.

    Returns:
        HTML that any encoding can carry: bytes of file names that are not UTF-8 are shown as ``\\udcXX``.
    """
    return b"".join(stream(template, **context)).decode("utf-8")


def stream(template: str, **context: Any) -> Iterator[bytes]:
    """The same in UTF-8 parts, made while iterators in ``context`` are drawn: a page need not fit into memory."""
    with _COMPILING:
        page = _environment().get_template(template)
    parts = page.stream(context)
    parts.enable_buffering(_PIECES_A_PART)
    for part in parts:
        yield part.encode("utf-8", "backslashreplace")


def prepare(*templates: str) -> None:
    """Compile templates in a separate thread, while this one waits for something else."""

    def compile_all() -> None:
        for template in templates:
            with _COMPILING:
                _environment().get_template(template)

    threading.Thread(target=compile_all, name="templates").start()


def data_uri(kind: Literal["jpeg", "png"], picture: bytes) -> Markup:
    """A picture as the value of a ``src`` attribute."""
    return Markup(f"data:image/{kind};base64,{base64.b64encode(picture).decode('ascii')}")  # nothing to escape in it


@functools.cache
def _environment() -> Environment:
    import jinja2

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("glomedge.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        auto_reload=False,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["notice"] = RESEARCH_USE_NOTICE
    return environment
