"""Which crops a file is calibrated on and which it is compared on: two sets without a crop in common.

Calibration draws from the training split only, half of each label, spread over the biopsies. Comparison uses
the validation and test splits, whole biopsies at a time; without a data set, drawn crops are used instead.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from glomedge.errors import DatasetError, UsageError
from glomedge.imaging import images
from glomedge.imaging.enhance import enhance
from glomedge.model.spec import Recipe
from glomedge_export.data.dataset import Dataset, Item, read_dataset
from glomedge_export.progress import Progress, silent
from glomedge_export.training_record import SplitName, TrainingRecord

MIN_CROPS = 64
MIN_CALIBRATION_CROPS = 16


@dataclass(frozen=True)
class CalibrationCrops:
    """Enhanced crops of the training split.

    Attributes:
        images_nhwc: uint8 ``[N, side, side, 3]`` RGB.
        names: of each crop, sorted.
        cases: number of biopsies among them.
    """

    images_nhwc: npt.NDArray[np.uint8]
    names: tuple[str, ...]
    cases: int

    @property
    def names_sha256(self) -> str:
        """SHA-256 of the names, one a line."""
        return hashlib.sha256("\n".join(self.names).encode()).hexdigest()


def read_recorded(directory: Path, record: TrainingRecord | None, case_pattern: str | None = None) -> Dataset:
    """The data set; where it is byte for byte the one trained on, its images are not all decoded again.

    Args:
        directory: of the crops.
        record: of the model's training, None without one.
        case_pattern: how biopsies are named, only without a record.

    Raises:
        DatasetError: the folder is not a usable data set.
    """
    known: Callable[[str], bool] | None = None
    pattern = case_pattern
    if record is not None:
        trained_on = record.training.data_sha256
        pattern = record.training.case_pattern

        def known(sha256: str) -> bool:
            return sha256 == trained_on

    return read_dataset(directory, pattern, min_cases=0, known_good=known)


def enhanced(
    items: Sequence[Item],
    recipe: Recipe,
    progress: Progress = silent,
    known: Mapping[str, npt.NDArray[np.uint8]] | None = None,
) -> npt.NDArray[np.uint8]:
    """Decode and enhance, on all cores: uint8 ``[N, side, side, 3]`` in the order of ``items``.

    Args:
        items: the crops.
        recipe: of the enhancement.
        progress: called with (stage, done, of).
        known: crops that were enhanced before, uint8 ``[side, side, 3]`` by name.
    """
    batch = np.empty((len(items), recipe.size_px, recipe.size_px, 3), np.uint8)
    before = known or {}

    def fill(index: int) -> None:
        item = items[index]
        if item.name in before:
            batch[index] = before[item.name]
        else:
            enhance(images.decode(images.read(item.path)).pixels_hwc, recipe, out=batch[index])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(fill, range(len(items))), 1):
            progress("reading crops", done, len(items))
    return batch


def spread(items: Sequence[Item], count: int, seed: int = 0) -> list[Item]:
    """Choose ``count`` items: half of each label as far as there are, and round the biopsies within a label.

    Deterministic for a seed and a set of names, whatever the order of ``items``.
    """
    rng = np.random.default_rng(seed)
    queues = []
    for label in (0, 1):
        cases: dict[str, list[Item]] = {}
        for item in sorted(items, key=lambda item: item.name):
            if item.label == label:
                cases.setdefault(item.case, []).append(item)
        shuffled = [[group[i] for i in rng.permutation(len(group))] for group in cases.values()]
        rng.shuffle(shuffled)
        rounds = max((len(group) for group in shuffled), default=0)
        queues.append([group[turn] for turn in range(rounds) for group in shuffled if turn < len(group)])
    negative, positive = queues
    take = min(len(positive), max(count // 2, count - len(negative)))
    return sorted([*positive[:take], *negative[: count - take]], key=lambda item: item.name)


def calibration_crops(
    dataset: Dataset, record: TrainingRecord | None, recipe: Recipe, count: int, progress: Progress = silent
) -> CalibrationCrops:
    """Crops for calibration, from the training split of the record.

    Raises:
        DatasetError: fewer than 16 crops of the training split are in the data set.
        UsageError: the model has no record, so its training split is unknown.
    """
    if record is None:
        raise UsageError(
            "Calibration takes crops of the training split only, and this model has no training record to tell which "
            "those are. Copy MODEL.keras.json from where the model was trained and place it next to MODEL.keras."
        )
    chosen = [item for item in dataset.items if record.split.get(item.name) == "train"]
    if len(chosen) < min(count, MIN_CALIBRATION_CROPS):
        raise DatasetError(
            f"Only {len(chosen)} crops of the model's training split are in {dataset.directory}, "
            f"{MIN_CALIBRATION_CROPS} are needed. Give the folder that the model was trained on with --calibration."
        )
    return calibration_from(chosen, recipe, count, progress)


def calibration_from(
    items: Sequence[Item], recipe: Recipe, count: int, progress: Progress = silent
) -> CalibrationCrops:
    """Up to ``count`` of these crops, half of each label as far as there are, over all biopsies."""
    chosen = spread(items, count)
    return CalibrationCrops(
        enhanced(chosen, recipe, progress), tuple(item.name for item in chosen), len({item.case for item in chosen})
    )


def held_out(
    dataset: Dataset, record: TrainingRecord, recipe: Recipe, count: int, progress: Progress = silent
) -> Crops | None:
    """Up to about ``count`` crops of the test, then the validation split, in whole biopsies; None if under 64."""
    chosen = whole_biopsies(dataset, record.split, ("test", "validation"), count)
    if len(chosen) < MIN_CROPS:
        return None
    return labelled(chosen, recipe, "held-out crops of the training data", progress)


def whole_biopsies(
    dataset: Dataset,
    sides: Mapping[str, SplitName],
    order: Sequence[SplitName],
    count: int,
) -> list[Item]:
    """About ``count`` crops of these sides, one side after the other, all of a biopsy or none.

    Whole biopsies, because %GS and Remuzzi grade are those of a biopsy, not of the part of it that was drawn.

    Args:
        dataset: the crops.
        sides: crop name -> side of the split.
        order: the sides to take from.
        count: no further biopsy is begun once there are as many.
    """
    chosen: list[Item] = []
    for side in order:
        cases: dict[str, list[Item]] = {}
        for item in dataset.items:
            if sides.get(item.name) == side:
                cases.setdefault(item.case, []).append(item)
        for case in _mixed_first(cases):
            if len(chosen) < count:
                chosen.extend(cases[case])
    return chosen


def labelled(items: Sequence[Item], recipe: Recipe, source: str, progress: Progress = silent) -> Crops:
    """These crops enhanced, with their labels and biopsies; ``source`` says in words where they come from."""
    return Crops(
        enhanced(items, recipe, progress),
        np.array([item.label for item in items], np.int64),
        tuple(item.case for item in items),
        tuple(item.name for item in items),
        source,
    )


def _mixed_first(cases: dict[str, list[Item]]) -> list[str]:
    """Biopsies with both labels first, then by name: they say more about %GS, and AUROC needs both labels."""
    return sorted(cases, key=lambda case: (len({item.label for item in cases[case]}) < 2, case))


def drawn(recipe: Recipe, count: int = MIN_CROPS, seed: int = 0) -> Crops:
    """Drawn crops (``glomedge synth``) where there are no held-out crops: eight biopsies, both labels."""
    import tempfile

    from glomedge_export.synthetic.dataset import write_dataset

    with tempfile.TemporaryDirectory() as folder:
        write_dataset(Path(folder), crops=count, cases=8, seed=seed)
        dataset = read_dataset(Path(folder), min_cases=0)
        return labelled(dataset.items, recipe, f"drawn crops, seed {seed}")


@dataclass(frozen=True)
class Crops:
    """Enhanced crops to compare on, none of them seen by calibration.

    Attributes:
        images_nhwc: uint8 ``[N, side, side, 3]`` RGB.
        labels: int ``[N]``, 1 for globally sclerotic.
        cases: biopsy of each crop, ``N`` of them.
        names: of each crop.
        source: where they come from, in words.
    """

    images_nhwc: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    cases: tuple[str, ...]
    names: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.images_nhwc)

    def only(self, kept: Sequence[int]) -> Crops:
        """The crops at these positions, in that order."""
        return replace(
            self,
            images_nhwc=np.ascontiguousarray(self.images_nhwc[kept]),
            labels=self.labels[kept],
            cases=tuple(self.cases[index] for index in kept),
            names=tuple(self.names[index] for index in kept),
        )
