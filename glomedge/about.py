"""What glomedge is called by: its version, how it was installed, and the notice that every output carries."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

__version__ = "0.2.0"

RESEARCH_USE_NOTICE = "Research use only. Not for diagnostic use."


def install_command(requirement: str) -> str:
    """The command that brings a package, for messages.

    Args:
        requirement: as pip takes it. ``glomedge[gpu]`` becomes the place that glomedge itself was installed from, since
            it need not be on any index: a checkout (``pip install --editable '/path[gpu]'``) or a wheel file.
    """
    if not requirement.startswith("glomedge["):
        return f"pip install '{requirement}'" if "[" in requirement else f"pip install {requirement}"
    extras = requirement.removeprefix("glomedge")
    source, editable = _installed_from()
    if source is None:
        return f"pip install '{requirement}'"
    return f"pip install {'--editable ' if editable else ''}'{source}{extras}'"


def without_source(text: str) -> str:
    """The text with the folder that glomedge was installed from as ``.``: records name no folder of a machine."""
    source, _ = _installed_from()
    return text if source is None else text.replace(source, ".")


@lru_cache(maxsize=1)
def _installed_from() -> tuple[str | None, bool]:
    """The folder or wheel that glomedge was installed from (None: an index), and whether that is editable.

    pip writes it down beside the package (PEP 610, ``direct_url.json``). Run from a checkout that is not installed, the
    checkout itself is the source.
    """
    import importlib.metadata
    import json

    checkout = Path(__file__).resolve().parent.parent
    try:
        text = importlib.metadata.distribution("glomedge").read_text("direct_url.json")
    except importlib.metadata.PackageNotFoundError:
        return (str(checkout), True) if (checkout / "pyproject.toml").is_file() else (None, False)
    if text is None:
        return None, False
    try:
        record = json.loads(text)
        url = urlsplit(record["url"])
        editable = bool(record.get("dir_info", {}).get("editable", False))
    except (ValueError, KeyError, TypeError, AttributeError):
        return None, False
    path = unquote(url.path)
    return (path, editable) if url.scheme == "file" and Path(path).exists() else (None, False)
