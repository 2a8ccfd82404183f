"""``--heatmaps DIR``: the overlays of a finished run, made from the maps in the spool and the crops themselves.

Only the crops that are chosen are read again, on threads, after the answers are safe: a run that asks for the uncertain
ones hardly notices.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np

from glomedge.errors import ImageError, OutputError
from glomedge.escape import unescape_name
from glomedge.folderrun import Options
from glomedge.results import Row
from glomedge.scan import Scan
from glomedge.spool import Spool

SUFFIX = b".heatmap.png"


def chosen(row: Row, wanted: str, review_band: tuple[float, float]) -> bool:
    """Whether ``--heatmaps-for`` asks for that row."""
    if row.probability is None:
        return False
    if wanted == "all":
        return True
    if wanted == "positives":
        return row.label == 1
    return review_band[0] <= row.probability <= review_band[1]


def shared_limits(rows: list[Row], spool: Spool) -> tuple[float, float] | None:
    """One scale for all heatmaps of a run: the 2nd percentile of the maps' minima to the 98th of their maxima."""
    extremes = [(kept[0].min(), kept[0].max()) for row in rows if (kept := spool.read(row.attachment)) is not None]
    if not extremes:
        return None
    low, high = np.array(extremes, np.float64).T
    return float(np.quantile(low, 0.02)), float(np.quantile(high, 0.98))


def write_heatmaps(
    options: Options, found: Scan, rows: Iterator[Row], spool: Spool, threshold_logit: float
) -> list[str]:
    """Write one PNG for each chosen crop, at its own size, under the same relative path plus ``.heatmap.png``.

    Returns:
        What could not be drawn, in sentences.

    Raises:
        OutputError: the folder cannot be written.
    """
    from glomedge.hardware import usable_cpus

    assert options.heatmaps is not None
    wanted = [row for row in rows if chosen(row, options.heatmaps_for, options.review_band)]
    limits = shared_limits(wanted, spool)
    draw = partial(_draw, options.heatmaps, found, spool, limits, threshold_logit, options.follow_symlinks)
    with ThreadPoolExecutor(options.workers or usable_cpus()) as pool:
        failures = [message for message in pool.map(draw, wanted) if message is not None]
    notes = [f"{len(wanted) - len(failures)} heatmaps were written to {options.heatmaps}."]
    return notes + failures[:20]


def _draw(
    folder: Path,
    found: Scan,
    spool: Spool,
    limits: tuple[float, float] | None,
    threshold_logit: float,
    follow_symlinks: bool,
    row: Row,
) -> str | None:
    from glomedge import heatmap, images

    kept = spool.read(row.attachment)
    if kept is None:
        return f"No heatmap for {row.path}: its map was lost in a crash. --overwrite predicts on it again."
    relative = unescape_name(row.path)
    try:
        data = images.read(os.path.join(found.root, relative), follow_symlinks=follow_symlinks)  # noqa: PTH118 (bytes)
        if hashlib.sha256(data).hexdigest() != row.sha256:
            return f"No heatmap for {row.path}: the file has changed since it was predicted on."
        picture = heatmap.overlay(
            images.decode(data).pixels_hwc, kept[0], limits=limits, threshold_logit=threshold_logit
        )
    except ImageError as error:
        return f"No heatmap for {row.path}: {error}"
    target = Path(os.fsdecode(os.path.join(os.fsencode(folder), relative + SUFFIX)))  # noqa: PTH118 (bytes)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(heatmap.to_png(picture))
    except OSError as error:
        raise OutputError(f"{target} cannot be written: {error.strerror}. Choose another --heatmaps folder.") from None
    return None
