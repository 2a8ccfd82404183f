"""The sentence that every output carries."""

RESEARCH_USE_NOTICE = "Research use only. Not for diagnostic use."
