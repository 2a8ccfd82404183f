"""What an earlier run drew into a folder, by the manifest that it left there."""

from __future__ import annotations

import json
from pathlib import Path


def drawn_files(manifest: Path) -> set[str]:
    """Files that an earlier run drew, as paths relative to its folder; empty where there is no manifest of ours."""
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        return {str(name) for name in content["files"]} if "drawn_by" in content else set()
    except (FileNotFoundError, NotADirectoryError, ValueError, KeyError, TypeError):
        return set()
