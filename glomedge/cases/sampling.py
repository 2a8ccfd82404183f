"""Which crops of a site to label, so that few labels say much about the model there.

A probability sample with known inclusion probabilities: strata along the score, a systematic draw within each
(Madow WG, Ann Math Stat 1949;20:333), and the inverse of each crop's chance as its weight (Horvitz DG, Thompson DJ,
J Am Stat Assoc 1952;47:663). So figures over the chosen crops, weighted, estimate those over the whole folder.

Half of the chance goes to crops evenly by rank (quantiles of the score), half evenly along the logit itself. The second
half brings in both tails and the thinly populated middle, where the two classes meet and a label says most about slope
and offset. Along a stratum the crops stand biopsy by biopsy, so that a draw spreads over biopsies; a crop of a biopsy
with many crops there has a smaller chance, by the square root of their number.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from glomedge.errors import UsageError

Floats = npt.NDArray[np.float64]

PER_STRATUM = 3
"""Crops drawn from each stratum, on average."""
_LOGIT_BINS = 10
_TAIL = 0.02
"""Share of the crops at either end that counts as one place along the logit: single outliers must not rule the bins."""


@dataclass(frozen=True)
class Chosen:
    """One crop to label.

    Attributes:
        index: of the crop among those given.
        weight: the inverse of its inclusion probability, at least 1: how many crops of the folder it stands for.
    """

    index: int
    weight: float


def choose(logits: Sequence[float], cases: Sequence[str], count: int, seed: int = 0) -> list[Chosen]:
    """Choose ``count`` crops; the same ones for the same arguments on every machine.

    Args:
        logits: of all crops, finite.
        cases: the biopsy of each.
        count: how many to choose; all of them, with weight 1, where there are not more.
        seed: of the draw.

    Returns:
        In an order that says nothing of the score: shuffled by the seed.

    Raises:
        UsageError: ``count`` is less than 1, or there is no crop.
    """
    if count < 1:
        raise UsageError(f"-n must be 1 or more, not {count}.")
    if not len(logits):
        raise UsageError("There is no crop to label. Give a folder of glomerulus crops.")
    rng = np.random.default_rng(seed)
    if count >= len(logits):
        return [Chosen(int(index), 1.0) for index in rng.permutation(len(logits))]
    scores = np.asarray(logits, np.float64)
    chances = _inclusion_probabilities(_sizes(scores, cases), count)
    order = _walk(scores, cases, chances, count, rng)
    # One uniform start, then a crop wherever the running sum of chances passes the next whole number.
    passed = np.floor(np.cumsum(chances[order]) - rng.uniform() + 1.0 + 1e-9)
    taken = order[np.flatnonzero(np.diff(passed, prepend=0.0) > 0)]
    return [Chosen(int(index), float(1.0 / chances[index])) for index in rng.permutation(taken)]


def _sizes(scores: Floats, cases: Sequence[str]) -> Floats:
    """The chance of each crop up to a factor: see the module."""
    low, high = np.quantile(scores, [_TAIL, 1.0 - _TAIL])
    width = max(high - low, 1e-9) / _LOGIT_BINS
    bins = np.clip(np.floor((scores - low) / width), 0, _LOGIT_BINS - 1).astype(int)
    in_bin = Counter(bins.tolist())
    along_logit = np.array([1.0 / (len(in_bin) * in_bin[place]) for place in bins.tolist()])
    beside = Counter(zip(bins.tolist(), cases, strict=True))
    crowd = np.array([math.sqrt(beside[key]) for key in zip(bins.tolist(), cases, strict=True)])
    sizes = (0.5 / len(scores) + 0.5 * along_logit) / crowd
    return np.asarray(sizes / sizes.sum())


def _inclusion_probabilities(sizes: Floats, count: int) -> Floats:
    """Proportional to ``sizes`` with sum ``count``, none above 1: what is above goes to the others."""
    chances = np.minimum(1.0, sizes * count)
    for _ in range(len(sizes)):
        certain = chances >= 1.0
        rest = count - int(certain.sum())
        if rest <= 0 or certain.all():
            break
        new = np.where(certain, 1.0, np.minimum(1.0, sizes * rest / sizes[~certain].sum()))
        if np.allclose(new, chances, rtol=0, atol=1e-12):
            break
        chances = new
    return chances


def _walk(
    scores: Floats, cases: Sequence[str], chances: Floats, count: int, rng: np.random.Generator
) -> npt.NDArray[np.intp]:
    """All crops, stratum after stratum along the score, and biopsy after biopsy in a drawn order within each."""
    by_score = np.argsort(scores, kind="stable")
    strata = max(1, count // PER_STRATUM)
    middle = np.cumsum(chances[by_score]) - chances[by_score] / 2
    stratum = np.minimum((middle * strata / count).astype(int), strata - 1)
    names = sorted(set(cases))
    members: dict[int, list[int]] = defaultdict(list)
    for place, index in zip(stratum.tolist(), by_score.tolist(), strict=True):
        members[place].append(index)
    walk: list[int] = []
    for place in range(strata):
        turn = dict(zip(names, rng.permutation(len(names)).tolist(), strict=True))
        walk += sorted(members[place], key=lambda index: (turn[cases[index]], scores[index]))
    return np.asarray(walk, np.intp)
