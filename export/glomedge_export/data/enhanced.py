"""Decoded, enhanced crops, made once and kept as one memory-mapped uint8 array.

Decoding and enhancing a crop costs about as much as a hundredth of a training step on it, but every epoch needs
every crop again; mapped from a file they cost a copy. The file's name is a hash of the data and of everything that
shaped the pixels, so an old cache is never used for another data set, recipe or library version.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from glomedge.about import __version__
from glomedge.errors import OutputError
from glomedge.files.writing import replacing
from glomedge.imaging import images
from glomedge.imaging.enhance import enhance
from glomedge.model.spec import SIZE_PX, Recipe
from glomedge_export.data.dataset import Dataset


def cache_path(cache_dir: Path | str, data_sha256: str, recipe: Recipe) -> Path:
    """Where the enhanced crops of this data and recipe are cached, for these versions."""
    key = json.dumps([data_sha256, recipe.model_dump(), __version__, cv2.__version__], sort_keys=True)
    return Path(cache_dir) / f"crops-{hashlib.sha256(key.encode()).hexdigest()[:32]}.npy"


def enhanced(
    dataset: Dataset,
    recipe: Recipe,
    cache_dir: Path | str,
    on_progress: Callable[[int, int], None] | None = None,
) -> npt.NDArray[np.uint8]:
    """The enhanced crops in the order of ``dataset.items``.

    Args:
        dataset: checked by ``read_dataset``.
        recipe: the colour enhancement.
        cache_dir: made where missing; the cache appears in it whole or not at all.
        on_progress: called with (done, all) while the cache is made.

    Returns:
        Read-only memory map, uint8 ``[N, 224, 224, 3]``, RGB.

    Raises:
        OutputError: the cache cannot be written.
        ImageError: a crop has become unreadable since the data set was checked.
    """
    path = cache_path(cache_dir, dataset.sha256, recipe)
    shape = (len(dataset.items), SIZE_PX, SIZE_PX, 3)
    cached = _open(path, shape)
    if cached is not None:
        return cached
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            array = np.lib.format.open_memmap(temporary, mode="w+", dtype=np.uint8, shape=shape)
            _fill(array, dataset, recipe, on_progress)
    except OSError as error:
        raise OutputError(
            f"The cache of enhanced crops cannot be written to {path.parent} ({error.strerror}). Free "
            f"{np.prod(shape) / 1e6:.0f} MB there or name another place with --cache-dir."
        ) from error
    reopened = _open(path, shape)
    if reopened is None:
        raise OutputError(
            f"The cache {path} disappeared while it was being written. Start again, and do not clear it meanwhile."
        )
    return reopened


def _fill(
    array: np.memmap[tuple[int, ...], np.dtype[np.uint8]],
    dataset: Dataset,
    recipe: Recipe,
    on_progress: Callable[[int, int], None] | None,
) -> None:
    def fill(index: int) -> None:
        decoded = images.decode(images.read(dataset.items[index].path))
        enhance(decoded.pixels_hwc, recipe, out=array[index])

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for done, _ in enumerate(pool.map(fill, range(len(dataset.items))), start=1):
            if on_progress is not None:
                on_progress(done, len(dataset.items))
    array.flush()


def _open(path: Path, shape: tuple[int, ...]) -> npt.NDArray[np.uint8] | None:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    if array.shape != shape or array.dtype != np.uint8:
        return None
    return np.asarray(array)
