"""Moved to ``glomedge.files.names``; documented under this name before, and kept for those who import it."""

from glomedge.files.names import escape_name, neutralise, restore, unescape_name

__all__ = ["escape_name", "neutralise", "restore", "unescape_name"]
