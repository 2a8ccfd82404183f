"""The choice of crops to label."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from benchmarks.lib.drawn_sites import draw_site
from glomedge.cases.sampling import choose
from glomedge.errors import UsageError


def test_the_same_seed_chooses_the_same_crops_and_another_seed_others() -> None:
    site = draw_site(0)
    first, again, other = (choose(site.logits.tolist(), site.cases, 30, seed) for seed in (5, 5, 6))
    assert first == again
    assert {one.index for one in first} != {one.index for one in other}


@pytest.mark.parametrize("count", [1, 2, 7, 30, 200])
def test_exactly_as_many_as_asked_for_none_twice(count: int) -> None:
    site = draw_site(1)
    for seed in range(20):
        chosen = choose(site.logits.tolist(), site.cases, count, seed)
        assert len({one.index for one in chosen}) == len(chosen) == count
        assert min(one.weight for one in chosen) >= 1.0


def test_all_crops_with_weight_one_where_no_more_were_asked_for() -> None:
    chosen = choose([0.3, -1.0, 2.0], ["a", "a", "b"], 30, 0)
    assert sorted(one.index for one in chosen) == [0, 1, 2]
    assert {one.weight for one in chosen} == {1.0}


def test_a_weight_is_the_inverse_of_the_chance_of_being_chosen() -> None:
    site = draw_site(2, biopsies=4)
    draws = 2000
    drawn = Counter[int]()
    weight = {}
    for seed in range(draws):
        for one in choose(site.logits.tolist(), site.cases, 12, seed):
            drawn[one.index] += 1
            weight[one.index] = one.weight
    assert len(weight) == len(site.labels)
    chance = np.array([1 / weight[index] for index in range(len(site.labels))])
    share = np.array([drawn[index] / draws for index in range(len(site.labels))])
    deviation = np.abs(share - chance) / np.sqrt(chance * (1 - chance) / draws)
    assert chance.sum() == pytest.approx(12)
    assert deviation.max() < 5.0


def test_weighted_means_estimate_the_whole_folder_where_plain_ones_do_not() -> None:
    site = draw_site(3)
    truth = site.labels.mean()
    weighted, plain = [], []
    for seed in range(300):
        crops = site.labelled(30, seed)
        weighted.append((crops.weights * crops.labels).sum() / crops.weights.sum())
        plain.append(crops.labels.mean())
    assert abs(np.mean(weighted) - truth) < 0.02
    assert abs(np.mean(plain) - truth) > 0.05


def test_both_tails_and_the_middle_are_there_and_most_biopsies() -> None:
    site = draw_site(4)
    low, high = np.quantile(site.logits, [0.1, 0.9])
    for seed in range(30):
        crops = site.labelled(30, seed)
        assert (crops.logits <= low).any()
        assert (crops.logits >= high).any()
        middle = (np.min(site.logits) + np.max(site.logits)) / 2
        assert (np.abs(crops.logits - middle) < 3).sum() >= 3
        assert len(set(crops.cases)) >= 8  # of 12


def test_one_score_for_all_crops_is_a_plain_draw() -> None:
    chosen = choose([1.5] * 50, [str(index % 5) for index in range(50)], 10, 0)
    assert len(chosen) == 10
    assert {round(one.weight, 9) for one in chosen} == {5.0}


def test_the_order_says_nothing_of_the_score() -> None:
    site = draw_site(5)
    orders = []
    for seed in range(200):
        scores = site.labelled(30, seed).logits
        orders.append(np.corrcoef(np.arange(30), scores)[0, 1])
    assert abs(np.mean(orders)) < 0.05


@pytest.mark.parametrize(("logits", "count"), [([], 3), ([0.1], 0), ([0.1], -2)])
def test_nothing_to_choose_is_an_error(logits: list[float], count: int) -> None:
    with pytest.raises(UsageError):
        choose(logits, ["a"] * len(logits), count)
