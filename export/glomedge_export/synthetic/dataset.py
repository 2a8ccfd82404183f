"""Draws a labelled data set in the layout that training reads, so that every step can be tried without patient data.

A set has biopsies that differ in stain and in how many of their glomeruli are globally sclerotic. Same seed and
arguments, same package versions: same bytes, whatever the number of workers.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from glomedge.about import RESEARCH_USE_NOTICE, __version__
from glomedge.errors import OutputError, UsageError
from glomedge.files.writing import check_writable
from glomedge_export.synthetic.crop import draw_crop, draw_size
from glomedge_export.synthetic.laboratory import LABORATORIES
from glomedge_export.synthetic.manifest import drawn_files
from glomedge_export.synthetic.optics import Stain
from glomedge_export.synthetic.tissue import Rng

__all__ = ["DrawnDataset", "PlannedCrop", "draw_crop", "plan_dataset", "write_dataset"]

FOLDERS = ("non_globally_sclerotic_glomeruli", "globally_sclerotic_glomeruli")  # index is the label
LABELS_FILE = "public.csv"
MANIFEST_FILE = "synthetic.json"
NOTICE_FILE = "README.txt"
_PARTIAL = ".glomedge-synth-partial"
_OWN_ENTRIES = (*FOLDERS, LABELS_FILE, MANIFEST_FILE, NOTICE_FILE)
# Noisy crops: looking for repeats (LZ77) takes half the time and ends larger than Huffman coding alone.
PNG_PARAMETERS = (
    *(cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY),
    *(cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_AVG),
)


@dataclass(frozen=True)
class PlannedCrop:
    """One crop before it is drawn."""

    name: str
    label: int
    case: str
    stain: Stain
    seed: np.random.SeedSequence


@dataclass(frozen=True)
class DrawnDataset:
    """What ``write_dataset`` wrote."""

    directory: Path
    crops: int
    positive: int
    percent_gs: dict[str, float]  # case -> 100 x globally sclerotic / all


def plan_dataset(crops: int, cases: int, seed: int, positive_fraction: float, laboratory: int = 1) -> list[PlannedCrop]:
    """Decide names, labels, stains and seeds, in the order of ``public.csv``.

    Raises:
        UsageError: counts, fraction or laboratory that cannot be carried out.
    """
    if laboratory not in LABORATORIES:
        known = " or ".join(map(str, LABORATORIES))
        raise UsageError(f"There is no laboratory {laboratory} to draw: choose --laboratory {known}.")
    if cases < 1 or crops < cases:
        raise UsageError(f"Cannot draw {crops} crops from {cases} cases: ask for at least one crop per case.")
    if not 0.0 <= positive_fraction <= 1.0:
        raise UsageError(f"--positive-fraction {positive_fraction} is not a fraction: give a number from 0 to 1.")
    if seed < 0:
        raise UsageError(f"--seed {seed} is negative: give 0 or more.")
    plan_seed, stain_seed, crop_seed = np.random.SeedSequence(seed).spawn(3)
    rng = np.random.default_rng(plan_seed)
    counts = _crops_per_case(rng, crops, cases)
    positives = _positives_per_case(rng, counts, round(crops * positive_fraction))
    style = LABORATORIES[laboratory]
    stains = [Stain.draw(np.random.default_rng(child), style) for child in stain_seed.spawn(cases)]
    seeds = iter(crop_seed.spawn(crops))
    planned = []
    for case, (biopsy, slides) in enumerate(_biopsies(rng, cases)):
        labels = rng.permutation(np.arange(counts[case]) < positives[case])
        for label in labels:
            slide = int(rng.integers(1, slides + 1))
            name = f"{biopsy}_PAS_{slide}of{slides}_{rng.bytes(12).hex()}.png"
            planned.append(PlannedCrop(name, int(label), biopsy, stains[case], next(seeds)))
    return sorted(planned, key=lambda crop: crop.name)


def _crops_per_case(rng: Rng, crops: int, cases: int) -> list[int]:
    """Uneven counts that add up, at least one each (a needle biopsy yields few glomeruli, a wedge many)."""
    weights = rng.uniform(0.6, 1.4, cases)
    return _apportion((crops - cases) * weights / weights.sum(), crops - cases, [crops] * cases, floor=1)


def _positives_per_case(rng: Rng, counts: list[int], total: int) -> list[int]:
    """Spread the positives: about a fifth of the cases have none, a fifth more than half, the rest lie between."""
    cases = len(counts)
    propensity = rng.beta(2.0, 5.0, cases)
    few = max(1, cases // 5) if cases >= 3 else 0
    order = rng.permutation(cases)
    propensity[order[:few]] = 0.0
    propensity[order[few : 2 * few]] = rng.uniform(0.6, 0.9, few)
    size = np.array(counts, float)
    # One shift of the log-odds brings the middle to the requested total; zero stays zero.
    middle = np.ones(cases, bool)
    middle[order[: 2 * few]] = False
    with np.errstate(divide="ignore"):
        odds = np.log(propensity) - np.log1p(-propensity)

    def shifted(shift: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        share = 1 / (1 + np.exp(-(odds + np.where(middle, shift, 0.0))))
        return np.asarray(share * size)

    low, high = -12.0, 12.0
    for _ in range(60):
        low, high = (low, (low + high) / 2) if shifted((low + high) / 2).sum() > total else ((low + high) / 2, high)
    return _apportion(shifted(low), total, counts)


def _apportion(
    shares: np.ndarray[tuple[int], np.dtype[np.float64]], total: int, limits: list[int], floor: int = 0
) -> list[int]:
    """Whole numbers near ``shares`` that add up to ``total`` within ``limits`` (largest remainder), plus ``floor``."""
    whole = np.minimum(np.floor(shares), limits).astype(int)
    while whole.sum() != total:
        missing = shares - whole
        if whole.sum() < total:
            missing[whole >= limits] = -np.inf
            whole[int(missing.argmax())] += 1
        else:
            missing[whole <= 0] = np.inf
            whole[int(missing.argmin())] -= 1
    return [int(count) + floor for count in whole]


def _biopsies(rng: Rng, cases: int) -> Iterable[tuple[str, int]]:
    """Distinct biopsy names in the two forms the users have, each with its number of slides."""
    start = rng.integers(1, 9000)
    for case in range(cases):
        slides = int(rng.choice([1, 2, 3, 6], p=[0.35, 0.35, 0.2, 0.1]))
        if case % 4 == 3:
            yield f"{rng.integers(10, 25)}-{start + case:03d}", slides
        else:
            yield f"S-{start + case:04d}-{rng.integers(0, 1_000_000):06d}", slides


def write_dataset(
    directory: Path,
    *,
    crops: int = 240,
    cases: int = 12,
    seed: int = 0,
    positive_fraction: float = 0.35,
    laboratory: int = 1,
    workers: int | None = None,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> DrawnDataset:  # the options of glomedge synth, one keyword each
    """Draw a data set into ``directory``.

    Everything is drawn beside its final place, inside ``directory``, and moved there at the end, ``public.csv`` last:
    a folder with ``public.csv`` is complete. An earlier drawn set is replaced; other files are left alone.
    One keyword for each option of ``glomedge synth``: they have nothing else in common.

    Args:
        directory: created when missing.
        crops: number of crops in all.
        cases: number of biopsies they come from.
        seed: same seed, same bytes (with the same package versions).
        positive_fraction: share of globally sclerotic crops.
        laboratory: which stains and scans them, a key of ``LABORATORIES``.
        workers: drawing threads; one per processor when None. Does not change the pictures.
        force: draw into a folder that holds other files.
        progress: called with (crops drawn, crops in all).

    Raises:
        UsageError: impossible counts, or a folder that holds something else.
        OutputError: the folder cannot be written.
    """
    planned = plan_dataset(crops, cases, seed, positive_fraction, laboratory)
    directory = Path(directory)
    try:
        _check_free(directory, force)
        check_writable(directory, "Choose a folder you can write to.")
        partial = directory / _PARTIAL
        if partial.exists():
            shutil.rmtree(partial)
        for folder in FOLDERS:
            (partial / folder).mkdir(parents=True)
        _draw_all(partial, planned, workers or os.cpu_count() or 1, progress)
        drawn = _summary(directory, planned)
        arguments = {"seed": seed, "cases": cases, "positive_fraction": positive_fraction, "laboratory": laboratory}
        _write_texts(partial, planned, drawn, arguments)
        _remove_earlier(directory)
        for entry in (*FOLDERS, NOTICE_FILE, MANIFEST_FILE, LABELS_FILE):
            (partial / entry).replace(directory / entry)
        partial.rmdir()
    except OSError as error:
        raise OutputError(f"Cannot draw into {directory}: {error}. Choose a folder you can write to.") from error
    return drawn


def _draw_all(
    partial: Path, planned: list[PlannedCrop], workers: int, progress: Callable[[int, int], None] | None
) -> None:
    def draw(crop: PlannedCrop) -> None:
        rng = np.random.default_rng(crop.seed)
        rgba = draw_crop(rng, crop.label == 1, draw_size(rng), crop.stain)
        done, encoded = cv2.imencode(".png", cv2.cvtColor(rgba, cv2.COLOR_RGBA2BGRA), PNG_PARAMETERS)
        if not done:
            raise OutputError(f"OpenCV could not encode {crop.name} as PNG. Reinstall opencv-python-headless.")
        (partial / FOLDERS[crop.label] / crop.name).write_bytes(encoded.tobytes())

    pool = ThreadPoolExecutor(workers)
    try:
        for count, _ in enumerate(pool.map(draw, planned), 1):
            if progress:
                progress(count, len(planned))
    finally:
        # Without cancelling, Ctrl-C and a full disk would wait until everything had been drawn.
        pool.shutdown(cancel_futures=True)


def _summary(directory: Path, planned: list[PlannedCrop]) -> DrawnDataset:
    by_case: dict[str, list[int]] = {}
    for crop in planned:
        by_case.setdefault(crop.case, []).append(crop.label)
    percent = {case: 100 * sum(labels) / len(labels) for case, labels in sorted(by_case.items())}
    return DrawnDataset(directory, len(planned), sum(crop.label for crop in planned), percent)


def _write_texts(
    partial: Path, planned: list[PlannedCrop], drawn: DrawnDataset, arguments: dict[str, int | float]
) -> None:
    with (partial / LABELS_FILE).open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["name", "ground truth"])
        writer.writerows([crop.name, crop.label] for crop in planned)
    manifest = {
        "notice": f"Drawn by a program; no patient's tissue. {RESEARCH_USE_NOTICE}",
        "drawn_by": f"glomedge {__version__}",
        "package_versions": {"numpy": np.__version__, "opencv": cv2.__version__},
        "crops": drawn.crops,
        **arguments,
        "positive": drawn.positive,
        "percent_gs": {case: round(value, 2) for case, value in drawn.percent_gs.items()},
        "files": [f"{FOLDERS[crop.label]}/{crop.name}" for crop in planned],
    }
    (partial / MANIFEST_FILE).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    (partial / NOTICE_FILE).write_text(
        f"These {drawn.crops} crops of glomeruli were drawn by a program (glomedge synth, seed {arguments['seed']}); "
        "they show no\n"
        "patient's tissue. They serve to try out and test glomedge; a model trained on them knows nothing about real\n"
        f"biopsies.\n\n{RESEARCH_USE_NOTICE}\n",
        encoding="utf-8",
    )


def _check_free(directory: Path, force: bool) -> None:
    """Refuse a folder in which something that we did not draw would be mixed with, or replaced by, drawn crops."""
    if not directory.exists():
        directory.mkdir(parents=True)
        return
    if not directory.is_dir():
        raise UsageError(f"{directory} is a file: name a folder to draw into.")
    present = {entry.name for entry in directory.iterdir()} - {_PARTIAL}
    earlier = drawn_files(directory / MANIFEST_FILE)
    in_the_way = sorted(present & set(_OWN_ENTRIES))
    if in_the_way and not earlier:
        raise UsageError(
            f"{directory} already holds {', '.join(in_the_way)} that glomedge synth did not draw: name another folder."
        )
    for folder in FOLDERS:
        strangers = {f"{folder}/{entry.name}" for entry in (directory / folder).glob("*")} - earlier
        if strangers:
            raise UsageError(
                f"{directory} holds a drawn set, but {min(strangers)} was added to it: "
                "move what you added elsewhere, or name another folder."
            )
    if present - set(_OWN_ENTRIES) and not earlier and not force:
        raise UsageError(
            f"{directory} is not empty ({min(present - set(_OWN_ENTRIES))}): "
            "name a new folder, or add --force to draw into it anyway."
        )


def _remove_earlier(directory: Path) -> None:
    """Remove an earlier drawn set, ``public.csv`` first; ``_check_free`` has made sure that it is ours alone."""
    for name in (LABELS_FILE, NOTICE_FILE):
        (directory / name).unlink(missing_ok=True)
    for folder in FOLDERS:
        shutil.rmtree(directory / folder, ignore_errors=True)
    (directory / MANIFEST_FILE).unlink(missing_ok=True)
