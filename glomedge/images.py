"""Moved to ``glomedge.imaging.images``; documented under this name before, and kept for those who import it."""

from glomedge.imaging.images import Decoded, decode, read

__all__ = ["Decoded", "decode", "read"]
