"""Agreement of two readers."""

from __future__ import annotations

import numpy as np
import pytest

from glomedge.cases.agreement import Agreement


def test_the_example_of_cohens_formula() -> None:
    # 20 + 15 of 50 agree; expected 0.5 * 0.6 + 0.5 * 0.4 = 0.5, so kappa is (0.7 - 0.5) / 0.5.
    found = Agreement(20, 5, 10, 15).kappa()
    assert found is not None
    assert found[0] == pytest.approx(0.4)
    assert found[1] < 0.4 < found[2]


@pytest.mark.keras  # the extra that brings scikit-learn
def test_the_value_is_that_of_scikit_learn() -> None:
    cohen_kappa_score = pytest.importorskip("sklearn.metrics", reason="needs scikit-learn").cohen_kappa_score

    rng = np.random.default_rng(0)
    for _ in range(20):
        first = rng.integers(0, 2, 30)
        second = np.where(rng.random(30) < 0.8, first, 1 - first)
        names = [str(index) for index in range(30)]
        found = Agreement.of(
            dict(zip(names, first.tolist(), strict=True)), dict(zip(names, second.tolist(), strict=True))
        )
        assert found.kappa() is not None
        assert found.kappa()[0] == pytest.approx(cohen_kappa_score(first, second))  # type: ignore[index]


def test_full_agreement_is_no_certainty() -> None:
    found = Agreement(10, 0, 0, 20).kappa()
    assert found is not None
    assert found[0] == found[2] == 1.0
    assert 0.6 < found[1] < 0.9


def test_only_crops_that_both_labelled_count() -> None:
    found = Agreement.of({"a": 1, "b": 0, "c": 1}, {"b": 0, "c": 0, "d": 1})
    assert found == Agreement(0, 1, 0, 1)
    assert (found.crops, found.agreed) == (2, 1)


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (12, 0, 0, 0), (0, 0, 0, 12)])
def test_where_chance_explains_everything_there_is_no_kappa(counts: tuple[int, int, int, int]) -> None:
    assert Agreement(*counts).kappa() is None


def test_the_interval_holds_the_kappa_that_was_drawn() -> None:
    rng = np.random.default_rng(1)
    held = []
    for _ in range(2000):
        truth = rng.random(40) < 0.35
        first, second = (truth ^ (rng.random(40) < 0.08) for _ in range(2))
        names = range(40)
        tables = [{str(name): int(labels[name]) for name in names} for labels in (first, second)]
        found = Agreement.of(tables[0], tables[1]).kappa()
        # p: positive by one reader; both positive: 0.35 * 0.92^2 + 0.65 * 0.08^2; observed 0.92^2 + 0.08^2.
        p = 0.35 * 0.92 + 0.65 * 0.08
        expected = p * p + (1 - p) ** 2
        kappa = (0.92**2 + 0.08**2 - expected) / (1 - expected)
        held.append(found is not None and found[1] <= kappa <= found[2])
    assert 0.93 <= np.mean(held) <= 0.99
