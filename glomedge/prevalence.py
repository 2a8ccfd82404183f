"""Moved to ``glomedge.cases.prevalence``; documented under this name before, and kept for those who import it."""

from glomedge.cases.prevalence import Corrected, band, remuzzi_grade, rogan_gladen, settled_band, wilson_interval

__all__ = ["Corrected", "band", "remuzzi_grade", "rogan_gladen", "settled_band", "wilson_interval"]
