"""The demo's figures, the reader's stand-in and the page that leads through it."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cases.labels import read_site_labels
from glomedge.errors import GlomedgeError
from glomedge_export.demo.figures import Figures, figures_of
from glomedge_export.demo.page import write_page
from glomedge_export.demo.reader import READER, answer_as_drawn
from glomedge_export.demo.steps import STEPS, Spent
from helpers.demo_tables import write_answers, write_labels


def figures(folder: Path, probabilities: list[object], labels: list[int], intervals: tuple[object, ...]) -> Figures:
    write_labels(folder / "night" / "public.csv", labels)
    write_answers(folder / "predictions", probabilities, intervals)
    return figures_of(folder / "predictions", folder / "night" / "public.csv")


def test_counts_of_the_calls(tmp_path: Path) -> None:
    found = figures(tmp_path, [0.9, 0.4, 0.6, 0.1, 0.05], [1, 1, 0, 0, 0], (0, 100, "", ""))
    assert (found.true_positive, found.false_negative, found.true_negative, found.false_positive) == (1, 1, 2, 1)
    assert found.sensitivity == 0.5
    assert found.specificity == pytest.approx(2 / 3)
    assert found.review == 2
    assert found.review_share == 0.4
    (biopsy,) = found.biopsies
    assert (biopsy.case, biopsy.crops, biopsy.true_percent, biopsy.percent) == ("12-3", 5, 40.0, 40.0)
    assert found.percent_error == 0.0
    assert found.as_json()["biopsies"][0]["held"] is True


@pytest.mark.parametrize(
    ("intervals", "held"),
    [
        ((30, 60, "", ""), True),
        ((55, 60, "", ""), False),
        ((55, 60, 45, 60), True),  # the corrected interval is the one that knows of the model's errors
        ((40, 60, 50.01, 60), False),
        ((40, 60, 50.0, 50.0), True),
    ],
)
def test_the_true_percentage_is_looked_for_in_the_corrected_interval(
    tmp_path: Path, intervals: tuple[object, ...], held: bool
) -> None:
    found = figures(tmp_path, [0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0], intervals)
    assert found.biopsies[0].held is held
    assert found.held == held


def test_auroc_is_that_of_scikit_learn(tmp_path: Path) -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 60)
    scores = np.round(rng.normal(labels * 0.7, 1.0), 1)  # rounded, so that ties occur
    found = figures(tmp_path, scores.tolist(), labels.tolist(), (0, 100, "", ""))
    assert found.crops == 60
    assert found.auroc == pytest.approx(roc_auc_score(labels, scores), abs=1e-12)


def test_a_crop_without_probability_is_an_error_not_a_smaller_sample(tmp_path: Path) -> None:
    with pytest.raises(GlomedgeError, match=r"no probability for 1 labelled crops, 1\.png"):
        figures(tmp_path, [0.9, "", 0.3, 0.1], [1, 1, 0, 0], (0, 100, "", ""))


def test_one_class_alone_has_no_figures(tmp_path: Path) -> None:
    with pytest.raises(GlomedgeError, match="one class only"):
        figures(tmp_path, [0.9, 0.3], [0, 0], (0, 100, "", ""))


def chosen(folder: Path, names: list[str]) -> None:
    (folder / "labelling").mkdir()
    with (folder / "labelling" / "chosen.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("name", "weight", "case"), *((name, "2.5", "B1") for name in names)])


def test_the_drawn_truth_answers_as_the_page_would(tmp_path: Path) -> None:
    write_labels(tmp_path / "away" / "public.csv", [1, 0, 1])
    chosen(tmp_path, ["globally/2.png", "others/1.png"])
    said: list[str] = []
    answer_as_drawn(tmp_path, said.append)
    labels = read_site_labels(tmp_path / "labelling" / "labels.csv")
    assert labels.labels == {"globally/2.png": 1, "others/1.png": 0}
    assert set(labels.weights.values()) == {2.5}
    assert labels.readers == (READER,)
    assert said == ["2 crops labelled, 1 of them globally sclerotic: labelling/labels.csv"]


def test_a_crop_that_was_not_drawn_is_not_answered(tmp_path: Path) -> None:
    write_labels(tmp_path / "away" / "public.csv", [1, 0])
    chosen(tmp_path, ["a/7.png"])
    with pytest.raises(GlomedgeError, match=r"7\.png was chosen but not drawn"):
        answer_as_drawn(tmp_path, print)
    assert not (tmp_path / "labelling" / "labels.csv").exists()


def test_the_page_says_what_it_is_and_links_to_what_is_there(tmp_path: Path) -> None:
    found = figures(tmp_path, [0.9, 0.8, 0.3, 0.1], [1, 1, 0, 0], (20, 80, 30, 70))
    write_labels(tmp_path / "away-check" / "public.csv", [1, 0])
    (tmp_path / "validation.html").write_text("")
    spent = [(step, None if step.needs else Spent(2.0, 3.5)) for step in STEPS]
    write_page(tmp_path, found, found, found, spent)
    page = (tmp_path / "demo.html").read_text(encoding="utf-8")
    assert page.count(RESEARCH_USE_NOTICE) == 2
    assert "no patient&#39;s tissue" in page or "no patient's tissue" in page
    assert '<a href="validation.html">' in page
    assert 'href="away.card.md"' not in page
    assert "50.0% (30.0-70.0)" in page
    assert page.count("<code>glomedge") == sum(step.command.startswith("glomedge") for step in STEPS)
    assert page.count('<td class="n whole">left out</td>') == sum(bool(step.needs) for step in STEPS)
    assert "<b>1.000</b>AUROC" in page
    assert "the extra serve is not installed" in page
