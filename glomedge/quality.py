"""Moved to ``glomedge.imaging.quality``; documented under this name before, and kept for those who import it."""

from glomedge.imaging.quality import Measures, assess, measure

__all__ = ["Measures", "assess", "measure"]
