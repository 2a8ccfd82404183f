"""Whether a night's crops are scored as those were that a model was recalibrated on: a test that needs no labels.

Crops of one biopsy are alike, so the unit is the biopsy: a test over crops would raise an alarm on most nights. Each
biopsy gives two numbers (``summary``): the median logit of its crops that are not called globally sclerotic, and the
mean distance of its logits from the threshold's, which falls when answers become less certain in either class. Both
depend less on how many glomeruli are sclerotic than the mean of all logits does.

Test: the ranks of each number over all biopsies, then and now; the sum of the new biopsies' ranks, standardised
(Wilcoxon F, Biometrics Bull 1945;1:80); of the two sums the one further from its mean. Its chance under no change comes
from ``PERMUTATIONS`` random relabellings of the biopsies as then or now, the observed one counted among them (Phipson
B, Smyth GK, Stat Appl Genet Mol Biol 2010;9:39). If the new biopsies are drawn as the old ones were, p is at most
``ALARM_BELOW`` in at most that share of runs, however alike the crops of a biopsy are. A shift that all biopsies of a
day share, such as that of one batch of stain, is a change to this test.

A drift says that the scores changed: by stain, scanner, or another kind of patient. It does not say that calls are
wrong, and no drift does not say that they are right; labels do.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glomedge.cases.names import UNKNOWN_CASE
from glomedge.model.site_calibration import SiteScores

Floats = npt.NDArray[np.float64]

ALARM_BELOW = 0.01
"""A drift is noted where p is at most this: by chance in at most 1 of 100 runs."""
MIN_CROPS = 100
"""Of a night, in biopsies that count."""
MIN_BIOPSIES = 5
"""On either side: with five and five the smallest p is 2 of 252."""
MIN_CROPS_OF_A_BIOPSY = 5
MAX_BIOPSIES = 200
"""More are thinned out evenly: the answer hardly changes, and the file and the test stay small."""
PERMUTATIONS = 9999

_MOST_DISTANCE = 6.0
"""A logit further from the threshold than this is certain; how far beyond says nothing."""
_LEAST_PROBABILITY = 1e-6
_BLOCK = 500


@dataclass(frozen=True)
class Drift:
    """What the comparison found.

    Attributes:
        crops, biopsies: of the night that were compared; ``reference_biopsies`` of the site.
        p_value: see the module.
        not_called, reference_not_called: median over biopsies of the median logit of the crops that are not called.
        distance, reference_distance: median over biopsies of the mean distance from the threshold's logit.
        deciles: of the night's logits, as ``SiteScores.deciles``.
    """

    crops: int
    biopsies: int
    reference_biopsies: int
    p_value: float
    not_called: float
    reference_not_called: float
    distance: float
    reference_distance: float
    deciles: tuple[float, ...]

    @property
    def found(self) -> bool:
        """Whether it is to be noted."""
        return self.p_value <= ALARM_BELOW


def logits_of(probabilities: npt.ArrayLike) -> Floats:
    """``ln(p / (1 - p))``, float64, of probabilities held between 1e-6 and 1 - 1e-6, where float32 still tells them."""
    p = np.clip(np.asarray(probabilities, np.float64), _LEAST_PROBABILITY, 1 - _LEAST_PROBABILITY)
    return np.asarray(np.log(p / (1 - p)))


def summary(logits: Floats, threshold: float) -> tuple[float, float]:
    """One biopsy's median logit below the threshold, and mean distance from the threshold's logit (each at most 6).

    Where no crop is below the threshold, the least logit stands for the median.
    """
    turn = math.log(threshold / (1 - threshold))
    below = logits[logits < turn]
    middle = float(np.median(below)) if len(below) else float(logits.min())
    distance = np.minimum(np.abs(logits - turn), _MOST_DISTANCE).mean()
    return round(middle, 4), round(float(distance), 4)


def scores_of(probabilities_of: Mapping[str, Iterable[float]], threshold: float) -> SiteScores | None:
    """What is kept of a site; None with fewer than ``MIN_BIOPSIES`` of ``MIN_CROPS_OF_A_BIOPSY`` crops or more.

    Args:
        probabilities_of: biopsy -> recalibrated probabilities of its crops.
        threshold: on them.
    """
    logits = _counting(probabilities_of)
    if len(logits) < MIN_BIOPSIES:
        return None
    together = np.concatenate(logits)
    biopsies = sorted(summary(one, threshold) for one in logits)
    return SiteScores(crops=len(together), deciles=_deciles(together), biopsies=tuple(biopsies))


def compare(
    reference: SiteScores, probabilities_of: Mapping[str, Iterable[float]], threshold: float, *, seed: int = 0
) -> Drift | str:
    """Compare a night with the site's scores; a clause that says why where there is too little to compare.

    Args:
        reference: of the model's spec.
        probabilities_of: biopsy -> probabilities of the night's crops, by the same model.
        threshold: the model's.
        seed: of the permutations: the same night has the same p.
    """
    logits = _counting(probabilities_of)
    crops = sum(len(one) for one in logits)
    if crops < MIN_CROPS or len(logits) < MIN_BIOPSIES:
        return (
            f"{crops} crops in {len(logits)} biopsies of {MIN_CROPS_OF_A_BIOPSY} or more are too few to compare: "
            f"{MIN_CROPS} crops and {MIN_BIOPSIES} biopsies are needed"
        )
    then = np.array(reference.biopsies, np.float64)
    now = np.array([summary(one, threshold) for one in logits], np.float64)
    middle, middle_then = np.median(now, axis=0).tolist(), np.median(then, axis=0).tolist()
    return Drift(
        crops=crops,
        biopsies=len(now),
        reference_biopsies=len(then),
        p_value=permutation_p(then, now, seed),
        not_called=middle[0],
        reference_not_called=middle_then[0],
        distance=middle[1],
        reference_distance=middle_then[1],
        deciles=_deciles(np.concatenate(logits)),
    )


def permutation_p(then: Floats, now: Floats, seed: int = 0) -> float:
    """p of the greatest standardised rank sum over the columns of ``then`` ``[M, K]`` and ``now`` ``[N, K]``.

    Two-sided, at least ``1 / (PERMUTATIONS + 1)``; 1 where no column varies.
    """
    values = np.concatenate([then, now])
    ranks = np.stack([_centred_ranks(column) for column in values.T], axis=1)
    spread = ranks.std(axis=0)
    ranks = ranks[:, spread > 0] / spread[spread > 0]
    if not ranks.shape[1]:
        return 1.0
    new, rng = len(now), np.random.default_rng(seed)
    observed = np.abs(ranks[-new:].sum(axis=0)).max()
    as_extreme = 0
    for begin in range(0, PERMUTATIONS, _BLOCK):
        rows = min(_BLOCK, PERMUTATIONS - begin)
        drawn = rng.random((rows, len(values))).argpartition(new - 1, axis=1)[:, :new]
        sums = np.abs(ranks[drawn].sum(axis=1)).max(axis=1)
        as_extreme += int((sums >= observed - 1e-9).sum())
    return (1 + as_extreme) / (1 + PERMUTATIONS)


def _centred_ranks(values: Floats) -> Floats:
    """Ranks less their mean; equal values share the mean of their ranks."""
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2)[place] - (len(values) + 1) / 2, np.float64)


def _counting(probabilities_of: Mapping[str, Iterable[float]]) -> list[Floats]:
    """The logits of each biopsy that counts, at most ``MAX_BIOPSIES`` of them."""
    kept = []
    for case in sorted(probabilities_of):
        logits = logits_of(np.fromiter(probabilities_of[case], np.float64))
        if case != UNKNOWN_CASE and len(logits) >= MIN_CROPS_OF_A_BIOPSY:
            kept.append(logits)
    if len(kept) > MAX_BIOPSIES:
        kept = [kept[place] for place in _evenly(len(kept))]
    return kept


def _evenly(count: int) -> Sequence[int]:
    places: list[int] = np.linspace(0, count - 1, MAX_BIOPSIES).round().astype(int).tolist()
    return places


def _deciles(logits: Floats) -> tuple[float, ...]:
    return tuple(round(float(value), 4) for value in np.quantile(logits, np.linspace(0, 1, 11)))
