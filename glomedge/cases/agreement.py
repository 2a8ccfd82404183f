"""How far two readers agree on crops that both labelled."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from glomedge.cases.prevalence import wilson_interval


@dataclass(frozen=True)
class Agreement:
    """Two readers' labels of the same crops, counted.

    Attributes:
        both_positive, first_only, second_only, both_negative: crops by who called them globally sclerotic.
    """

    both_positive: int
    first_only: int
    second_only: int
    both_negative: int

    @staticmethod
    def of(first: Mapping[str, int], second: Mapping[str, int]) -> Agreement:
        """Over the names that both have; labels are 0 or 1."""
        pairs = [(first[name], second[name]) for name in first if name in second]
        return Agreement(*(pairs.count(pair) for pair in ((1, 1), (1, 0), (0, 1), (0, 0))))

    @property
    def crops(self) -> int:
        """Crops that both labelled."""
        return self.both_positive + self.first_only + self.second_only + self.both_negative

    @property
    def agreed(self) -> int:
        """Crops with one label from both."""
        return self.both_positive + self.both_negative

    def kappa(self) -> tuple[float, float, float] | None:
        """Cohen's kappa and its 95% interval; None where chance alone gives full agreement, or there is no crop.

        Kappa: (observed - expected) / (1 - expected agreement), Cohen J, Educ Psychol Meas 1960;20:37. As in his
        standard error the expected agreement is taken as fixed; of the observed one the Wilson interval is carried
        over, because his own interval has no width where the readers agree on every crop.
        """
        n = self.crops
        if not n:
            return None
        first, second = self.both_positive + self.first_only, self.both_positive + self.second_only
        expected = (first * second + (n - first) * (n - second)) / n**2
        if expected >= 1.0:
            return None
        low, high = wilson_interval(self.agreed, n)
        value, low, high = ((agreement - expected) / (1.0 - expected) for agreement in (self.agreed / n, low, high))
        return value, max(-1.0, low), min(1.0, high)
