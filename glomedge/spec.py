"""Moved to ``glomedge.model.spec``; documented under this name before, and kept for those who import it."""

from glomedge.model.spec import ModelSpec, Recipe

__all__ = ["ModelSpec", "Recipe"]
