"""Small labelled data sets in the layout of docs/training.md, for tests of the training side."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from glomedge_export.data.dataset import FOLDERS, Dataset, Item

# Three biopsies with crops of both labels: the least that can be split by biopsy.
SIX_CROPS = [(f"B-{case}_PAS_1of1_{label}{case}.png", label) for case in range(3) for label in (0, 1)]


def crop_png(seed: int, size_px: int = 40) -> bytes:
    """A small noise picture that differs with its seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size_px, size_px, 3), dtype=np.uint8)
    return bytes(cv2.imencode(".png", pixels)[1])


def write_crops(directory: Path, crops: Sequence[tuple[str, int]] = SIX_CROPS) -> Path:
    """Write public.csv and the two folders; returns the directory."""
    for folder in FOLDERS:
        (directory / folder).mkdir(parents=True, exist_ok=True)
    for seed, (name, label) in enumerate(crops):
        (directory / FOLDERS[label] / name).write_bytes(crop_png(seed))
    write_csv(directory, crops)
    return directory


def write_csv(
    directory: Path, rows: Sequence[tuple[str, object]], header: Sequence[str] = ("name", "ground truth")
) -> None:
    """Write public.csv."""
    with (directory / "public.csv").open("w", newline="", encoding="utf-8") as handle:
        writer = csv.writer(handle)
        writer.writerow(header)
        writer.writerows(rows)


def dataset_of(labels: npt.NDArray[np.int64], cases: Sequence[str]) -> Dataset:
    """A data set without files, for what only looks at labels and biopsies."""
    items = tuple(
        Item(f"{case}_{i:05d}.png", Path(f"{case}_{i:05d}.png"), int(label), case, case, f"{i:064x}")
        for i, (label, case) in enumerate(zip(labels, cases, strict=True))
    )
    return Dataset(Path("drawn"), items)
