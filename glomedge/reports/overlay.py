"""Class-activation overlays: where in a crop the network saw global sclerosis.

``activation`` is exact, not an approximation: its mean over the cells (7 x 7 at 224 px) is the logit before
temperature, so a cell's value is what that cell alone would answer. Colours are one standard, perceptually uniform map
(viridis), and every picture carries the scale they are read with (``colourscale``).
"""

from __future__ import annotations

import functools
import math
import struct
import zlib

import cv2
import numpy as np
import numpy.typing as npt

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.errors import UsageError
from glomedge.imaging.images import grey
from glomedge.model.spec import MAP_SIZE
from glomedge.reports import colour_scale
from glomedge.reports.cell_grid import CellGrid

Pixels = npt.NDArray[np.uint8]

_JPEG_MAX_PX = 65_500
_POINTS, _POINTS_A_CELL = 128, 18
"""Colours and line are worked out on a grid of about that many points along the crop's shorter side."""
_LINE_SHIFT = 4
"""Bits behind the point of a pixel's coordinates, where OpenCV draws lines."""


def logit_threshold(threshold: float, temperature: float = 1.0) -> float:
    """The activation at the decision threshold: ``temperature * ln(threshold / (1 - threshold))``."""
    return temperature * math.log(threshold / (1.0 - threshold))


def upsample(
    activation: npt.NDArray[np.float32], height_px: int, width_px: int, *, views: int = 1, grid: CellGrid | None = None
) -> npt.NDArray[np.float32]:
    """The map at the size of a crop, smooth, each cell's value standing where it looks (``CellGrid``).

    Beyond the outermost centres the edge value is repeated. Between cells: cubic convolution (Keys 1981, a = -1/2),
    clipped to the map's own range so that no overshoot looks like evidence.

    Args:
        activation: float32 ``[cells, cells]``.
        height_px: of the crop.
        width_px: of the crop.
        views: how many views of the crop the map is the mean of.
        grid: where its cells look; see ``overlay``.

    Returns:
        float32 ``[height_px, width_px]``.
    """
    place = _grid_of(activation, views, grid)
    rows, columns = _weights(height_px, place), _weights(width_px, place)
    cells = np.ascontiguousarray(activation, np.float32)
    # Not a matrix product: NumPy and OpenCV both hand it to an OpenBLAS of their own, whose threads wait for more by
    # spinning, tens of milliseconds long. In this order the outer einsum's innermost loop runs along the pixels.
    smooth = np.einsum("yc,cx->yx", np.einsum("ry,rc->yc", rows, cells), columns)
    clipped: npt.NDArray[np.float32] = np.clip(smooth, cells.min(), cells.max(), out=smooth)
    return clipped


def _grid_of(activation: npt.NDArray[np.float32], views: int, grid: CellGrid | None) -> CellGrid:
    """The grid that was given, or the one that a map's own number of cells suggests."""
    if grid is not None:
        return grid
    cells = activation.shape[0] if activation.ndim else 0
    return (CellGrid() if cells == MAP_SIZE else CellGrid.even(32 * cells, max(1, cells))).seen_from(views)


@functools.lru_cache(maxsize=256)
def _weights(size_px: int, grid: CellGrid) -> npt.NDArray[np.float32]:
    """Cubic-convolution weights ``[cells, size_px]`` from cells to the pixels of one axis."""
    if grid.cells == 1:
        return np.ones((1, size_px), np.float32)
    network_px = (np.arange(size_px) + 0.5) * (grid.side_px / size_px) - 0.5
    position = np.clip((network_px - grid.first_px) / grid.pitch_px, 0.0, grid.cells - 1.0)
    first = np.minimum(position.astype(np.intp), grid.cells - 2)
    powers = np.vander(position - first, 4, increasing=True)
    weights = np.einsum("np,npc->cn", powers, _polynomials(grid.cells)[first])
    return np.ascontiguousarray(weights, np.float32)


@functools.cache
def _polynomials(cells: int) -> npt.NDArray[np.float64]:
    """Between cells i and i + 1, what t^0 to t^3 contribute to each cell's weight: ``[cells - 1, 4, cells]``."""
    # Keys' kernel, a = -1/2: the row of a power holds its coefficients for the cells i - 1 to i + 2.
    taps = 0.5 * np.asarray([[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]], np.float64)
    table = np.zeros((cells - 1, 4, cells))
    for first in range(cells - 1):
        for tap in range(4):  # beyond the edge the outermost cell is repeated, and may occur twice
            table[first, :, min(max(first + tap - 1, 0), cells - 1)] += taps[:, tap]
    return table


def overlay(
    pixels_hwc: Pixels,
    activation: npt.NDArray[np.float32],
    *,
    alpha: float = 0.45,
    limits: tuple[float, float] | None = None,
    threshold_logit: float | None = None,
    legend: bool = True,
    bgr: bool = False,
    views: int = 1,
    grid: CellGrid | None = None,
) -> Pixels:  # documented for Python users, one keyword each as in matplotlib: more parameters than usual
    """Lay the map over the original crop, at the crop's own size.

    The crop is shown in grey below the colours: pink and blue stain mixed into viridis would give colours that the
    scale does not have.

    Args:
        pixels_hwc: the decoded crop, uint8 ``[H, W, 3]``, RGB, or ``[H, W]``, its ``grey``; not written to.
        activation: float32 ``[cells, cells]``, finite.
        alpha: share of the colour, 0 to 1.
        limits: activation at the two ends of the colours; the map's own least and greatest when None. Give the same
            limits to all crops that are to be compared.
        threshold_logit: where the decision turns (``logit_threshold``): drawn as a line on the crop and on the scale.
        legend: put the scale next to the crop.
        bgr: answer with blue first, as ``to_jpeg(..., bgr=True)`` takes it: spares a copy.
        views: how many views of the crop the map is the mean of: 1, or 8 with ``--tta 8``.
        grid: where the map's cells look, ``CellGrid.of(engine.spec, views)``. When None: 7 x 7 cells lie as those of
            ResNet50V2 at 224 px, other numbers of them evenly over the crop.

    Returns:
        uint8 ``[H, W', 3]``, RGB unless ``bgr``; W' is W plus the scale's width. The same bytes for the same arguments.

    Raises:
        UsageError: a shape, dtype or value is none of the above.
    """
    place = _grid_of(activation, views, grid)
    _check(pixels_hwc, activation, place, alpha, limits)
    low, high = _ends(activation, limits)
    height_px, width_px = pixels_hwc.shape[:2]
    scale = colour_scale.strip(height_px, low, high, threshold_logit, bgr=bgr) if legend else None
    image = np.empty((height_px, width_px + (0 if scale is None else scale.shape[1]), 3), np.uint8)
    crop = image[:, :width_px]
    if scale is not None:
        image[:, width_px:] = scale

    # Between its points the map is as good as straight, and to read and write every pixel is what takes the time.
    step = max(1, min(height_px, width_px) // max(_POINTS, _POINTS_A_CELL * place.cells))
    field = upsample(activation, -(-height_px // step), -(-width_px // step), grid=place)
    line = [] if threshold_logit is None else _line(field, threshold_logit, height_px, width_px)
    if activation.min() < low:
        # convertScaleAbs takes the magnitude, so values below the limits are clipped first; above, it saturates.
        np.maximum(field, low, out=field)
    gain = 255.0 / (high - low)
    levels = cv2.convertScaleAbs(field, alpha=gain, beta=-low * gain)
    colours = cv2.applyColorMap(levels, colour_scale.viridis(bgr=bgr, share=alpha))
    _mix(pixels_hwc, colours, 1.0 - alpha, crop)
    _draw(crop, line)
    return image


def _ends(activation: npt.NDArray[np.float32], limits: tuple[float, float] | None) -> tuple[float, float]:
    """The activations at the two ends of the colours."""
    low, high = limits if limits is not None else (float(activation.min()), float(activation.max()))
    # A flat map: one colour, in the middle of the scale.
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _mix(pixels_hwc: Pixels, colours: Pixels, share: float, out: Pixels) -> None:
    """The crop in grey, ``share`` of it, plus the colours, which have their share in them and any size."""
    # Each share is taken where it is cheap, on one channel and on 256 colours; what is left is a sum of bytes.
    tissue = cv2.convertScaleAbs(pixels_hwc if pixels_hwc.ndim == 2 else grey(pixels_hwc), alpha=share)
    cv2.cvtColor(tissue, cv2.COLOR_GRAY2BGR, dst=out)
    size = out.shape[1], out.shape[0]
    cv2.add(out, cv2.resize(colours, size, interpolation=cv2.INTER_LINEAR), dst=out)


def to_png(rgb: Pixels) -> bytes:
    """A PNG file's bytes, lossless: RGB uint8 ``[H, W, 3]``, with the research-use notice as a ``Comment`` inside."""
    # Paeth with run lengths: a third faster than zlib's quickest search, and within 2% of its size on real overlays.
    how = [cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    raw = _encoded("PNG", rgb, [*how, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_PAETH])
    text = b"tEXt" + b"Comment\0" + RESEARCH_USE_NOTICE.encode("ascii")
    chunk = struct.pack(">I", len(text) - 4) + text + struct.pack(">I", zlib.crc32(text))
    # The signature (8 bytes) and IHDR (25) always come first; text may stand anywhere after them.
    return raw[:33] + chunk + raw[33:]


def to_jpeg(rgb: Pixels, *, bgr: bool = False) -> bytes:
    """A JPEG file's bytes: RGB uint8 ``[H, W, 3]`` (blue first if ``bgr``), with the notice as its comment.

    For pictures that are looked at: ten times faster than PNG, a quarter of its size. Quality 92; colour at half the
    resolution, since an overlay's varies over tens of pixels, and all that is sharp in it (tissue, line, letters) is
    grey. The colours can still be read off the scale (a test does).
    """
    how = [cv2.IMWRITE_JPEG_QUALITY, 92, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420]
    raw = _encoded("JPEG", rgb, how, bgr=bgr)
    text = RESEARCH_USE_NOTICE.encode("ascii")
    # Start of image (2 bytes), then the JFIF header, whose third and fourth bytes are its length.
    end = 4 + int.from_bytes(raw[4:6], "big")
    return raw[:end] + b"\xff\xfe" + struct.pack(">H", len(text) + 2) + text + raw[end:]


def _encoded(kind: str, pixels: Pixels, how: list[int], *, bgr: bool = False) -> bytes:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.size == 0:
        raise UsageError(f"No {kind} is made of {pixels.dtype} {list(pixels.shape)}. Pass uint8 [height, width, 3].")
    if kind == "JPEG" and max(pixels.shape) > _JPEG_MAX_PX:  # OpenCV answers with the bytes of its failure
        raise UsageError(f"A JPEG has at most {_JPEG_MAX_PX} pixels a side, not {list(pixels.shape[:2])}.")
    return bytes(cv2.imencode(f".{kind.lower()}", pixels if bgr else cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), how)[1])


def _check(
    pixels_hwc: Pixels,
    activation: npt.NDArray[np.float32],
    grid: CellGrid,
    alpha: float,
    limits: tuple[float, float] | None,
) -> None:
    right = pixels_hwc.ndim == 2 or (pixels_hwc.ndim == 3 and pixels_hwc.shape[2] == 3)
    if pixels_hwc.dtype != np.uint8 or not right or pixels_hwc.size == 0:
        raise UsageError(
            f"A heatmap is drawn over uint8 RGB pixels [height, width, 3] or their grey, not {pixels_hwc.dtype} "
            f"{list(pixels_hwc.shape)}. Decode the file with glomedge.imaging.images.decode."
        )
    if activation.shape != (grid.cells, grid.cells) or not np.isfinite(activation).all():
        raise UsageError(
            f"A heatmap is made of {grid.cells} x {grid.cells} finite activations, not of shape "
            f"{list(activation.shape)} with {int((~np.isfinite(activation)).sum())} that are not finite. "
            "Pass one crop's activation as the engine gave it."
        )
    if not 0.0 <= alpha <= 1.0:
        raise UsageError(f"alpha is a share from 0 to 1, not {alpha}. Try 0.45.")
    if limits is not None and not (math.isfinite(limits[0]) and math.isfinite(limits[1]) and limits[0] <= limits[1]):
        raise UsageError(f"The limits {limits} are not two finite numbers in order. Pass (least, greatest).")


def _line_px(height_px: int, width_px: int) -> int:
    """Width of the white line."""
    return max(1, round(min(height_px, width_px) / 250))


def _line(field: npt.NDArray[np.float32], turn: float, height_px: int, width_px: int) -> list[npt.NDArray[np.int32]]:
    """Where a field crosses ``turn``: closed lines ``[n, 1, 2]`` of x and y, in pixels times 2^``_LINE_SHIFT``.

    Traced on the field's own grid, then put between its points where the values say: finer than tracing pixels, without
    their steps, and a third of the time, most of which goes into drawing many short pieces.

    Args:
        field: float32, evenly over the crop as a smaller picture of it would be.
        turn: the value.
        height_px: of the crop.
        width_px: of the crop.
    """
    pitch = np.asarray((width_px / field.shape[1], height_px / field.shape[0]), np.float32)
    # Continued past the edge, so that the line runs out of the picture and not along its border; and by one point more,
    # which no line reaches: neighbours of all traced points are there.
    margin = math.ceil((_line_px(height_px, width_px) + 4) / float(pitch.min())) + 2
    grid = cv2.copyMakeBorder(field, *(margin,) * 4, cv2.BORDER_REPLICATE)
    inside = (grid >= turn).view(np.uint8)[1:-1, 1:-1]
    traced = cv2.findContours(inside, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE, offset=(1, 1))[0]
    if not traced:
        return []
    # Traced points are the outermost inside. Each moves to the mean of the crossings between it and its neighbours.
    points = np.concatenate(traced)[:, 0]
    x, y = points[:, 0], points[:, 1]
    above = grid[y, x] - turn
    shift, crossings = np.zeros(points.shape, np.float32), np.zeros((len(points), 1), np.float32)
    for direction in ((-1, 0), (1, 0), (0, -1), (0, 1)):
        there = grid[y + direction[1], x + direction[0]] - turn
        crosses = there < 0.0
        crossings[:, 0] += crosses
        shift += np.where(crosses, above / np.where(crosses, above - there, 1.0), 0.0)[:, None] * direction
    places = ((points + shift / np.maximum(crossings, 1.0) - margin + 0.5) * pitch - 0.5).astype(np.float32)
    lines = np.split(places[:, None], np.cumsum([len(line) for line in traced[:-1]]))
    return [np.rint(cv2.approxPolyDP(line, 0.3, True) * (1 << _LINE_SHIFT)).astype(np.int32) for line in lines]


def _draw(image: Pixels, lines: list[npt.NDArray[np.int32]]) -> None:
    """White lines with a black edge at the decision threshold: visible on any colour."""
    width_px = _line_px(*image.shape[:2])
    for thickness, colour in ((width_px + 2, (0, 0, 0)), (width_px, (255, 255, 255))):
        cv2.polylines(image, lines, True, colour, thickness, cv2.LINE_AA, _LINE_SHIFT)
