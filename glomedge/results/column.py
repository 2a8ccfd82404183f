"""A growing column of numbers, in the narrowest type that holds them."""

from __future__ import annotations

import numpy as np

from glomedge.results.journal_rows import Numbers


class Column:
    """One field of all rows; takes memory from the first value on, and wider numbers once one needs them.

    Args:
        kinds: dtypes from the narrowest to the widest, which fits every value.
        width: values a row.
    """

    def __init__(self, *kinds: str, width: int = 1) -> None:
        self._kinds = list(kinds)
        self._width = width
        self.data = self._empty(0)

    def _empty(self, rows: int) -> Numbers:
        return np.zeros(rows if self._width == 1 else (rows, self._width), self._kinds[0])

    def fit(self, rows: int) -> None:
        """Have room for so many rows; zero where nothing was put."""
        if len(self.data) < rows:
            # ``zeros`` takes no memory for rows that are never written to.
            grown = self._empty(rows)
            grown[: len(self.data)] = self.data
            self.data = grown

    def put(self, where: slice | Numbers, values: Numbers, rows: int) -> None:
        """Set some of ``rows`` rows."""
        while len(self._kinds) > 1 and values.max(initial=0) > np.iinfo(self._kinds[0]).max:
            del self._kinds[0]
            self.data = self.data.astype(self._kinds[0])
        self.fit(rows)
        self.data[where] = values
