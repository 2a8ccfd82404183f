"""The crops of a bench: a given folder, the model's training data if known, else drawn crops."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from glomedge.bench.record import CropSource
from glomedge.errors import ImageError, UsageError
from glomedge.model.spec import Recipe

DRAWN_CROPS = 32
PARITY_CROPS = 64


@dataclass(frozen=True)
class Crops:
    """Image files to measure with. ``drawn`` crops are temporary files of this run."""

    files: tuple[Path, ...]
    source: str
    drawn: bool


def find(images: Path | None, model: Path, scratch: Path) -> Crops:
    """``--images``, else the folder the model was trained on (from ``model.keras.json`` beside it), else drawn crops.

    Raises:
        UsageError: ``--images`` names no folder, or one without an image.
    """
    if images is not None:
        files = _files(images)
        if not files:
            raise UsageError(f"There is no image in {images}. Give a folder of crops with --images DIR.")
        return Crops(files, f"--images {images.name}", drawn=False)
    trained_on = _training_folder(model)
    if trained_on is not None:
        files = _files(trained_on)
        if files:
            return Crops(files, f"{trained_on.name} (the folder this model was trained on)", drawn=False)
    folder = scratch / "drawn"
    folder.mkdir()
    drawn = tuple(_draw(folder, seed) for seed in range(DRAWN_CROPS))
    return Crops(drawn, "drawn by glomedge bench (schematic, RGBA PNG, 300 to 900 px a side)", drawn=True)


def describe(crops: Crops) -> CropSource:
    """How many there are and how large, from at most 64 of them."""
    from glomedge.imaging import images

    pixels, sizes = [], []
    for path in spread(crops.files, 64):
        data = images.read(path)
        sizes.append(len(data))
        try:
            height, width = images.decode(data).pixels_hwc.shape[:2]
        except ImageError:
            continue
        pixels.append(height * width)
    if not pixels:
        raise UsageError(f"No image of {crops.source} can be decoded. Give another folder with --images DIR.")
    return CropSource(
        source=crops.source,
        crops=len(crops.files),
        mean_pixels=float(np.mean(pixels)),
        mean_bytes=float(np.mean(sizes)),
    )


def enhanced(crops: Crops, recipe: Recipe, limit: int = PARITY_CROPS) -> npt.NDArray[np.uint8]:
    """Up to ``limit`` crops spread evenly over the folder, as the network sees them: uint8 ``[N, side, side, 3]``."""
    from glomedge.imaging import enhance, images

    made = []
    for path in spread(crops.files, limit):
        try:
            made.append(enhance.enhance(images.decode(images.read(path)).pixels_hwc, recipe))
        except ImageError:
            continue
    if not made:
        raise UsageError(f"No image of {crops.source} can be decoded. Give another folder with --images DIR.")
    return np.stack(made)


def spread(files: tuple[Path, ...], limit: int) -> list[Path]:
    """At most ``limit`` files at even distances, in order."""
    count = min(limit, len(files))
    return [files[i * len(files) // count] for i in range(count)]


def folder_of(files: tuple[Path, ...], count: int, target: Path) -> Path:
    """A folder of exactly ``count`` crops: hard links (copies across file systems), repeated when there are fewer."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    chosen = spread(files, count) if count <= len(files) else [files[i % len(files)] for i in range(count)]
    for index, source in enumerate(chosen):
        link = target / f"{index:05d}-{source.name}"
        try:
            os.link(source, link)
        except OSError:
            shutil.copyfile(source, link)
    return target


def _files(folder: Path) -> tuple[Path, ...]:
    from glomedge.imaging.images import ALLOWED_SUFFIXES
    from glomedge.pipeline.inputs import scan

    if not folder.is_dir():
        raise UsageError(f"{folder} is not a folder. Give a folder of crops with --images DIR.")
    found = scan(folder, ALLOWED_SUFFIXES)
    return tuple(Path(os.fsdecode(found.path(item))) for item in found.inputs if item.error is None)


def _training_folder(model: Path) -> Path | None:
    """The data directory of the training record next to the model; None if it is absent or no longer there."""
    record = model.with_name("model.keras.json")
    try:
        named = json.loads(record.read_text(encoding="utf-8")).get("data_directory")
    except (OSError, ValueError, AttributeError):
        return None
    if not isinstance(named, str) or not named:
        return None
    folder = Path(named)
    return folder if folder.is_dir() else None


def _draw(folder: Path, seed: int) -> Path:
    """One drawn RGBA PNG: the self-test's glomerulus with texture, so that it takes as long to decode as tissue."""
    import cv2

    from glomedge.engine import golden

    rng = np.random.default_rng(seed)
    height, width = (int(side) for side in rng.integers(300, 901, 2))
    crop = cv2.resize(golden.draw_crop(seed), (width, height), interpolation=cv2.INTER_LINEAR)
    # Camera-like noise, partly correlated: PNG then needs about two bytes a pixel, as for scanned tissue.
    noise = cv2.GaussianBlur(rng.normal(0.0, 9.0, crop.shape).astype(np.float32), (0, 0), 0.8)
    textured = np.clip(crop.astype(np.float32) + noise, 0, 255).astype(np.uint8)
    rgba = cv2.cvtColor(textured, cv2.COLOR_RGB2BGRA)
    path = folder / f"drawn_PAS_{seed // 8 + 1}of4_{seed:024x}.png"
    done, data = cv2.imencode(".png", rgba)
    if not done:
        raise UsageError("OpenCV cannot write PNG here. Give a folder of crops with --images DIR.")
    path.write_bytes(bytes(data))
    return path
