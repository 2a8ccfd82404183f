"""What glomedge is called by: its version, and the notice that every output carries."""

__version__ = "0.1.0"

RESEARCH_USE_NOTICE = "Research use only. Not for diagnostic use."
