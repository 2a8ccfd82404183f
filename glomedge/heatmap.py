"""Moved to ``glomedge.reports.overlay``; documented under this name before, and kept for those who import it."""

from glomedge.reports.overlay import logit_threshold, overlay, to_jpeg, to_png, upsample

__all__ = ["logit_threshold", "overlay", "to_jpeg", "to_png", "upsample"]
