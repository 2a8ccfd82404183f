"""What is required of a model, and the verdict."""

from __future__ import annotations

import pytest

from glomedge.cases.acceptance import Requirement, parse_requirements
from glomedge.errors import UsageError
from glomedge.model.spec import Interval


def test_requirements_are_read() -> None:
    found = parse_requirements("sensitivity=0.9, specificity=0.95,percent_gs_mae=8")
    assert found == [
        Requirement("sensitivity", 0.9),
        Requirement("specificity", 0.95),
        Requirement("percent_gs_mae", 8.0),
    ]


@pytest.mark.parametrize(
    "text", ["", "sensitivity", "sensitivity=high", "sensitivity=90", "luck=0.9", "auroc=-1", "auroc=nan", "f1=1,f1=1"]
)
def test_others_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--require") as refused:
        parse_requirements(text)
    assert len(str(refused.value)) < 500


def test_a_figure_meets_its_limit_or_not() -> None:
    figures = {"auroc": Interval(value=0.95, low=0.8, high=0.99), "percent_gs_mae": Interval(value=8.0)}
    assert Requirement("auroc", 0.95).met(figures)
    assert not Requirement("auroc", 0.951).met(figures)
    assert Requirement("percent_gs_mae", 8.0).met(figures)
    assert not Requirement("percent_gs_mae", 7.9).met(figures)
    assert not Requirement("sensitivity", 0.1).met(figures)  # undefined: no such crop
