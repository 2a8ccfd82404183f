"""Splits: no biopsy on two sides, fair shares of both labels, the published draw, and files given back."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.errors import DatasetError
from glomedge_export.data.dataset import Dataset
from glomedge_export.data.split import (
    SIDES,
    make_split,
    read_split,
    split_by_case,
    split_in_halves,
    split_published,
    write_split,
)
from helpers.labelled import dataset_of


def uneven(cases: int = 227, seed: int = 5) -> Dataset:
    """Biopsies of 1 to some 200 crops, 0 to 100% positive: as drawn from the field."""
    rng = np.random.default_rng(seed)
    sizes = np.clip(rng.lognormal(2.5, 1.1, cases), 1, 250).astype(int)
    fractions = rng.beta(0.4, 1.8, cases)
    labels: list[npt.NDArray[np.int64]] = []
    names: list[str] = []
    for number, (size, fraction) in enumerate(zip(sizes, fractions, strict=True)):
        labels.append((rng.random(size) < fraction).astype(np.int64))
        names += [f"S-{number:04d}"] * size
    return dataset_of(np.concatenate(labels), names)


@pytest.mark.parametrize("seed", range(5))
def test_no_biopsy_is_on_two_sides_and_shares_are_fair(seed: int) -> None:
    dataset = uneven(seed=seed)
    split = split_by_case(dataset, seed)
    sides_of_case = defaultdict(set)
    for item in dataset.items:
        sides_of_case[item.case].add(split.sides[item.name])
    assert len(sides_of_case) == 227
    assert all(len(sides) == 1 for sides in sides_of_case.values())
    counts = split.counts(dataset)
    assert (counts["test"].cases, counts["validation"].cases, counts["train"].cases) == (34, 34, 159)
    crops, positive = len(dataset.items), int(dataset.labels.sum())
    for side, share in (("train", 0.7), ("validation", 0.15), ("test", 0.15)):
        assert counts[side].crops / crops == pytest.approx(share, abs=0.02)
        assert counts[side].positive / positive == pytest.approx(share, abs=0.02)


def test_every_crop_is_on_one_side_and_seed_decides() -> None:
    dataset = uneven(60)
    first, again, other = split_by_case(dataset, 1), split_by_case(dataset, 1), split_by_case(dataset, 2)
    assert first.sides == again.sides != other.sides
    indices = np.concatenate([first.indices(dataset, side) for side in SIDES])
    np.testing.assert_array_equal(np.sort(indices), np.arange(len(dataset.items)))


def test_impossible_splits_by_case_are_refused() -> None:
    with pytest.raises(DatasetError, match="2 biopsies cannot be split"):
        split_by_case(dataset_of(np.array([0, 1, 0, 1]), ["a", "a", "b", "b"]))
    with pytest.raises(DatasetError, match="No split by biopsy"):
        split_by_case(dataset_of(np.array([0, 1, 0, 0]), ["a", "a", "b", "c"]))


def test_published_split_is_scikit_learns() -> None:
    from sklearn.model_selection import train_test_split

    dataset = uneven(40)
    everything = np.arange(len(dataset.items))
    rest, test = train_test_split(everything, test_size=0.15, random_state=42)
    train, validation = train_test_split(rest, test_size=0.15, random_state=42)
    split = split_published(dataset)
    for side, expected in (("train", train), ("validation", validation), ("test", test)):
        np.testing.assert_array_equal(split.indices(dataset, side), np.sort(expected))  # type: ignore[arg-type]


def test_published_split_warns_that_biopsies_leak() -> None:
    dataset = uneven(40)
    (warning,) = split_published(dataset).warnings
    leaking = 0
    split = split_published(dataset)
    for case in set(dataset.cases):
        sides = {split.sides[item.name] for item in dataset.items if item.case == case}
        leaking += len(sides) > 1
    assert f"crops of {leaking} of 40 biopsies" in warning


def test_written_split_comes_back(tmp_path: Path) -> None:
    dataset = uneven(30)
    split = split_by_case(dataset)
    write_split(tmp_path / "split.csv", dataset, split)
    back = make_split(dataset, "file", file=tmp_path / "split.csv")
    assert (back.sides, back.method, back.warnings) == (split.sides, "file", ())


def test_split_file_with_leaking_biopsies_warns(tmp_path: Path) -> None:
    dataset = uneven(30)
    write_split(tmp_path / "split.csv", dataset, split_published(dataset))
    assert "biopsies on more than one side" in read_split(tmp_path / "split.csv", dataset).warnings[0]


def test_every_misfit_of_a_split_file_is_listed(tmp_path: Path) -> None:
    dataset = uneven(30)
    path = tmp_path / "split.csv"
    write_split(path, dataset, split_by_case(dataset))
    with path.open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    removed = rows.pop(5)["name"]
    rows[0]["split"] = "holdout"
    rows.append({**rows[1]})
    rows.append({**rows[1], "name": "unknown.png"})
    with path.open("w", newline="") as handle:
        writer = csv.DictWriter(handle, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    with pytest.raises(DatasetError) as caught:
        read_split(path, dataset)
    text = str(caught.value)
    assert f"{removed}: not in the split file" in text
    assert f"{rows[0]['name']}: 'holdout' is not train, validation or test" in text
    assert f"{rows[1]['name']!r} is listed twice (first in line 3)" in text
    assert "unknown.png: not in the data set" in text
    assert "4 problems" in text


def test_split_file_must_give_every_side_both_labels(tmp_path: Path) -> None:
    dataset = dataset_of(np.array([0, 1, 0, 1, 0, 0]), list("aabbcc"))
    path = tmp_path / "split.csv"
    sides = ["train", "train", "validation", "validation", "test", "test"]
    lines = [f"{item.name},{side}" for item, side in zip(dataset.items, sides, strict=True)]
    path.write_text("name,split\n" + "\n".join(lines))
    with pytest.raises(DatasetError, match=r"without crops of both labels: test \(2 crops, 0 positive\)"):
        read_split(path, dataset)


@pytest.mark.parametrize(
    ("text", "reason"), [(None, "cannot be read"), ("a,b\n1,2\n", "no column 'name' and 'split'; it has a, b")]
)
def test_unusable_split_files(tmp_path: Path, text: str | None, reason: str) -> None:
    path = tmp_path / "split.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(DatasetError, match=reason):
        read_split(path, uneven(10))


def test_halves_keep_biopsies_whole_and_share_both_labels() -> None:
    rng = np.random.default_rng(4)
    cases = [f"c{i}" for i in rng.integers(0, 13, 260)]
    dataset = dataset_of((rng.random(260) < 0.3).astype(np.int64), cases)
    split = split_in_halves(dataset)
    assert set(split.sides.values()) == {"validation", "test"}
    sides_of_case: dict[str, set[str]] = {}
    for item in dataset.items:
        sides_of_case.setdefault(item.case, set()).add(split.sides[item.name])
    assert all(len(sides) == 1 for sides in sides_of_case.values())
    for side in ("validation", "test"):
        labels = dataset.labels[split.indices(dataset, side)]
        assert 0.4 < len(labels) / 260 < 0.6
        assert 0.2 < labels.mean() < 0.4
    assert split_in_halves(dataset).sides == split.sides
    assert split_in_halves(dataset, seed=1).sides != split.sides


@pytest.mark.parametrize("cases", [["a"] * 20, ["a"] * 10 + ["b"] * 10])
def test_halves_that_would_lack_a_label_are_refused(cases: list[str]) -> None:
    labels = np.array([0] * 10 + [1] * 10, np.int64)
    with pytest.raises(DatasetError, match=r"cannot be split into two halves .* --case-pattern"):
        split_in_halves(dataset_of(labels, cases))
