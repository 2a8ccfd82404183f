"""Enhanced crops for benchmarks that start at the Engine: real ones where a data set is named, else drawn ones."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.lib.common import log
from glomedge.engine import golden
from glomedge.engine.engine import Engine
from glomedge.errors import ImageError
from glomedge.imaging import images
from glomedge.imaging.enhance import enhance
from glomedge.model.spec import Recipe

Images = npt.NDArray[np.uint8]


def enhanced_crops(data: Path | None, recipe: Recipe, limit: int | None = None) -> tuple[Images, str]:
    """Uint8 ``[N, 224, 224, 3]`` and one phrase that says what they are.

    Args:
        data: any folder of crops, searched at any depth; None draws 256 schematic ones.
        recipe: the model's preprocessing.
        limit: at most this many.
    """
    if data is None:
        count = min(limit or 256, 256)
        return np.stack([enhance(golden.draw_crop(seed), recipe) for seed in range(count)]), f"{count} drawn crops"
    paths = sorted(path for path in data.rglob("*") if path.suffix.lower() in images.ALLOWED_SUFFIXES)[:limit]
    found = []
    for path in paths:
        try:
            found.append(enhance(images.decode(images.read(path)).pixels_hwc, recipe))
        except ImageError as error:
            log(f"  left out: {path.name}: {error.code}")
    if not found:
        raise SystemExit(f"no readable crops in {data}: name a folder of images with --data")
    return np.stack(found), f"{len(found)} real crops"


def agreement(
    reference: Images | npt.NDArray[np.float32], other: npt.NDArray[np.float32], cut: float
) -> dict[str, Any]:
    """Largest and mean probability difference, and decisions that differ at the threshold ``cut``."""
    difference = np.abs(other.astype(np.float64) - reference)
    return {
        "crops": len(other),
        "max_probability_difference": float(difference.max()),
        "mean_probability_difference": float(difference.mean()),
        "flips": int(((reference >= cut) != (other >= cut)).sum()),
        "probability_spread": float(np.std(reference)),
    }


def probabilities(engine: Engine, crops: Images, batch: int = 32) -> npt.NDArray[np.float32]:
    """Float32 ``[N]``, in batches."""
    return np.concatenate([engine.infer(crops[i : i + batch]).probability for i in range(0, len(crops), batch)])
