"""``--heatmaps DIR``: the overlays of a finished run, made from the maps in the thumbnails file and the crops in grey.

Drawn on threads, after the results are on disk. The chosen crops were kept in grey during the run
(``grey_crops.py``) or are read again; for the uncertain crops only, the cost is small.
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from glomedge.cases.text import counted
from glomedge.errors import ImageError, OutputError, UsageError
from glomedge.files.names import escape_name, unescape_name
from glomedge.files.storage import storage_at
from glomedge.files.writing import check_writable, nothing_to_give, write_all
from glomedge.model.file import ModelFile
from glomedge.pipeline.inputs import HEATMAP_SUFFIX, Found
from glomedge.pipeline.prepare import Pixels, pixels_sha256
from glomedge.reports.cell_grid import CellGrid
from glomedge.results.grey_crops import GreyStore
from glomedge.results.rows import Row
from glomedge.results.thumbnails import Thumbnails, shared_limits
from glomedge.runs.options import Options
from glomedge.runs.slides import Inputs

# A fault of one name, not of the folder: such a crop goes without.
_OF_ONE_NAME = frozenset({errno.ENAMETOOLONG, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.EILSEQ})
_MAX_SAID = 20


@dataclass(frozen=True)
class Drawing:
    """How maps of one model are drawn.

    Attributes:
        threshold_logit: where the decision turns.
        grid: where the cells look.
        limits: least and greatest activation of the colours, the same for all crops.
    """

    threshold_logit: float
    grid: CellGrid
    limits: tuple[float, float] | None = None


def chosen(probability: float | None, options: Options, threshold: float) -> bool:
    """Whether ``--heatmaps-for`` asks for a crop of that probability."""
    if probability is None:
        return False
    if options.heatmaps_for == "all":
        return True
    if options.heatmaps_for == "positives":
        return probability >= threshold
    return options.to_review(probability, threshold)


_ADVICE = "Free space, or choose another --heatmaps folder."


def require_map(model: ModelFile) -> None:
    """Raise UsageError where the model has no activation map to draw."""
    if model.spec.map_shape is None:
        raise UsageError(
            f"{escape_name(bytes(model.path))} has no exact activation map, because its network does not end in global "
            "average pooling and one linear layer, so heatmaps cannot be drawn. Omit --heatmaps."
        )


def check_folder(folder: Path) -> None:
    """Create the folder and test that it is writable, before anything is classified. Raises OutputError."""
    check_writable(folder, _ADVICE)


def _unwritable(path: Path, error: OSError) -> OutputError:
    return OutputError(f"{escape_name(bytes(path))} cannot be written: {error.strerror}. {_ADVICE}")


def write_heatmaps(
    options: Options,
    inputs: Inputs,
    rows: Callable[[], Iterator[Row]],
    thumbnails: Thumbnails,
    grey_crops: GreyStore | None,
    drawing: Drawing,
) -> list[str]:
    """Write one JPEG for each chosen crop, at its own size, under the same relative path plus ``.heatmap.jpg``.

    Args:
        rows: gives the rows that were chosen, in order, each time it is called; they are never all in memory.
        thumbnails: holds their maps.
        grey_crops: crops of this run in grey; those that are missing are read and decoded again.
        drawing: what the maps of this model mean; ``limits`` are worked out here.

    Returns:
        What was drawn and what could not be, in sentences.

    Raises:
        OutputError: the folder cannot be written.
    """
    from glomedge.system.cpu import usable_cpus

    assert options.heatmaps is not None
    drawing = replace(drawing, limits=shared_limits((row.attachment for row in rows()), thumbnails))
    draw = partial(_draw, options, inputs, thumbnails, grey_crops, drawing)
    drawn, failures = _draw_all(draw, rows(), options.workers or usable_cpus())
    notes = [f"{counted(drawn, 'heatmap was', 'heatmaps were')} written to {escape_name(bytes(options.heatmaps))}."]
    if others := _others(options.heatmaps, drawn):
        # Other crops, another model, another scale: must not be mistaken for this run's, and are not ours to delete.
        of_others = counted(others, "heatmap")
        notes.append(f"That folder also contains {of_others} of other runs. Use a new folder to keep runs apart.")
    notes += failures[:_MAX_SAID]
    if len(failures) > _MAX_SAID:
        notes.append(f"{len(failures) - _MAX_SAID} more heatmaps could not be drawn.")
    return notes


def _draw_all(draw: Callable[[Row], str | None], rows: Iterator[Row], workers: int) -> tuple[int, list[str]]:
    """Draw on threads, a few rows ahead; how many were drawn, and why the others were not."""
    import cv2

    drawn, failures = 0, list[str]()
    waiting: deque[Future[str | None]] = deque()

    def take() -> None:
        nonlocal drawn
        failure = waiting.popleft().result()
        drawn += failure is None
        if failure is not None:
            failures.append(failure)

    # As while decoding: many pictures at once, none of them on OpenCV's own threads, which wait for work by spinning.
    threads_before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        with ThreadPoolExecutor(workers) as pool:
            for row in rows:
                waiting.append(pool.submit(draw, row))
                if len(waiting) > 4 * workers:
                    take()
            while waiting:
                take()
    finally:
        cv2.setNumThreads(threads_before)
    return drawn, failures


def _others(folder: Path, drawn: int) -> int:
    found = sum(
        name.endswith(os.fsencode(HEATMAP_SUFFIX)) for _, _, names in os.walk(os.fsencode(folder)) for name in names
    )
    return max(0, found - drawn)


def _draw(
    options: Options,
    inputs: Inputs,
    thumbnails: Thumbnails,
    grey_crops: GreyStore | None,
    drawing: Drawing,
    row: Row,
) -> str | None:
    """Draw one; returns the reason if it cannot be drawn."""
    from glomedge.reports import overlay

    kept = thumbnails.read(row.attachment)
    if kept is None or kept[0] is None:
        return f"No heatmap for {row.path}: its map was lost in a crash. Run with --overwrite to classify it again."
    relative = unescape_name(row.path)
    pixels = None if grey_crops is None else grey_crops.get(row.path)
    if pixels is None:
        try:
            pixels = _decode_again(inputs, row, follow_symlinks=options.follow_symlinks)
        except ImageError as error:
            return f"No heatmap for {row.path}: {error}"
    picture = overlay.overlay(
        pixels, kept[0], limits=drawing.limits, threshold_logit=drawing.threshold_logit, bgr=True, grid=drawing.grid
    )
    folder = os.fsencode(options.heatmaps or Path())
    target = Path(os.fsdecode(os.path.join(folder, relative + HEATMAP_SUFFIX)))  # noqa: PTH118 (bytes)
    # A short hidden name, one per thread: what a crash leaves is not taken for a crop and is overwritten.
    temporary = target.parent / f".{threading.get_native_id()}.tmp"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        data = overlay.to_jpeg(picture, bgr=True)
        with temporary.open("wb", buffering=0) as file:
            write_all(file.write, data, nothing_to_give if grey_crops is None else grey_crops.drop)
        temporary.replace(target)
    except UsageError as error:  # too large for a JPEG
        return f"No heatmap for {row.path}: {error}"
    except OSError as error:
        temporary.unlink(missing_ok=True)
        if error.errno in _OF_ONE_NAME:
            return f"No heatmap for {row.path}: {error.strerror}."
        raise _unwritable(target, error) from None
    return None


def _decode_again(inputs: Inputs, row: Row, *, follow_symlinks: bool) -> Pixels:
    """The pixels, uint8 RGB ``[H, W, 3]``, that were classified. Raises ImageError."""
    from glomedge.imaging import images
    from glomedge.imaging.stored import read_stored

    relative = unescape_name(row.path)
    changed = ImageError("vanished", "the file has changed since it was classified.")
    if row.outline is not None and inputs.parts is not None:
        pixels = inputs.parts.fetch(Found(relative, part=row.outline.number)).pixels_hwc
        if pixels_sha256(pixels) != row.sha256:
            raise changed
        return pixels
    storage = storage_at(inputs.found.root)
    if storage is not None:
        data = read_stored(storage, relative)[0]
    else:
        data = images.read(os.path.join(inputs.found.root, relative), follow_symlinks=follow_symlinks)  # noqa: PTH118
    if hashlib.sha256(data).hexdigest() != row.sha256:
        raise changed
    return images.decode(data).pixels_hwc
