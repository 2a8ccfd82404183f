"""Biopsies: which crop belongs to which, counts, percentages and intervals."""
