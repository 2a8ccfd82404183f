"""Scores of a night against those of the site: false alarms on clustered crops, shifts that are found."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.lib.drawn_sites import DrawnSite, draw_site
from glomedge.cases import drift
from glomedge.cases.decision import sigmoid
from glomedge.cases.drift import ALARM_BELOW, Drift, compare, logits_of, permutation_p, scores_of, summary
from glomedge.cases.names import UNKNOWN_CASE
from glomedge.model.site_calibration import SiteScores

Floats = npt.NDArray[np.float64]


def by_case(site: DrawnSite, cases: list[str], slope: float = 1.0, offset: float = 0.0) -> dict[str, list[float]]:
    """Probabilities of some biopsies, by a model whose logits are changed by that line."""
    names = np.array(site.cases)
    return {case: sigmoid(slope * site.logits[names == case] + offset).tolist() for case in cases}


def nights(count: int, slope: float = 1.0, offset: float = 0.0) -> list[tuple[SiteScores, dict[str, list[float]]]]:
    """Sites of 8 to 20 biopsies, and a night of 6 to 15 other ones from there, its logits changed by the line."""
    made = []
    for seed in range(count):
        before, now = 8 + seed % 13, 6 + seed % 10
        site = draw_site(9000 + seed, biopsies=before + now, offset_sd=1.0)
        cases = sorted(set(site.cases))
        scores = scores_of(by_case(site, cases[:before]), 0.5)
        assert scores is not None
        made.append((scores, by_case(site, cases[before:], slope, offset)))
    return made


def alarms(made: list[tuple[SiteScores, dict[str, list[float]]]]) -> float:
    found = [compare(scores, night, 0.5) for scores, night in made]
    assert all(isinstance(one, Drift) for one in found)
    return float(np.mean([isinstance(one, Drift) and one.found for one in found]))


def kolmogorov_smirnov_alarm(first: Floats, second: Floats) -> bool:
    """Whether the two-sample test over crops, taken for independent, says p < 0.01 (its asymptotic limit)."""
    both = np.sort(np.concatenate([first, second]))
    gap = np.abs(
        np.searchsorted(np.sort(first), both, side="right") / len(first)
        - np.searchsorted(np.sort(second), both, side="right") / len(second)
    ).max()
    return bool(gap > 1.628 * np.sqrt(1 / len(first) + 1 / len(second)))


def test_false_alarms_keep_to_the_stated_rate_where_crops_of_a_biopsy_are_alike(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drift, "PERMUTATIONS", 999)  # the rate holds for any number
    made = nights(500)
    # At a true rate of 1%, more than 12 of 500 have a chance of 0.2%.
    assert alarms(made) <= 12 / 500
    # The same nights, crop by crop: this is what makes the biopsy the unit.
    crop_by_crop = []
    for seed in range(60):
        site = draw_site(9000 + seed, biopsies=24, offset_sd=1.0)
        first = np.isin(np.array(site.cases), sorted(set(site.cases))[:12])
        crop_by_crop.append(kolmogorov_smirnov_alarm(site.logits[first], site.logits[~first]))
    assert np.mean(crop_by_crop) > 0.3


@pytest.mark.parametrize(("slope", "offset", "least"), [(1.0, 2.0, 0.5), (1.0, -2.0, 0.5), (0.5, 0.0, 0.8)])
def test_a_shifted_scanner_is_found(slope: float, offset: float, least: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drift, "PERMUTATIONS", 999)
    assert alarms(nights(60, slope, offset)) >= least


def test_p_is_the_share_of_relabellings_counted_out() -> None:
    rng = np.random.default_rng(3)
    then, now = rng.normal(0, 1, (6, 2)).round(1), rng.normal(1.2, 1, (5, 2)).round(1)
    values = np.concatenate([then, now])

    def extreme(chosen: tuple[int, ...]) -> float:
        most = 0.0
        for column in values.T:
            ranks = [sum(other < one for other in column) + (sum(other == one for other in column) + 1) / 2
                     for one in column]  # fmt: skip
            mean, spread = np.mean(ranks), np.std(ranks)
            most = max(most, abs(sum((ranks[place] - mean) / spread for place in chosen)))
        return most

    observed = extreme(tuple(range(6, 11)))
    exact = np.mean([extreme(chosen) >= observed - 1e-9 for chosen in itertools.combinations(range(11), 5)])
    assert 0.001 < exact < 0.9
    assert permutation_p(then, now) == pytest.approx(exact, abs=4 * np.sqrt(exact / 9999) + 1e-3)


def test_the_ends_of_p() -> None:
    same = np.ones((8, 2))
    assert permutation_p(same, same) == 1.0
    far = np.arange(16.0).reshape(8, 2)
    assert permutation_p(far, far + 100) <= 0.002
    assert permutation_p(far, far + 100, seed=1) >= 1 / 10000


def test_a_biopsys_two_numbers() -> None:
    logits = np.array([-9.0, -2.0, 0.0, 1.0, 4.0])
    assert summary(logits, 0.5)[0] == -5.5  # of -9 and -2: a crop at the threshold is called
    assert summary(logits, 0.5)[1] == pytest.approx((6 + 2 + 0 + 1 + 4) / 5)
    assert summary(np.array([5.0, 3.0, 4.0]), 0.5)[0] == 3.0
    turn = float(logits_of(0.2))
    assert summary(logits + turn, 0.2)[1] == pytest.approx((6 + 2 + 0 + 1 + 4) / 5, abs=1e-3)


def test_what_is_kept_of_a_site() -> None:
    site = {f"b{index}": [0.1 * (1 + index % 9)] * 6 for index in range(7)} | {
        "few": [0.5] * 4,
        UNKNOWN_CASE: [0.5] * 50,
    }
    scores = scores_of(site, 0.5)
    assert scores is not None
    assert scores.crops == 42
    assert len(scores.biopsies) == 7
    assert scores.biopsies[0] == summary(np.full(6, np.log(0.1 / 0.9)), 0.5)
    assert scores.deciles[0] == pytest.approx(np.log(0.1 / 0.9), abs=1e-4)
    assert scores.deciles[-1] == pytest.approx(np.log(0.7 / 0.3), abs=1e-4)
    assert scores_of({case: site[case] for case in ("b0", "b1", "b2", "b3", "few")}, 0.5) is None
    many = scores_of({f"b{index:04d}": [index / 1000] * 5 for index in range(1000)}, 0.5)
    assert many is not None
    assert len(many.biopsies) == 200


def test_too_little_is_not_compared_and_says_so() -> None:
    scores, night = nights(1)[0]
    few = {case: night[case][:8] for case in night}
    answer = compare(scores, few, 0.5)
    assert isinstance(answer, str)
    assert "too few to compare: 100 crops and 5 biopsies are needed" in answer
    four = {case: night[case] * 9 for case in list(night)[:4]}
    assert isinstance(compare(scores, four, 0.5), str)
    assert isinstance(compare(scores, four | {UNKNOWN_CASE: [0.5] * 100}, 0.5), str)


def test_the_same_night_has_the_same_p_and_saturated_probabilities_are_taken() -> None:
    scores, night = nights(1, offset=1.5)[0]
    first = compare(scores, night, 0.5)
    assert first == compare(scores, dict(reversed(night.items())), 0.5)
    saturated = compare(scores, {case: [1.0] * 40 for case in night}, 0.5)
    assert isinstance(saturated, Drift)
    assert saturated.p_value <= ALARM_BELOW
    assert np.isfinite(saturated.deciles).all()
