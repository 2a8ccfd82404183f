"""The drawn data set: layout, determinism, and that only structure tells the classes apart."""

from __future__ import annotations

import csv
import json
import os
import re
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.errors import OutputError, UsageError
from glomedge_export.synthetic import dataset
from glomedge_export.synthetic.crop import MAX_SIDE_PX, MIN_SIDE_PX, draw_crop, draw_size
from glomedge_export.synthetic.dataset import FOLDERS, plan_dataset, write_dataset

NAME = re.compile(r"^(?P<case>.+)_PAS_(?P<i>\d+)of(?P<n>\d+)_[0-9a-f]{24}\.png$")


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()
    }


def labels_of(directory: Path) -> dict[str, int]:
    with (directory / "public.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", "ground truth"]
    return {row["name"]: int(row["ground truth"]) for row in rows}


def auroc(score: npt.NDArray[np.float64], label: npt.NDArray[np.bool_]) -> float:
    """Naive: the share of (positive, negative) pairs in the right order, ties half."""
    difference = score[label][:, None] - score[~label][None]
    return float((difference > 0).mean() + 0.5 * (difference == 0).mean())


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set that several tests read and none changes."""
    directory = tmp_path_factory.mktemp("drawn")
    write_dataset(directory, crops=24, cases=4, seed=3, positive_fraction=0.4, workers=2)
    return directory


def test_layout_is_the_users_own(drawn: Path) -> None:
    labels = labels_of(drawn)
    assert len(labels) == 24
    assert sum(labels.values()) == round(24 * 0.4)
    for name, label in labels.items():
        assert NAME.match(name), name
        assert (drawn / FOLDERS[label] / name).is_file()
    on_disk = [path.name for folder in FOLDERS for path in (drawn / folder).iterdir()]
    assert sorted(on_disk) == sorted(labels)
    assert {match["case"] for name in labels if (match := NAME.match(name))} == set(
        json.loads((drawn / "synthetic.json").read_text())["percent_gs"]
    )


def test_crops_are_opaque_rgba_of_differing_sizes_in_the_users_range(drawn: Path) -> None:
    sizes = set()
    for path in drawn.glob("*/*.png"):
        pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert pixels is not None
        assert pixels.dtype == np.uint8
        assert pixels.shape[2] == 4
        assert (pixels[..., 3] == 255).all()
        assert MIN_SIDE_PX <= min(pixels.shape[:2]) <= max(pixels.shape[:2]) <= MAX_SIDE_PX
        sizes.add(pixels.shape[:2])
    assert len(sizes) > 12


def test_says_that_it_is_drawn_and_for_research_only(drawn: Path) -> None:
    assert RESEARCH_USE_NOTICE in (drawn / "README.txt").read_text()
    manifest = json.loads((drawn / "synthetic.json").read_text())
    assert RESEARCH_USE_NOTICE in manifest["notice"]
    assert "no patient" in manifest["notice"]
    assert manifest["seed"] == 3
    assert {"numpy", "opencv"} <= set(manifest["package_versions"])


def test_same_seed_same_bytes_whatever_the_workers(drawn: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "one", crops=24, cases=4, seed=3, positive_fraction=0.4, workers=1)
    assert files_of(tmp_path / "one") == files_of(drawn)


def test_another_seed_gives_other_pictures(drawn: Path, tmp_path: Path) -> None:
    write_dataset(tmp_path / "other", crops=24, cases=4, seed=4, positive_fraction=0.4)
    assert not set(files_of(drawn).values()) & {
        data for name, data in files_of(tmp_path / "other").items() if name.endswith(".png")
    }


@pytest.mark.parametrize(("crops", "cases"), [(60, 3), (60, 12), (400, 16)])
@pytest.mark.parametrize("fraction", [0.2, 0.35, 0.5])
@pytest.mark.parametrize("seed", [0, 1, 20261123])
def test_biopsies_differ_in_percentage(crops: int, cases: int, fraction: float, seed: int) -> None:
    planned = plan_dataset(crops, cases, seed, fraction)
    by_case: dict[str, list[int]] = {}
    for crop in planned:
        by_case.setdefault(crop.case, []).append(crop.label)
    shares = [float(np.mean(labels)) for labels in by_case.values()]
    assert len(planned) == crops
    assert len({crop.name for crop in planned}) == crops
    assert len(by_case) == cases
    assert sum(crop.label for crop in planned) == round(crops * fraction)
    assert min(shares) == 0.0
    assert max(shares) > 0.5


@pytest.mark.parametrize(("fraction", "positive"), [(0.0, 0), (1.0, 30)])
def test_extreme_fractions_are_kept_exactly(fraction: float, positive: int) -> None:
    assert sum(crop.label for crop in plan_dataset(30, 5, 0, fraction)) == positive


@pytest.mark.parametrize(
    ("crops", "cases", "seed", "fraction", "message"),
    [
        (3, 4, 0, 0.3, "at least one crop per case"),
        (3, 0, 0, 0.3, "at least one crop per case"),
        (9, 3, 0, 1.5, "from 0 to 1"),
        (9, 3, 0, float("nan"), "from 0 to 1"),
        (9, 3, -1, 0.3, "0 or more"),
    ],
)
def test_impossible_plans_are_refused(crops: int, cases: int, seed: int, fraction: float, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        plan_dataset(crops, cases, seed, fraction)


def test_no_first_order_statistic_gives_the_class_away() -> None:
    """AUROC of mean R, G, B, of file size and of dimensions stays within 0.3-0.7, whichever way it points.

    Structure must be what a model learns: otherwise every figure on drawn crops would be hollow.
    """
    label = np.arange(160) % 2 == 1
    statistics = []
    for crop, seed in zip(label, np.random.SeedSequence(11).spawn(len(label)), strict=True):
        rgba = draw_crop(np.random.default_rng(seed), bool(crop))
        done, encoded = cv2.imencode(".png", rgba, dataset.PNG_PARAMETERS)
        assert done
        statistics.append([*rgba[..., :3].reshape(-1, 3).mean(0), encoded.size, rgba.shape[0], rgba.shape[1]])
    table = np.array(statistics, np.float64)
    for name, column in zip(("red", "green", "blue", "file size", "height", "width"), table.T, strict=True):
        assert 0.3 < auroc(column, label) < 0.7, name
    assert 0.3 < auroc(table[:, 4] * table[:, 5], label) < 0.7, "area"


def test_structure_does_tell_the_classes_apart() -> None:
    """Pale lumina and nuclei inside the tuft: the contrast of its middle is higher than a scar's, on average."""
    contrast: dict[bool, list[float]] = {True: [], False: []}
    for index in range(60):
        rgba = draw_crop(np.random.default_rng([5, index]), index % 2 == 1, (300, 300))
        contrast[index % 2 == 1].append(float(rgba[90:210, 90:210, 1].std()))
    assert np.mean(contrast[False]) > 1.5 * np.mean(contrast[True])
    # ... and yet it overlaps: the task is not settled by one number.
    assert min(contrast[False]) < max(contrast[True])


def test_a_stain_is_shared_by_a_biopsy() -> None:
    planned = plan_dataset(20, 4, 0, 0.4)
    stains = {crop.case: crop.stain for crop in planned}
    assert len(stains) == 4
    assert all(crop.stain is stains[crop.case] for crop in planned)


@pytest.mark.parametrize("size_px", [(200, 200), (200, 1200), (1200, 200), (33, 57), (1200, 1200)])
@pytest.mark.parametrize("sclerotic", [False, True])
def test_any_size_can_be_drawn(size_px: tuple[int, int], sclerotic: bool) -> None:
    rgba = draw_crop(np.random.default_rng(1), sclerotic, size_px)
    assert rgba.shape == (*size_px, 4)
    assert rgba.dtype == np.uint8
    assert rgba[..., :3].std() > 5


def test_sizes_spread_over_the_users_range() -> None:
    rng = np.random.default_rng(0)
    sides = np.array([draw_size(rng) for _ in range(2000)])
    assert sides.min() >= MIN_SIDE_PX
    assert sides.max() <= MAX_SIDE_PX
    assert np.percentile(sides, 2) < 320 < 800 < np.percentile(sides, 98)
    assert 250_000 < sides.prod(1).mean() < 450_000  # the users' crops: 333,000 pixels on average


# --- what is in the way ---------------------------------------------------------------------------------------------


def test_an_earlier_drawn_set_is_replaced(tmp_path: Path) -> None:
    write_dataset(tmp_path, crops=8, cases=2, seed=0)
    before = set(labels_of(tmp_path))
    write_dataset(tmp_path, crops=4, cases=2, seed=9)
    after = set(labels_of(tmp_path))
    assert len(after) == 4
    assert not before & after
    assert {path.name for path in tmp_path.glob("*/*.png")} == after


def test_a_set_that_is_not_ours_is_never_touched(tmp_path: Path) -> None:
    (tmp_path / "public.csv").write_text("name,ground truth\nreal.png,1\n")
    for force in (False, True):
        with pytest.raises(UsageError, match="name another folder"):
            write_dataset(tmp_path, crops=4, cases=2, force=force)
    assert files_of(tmp_path) == {"public.csv": b"name,ground truth\nreal.png,1\n"}


def test_files_added_to_a_drawn_set_are_not_lost(tmp_path: Path) -> None:
    write_dataset(tmp_path, crops=4, cases=2)
    mine = tmp_path / FOLDERS[1] / "mine.png"
    mine.write_bytes(b"x")
    before = files_of(tmp_path)
    with pytest.raises(UsageError, match=r"mine\.png was added"):
        write_dataset(tmp_path, crops=4, cases=2, force=True)
    assert files_of(tmp_path) == before


def test_another_folder_needs_force(tmp_path: Path) -> None:
    (tmp_path / "thesis.doc").write_bytes(b"x")
    with pytest.raises(UsageError, match="--force"):
        write_dataset(tmp_path, crops=4, cases=2)
    write_dataset(tmp_path, crops=4, cases=2, force=True)
    assert (tmp_path / "thesis.doc").read_bytes() == b"x"
    assert len(labels_of(tmp_path)) == 4


def test_a_broken_off_run_leaves_no_labels_and_is_cleaned_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(done: int, total: int) -> None:
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_dataset(tmp_path, crops=60, cases=2, workers=1, progress=stop)
    assert not (tmp_path / "public.csv").exists()
    assert len(list(tmp_path.rglob("*.png"))) < 50  # what was waiting was not drawn
    write_dataset(tmp_path, crops=6, cases=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*FOLDERS, "public.csv", "README.txt", "synthetic.json"]
    )


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UsageError, match="name a folder"):
        write_dataset(tmp_path / "file", crops=4, cases=2)
    with pytest.raises(OutputError, match="you can write to"):
        write_dataset(tmp_path / "file" / "below", crops=4, cases=2)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root may write anywhere")
def test_unwritable_folder(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="you can write to"):
        write_dataset(tmp_path / "new", crops=4, cases=2)
