"""Biopsies: assignment of crops, counts, percentages and intervals.

from glomedge import cases

cases.case_of("12-345_PAS_5of6_0123456789abcdef01234567.png").case    # "12-345"
"""

from glomedge.cases.names import CaseFinder, CaseName, case_of
from glomedge.cases.summary import CaseSummary, CropCall, summarise, to_row

__all__ = ["CaseFinder", "CaseName", "CaseSummary", "CropCall", "case_of", "summarise", "to_row"]
