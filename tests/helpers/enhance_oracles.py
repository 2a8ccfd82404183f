"""Colour enhancement written out plainly, for tests: no code shared with ``glomedge.imaging.enhance``."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

Pixels = npt.NDArray[np.uint8]


def naive_equalised(rgb: Pixels) -> Pixels:
    """Histogram equalisation of Y, written out: BT.601 in OpenCV's 14-bit fixed point, one pixel after another."""
    height_px, width_px, _ = rgb.shape
    out = np.empty_like(rgb)
    yuv = []
    histogram = [0] * 256
    for row in range(height_px):
        for column in range(width_px):
            red, green, blue = (int(v) for v in rgb[row, column])
            y = (4899 * red + 9617 * green + 1868 * blue + 8192) >> 14
            u = min(255, max(0, ((blue - y) * 8061 + (128 << 14) + 8192) >> 14))
            v = min(255, max(0, ((red - y) * 14369 + (128 << 14) + 8192) >> 14))
            yuv.append((y, u - 128, v - 128))
            histogram[y] += 1
    total, first = len(yuv), next(count for count in histogram if count)
    table, running = [], 0
    for level, count in enumerate(histogram):
        running += count
        # One level only: OpenCV leaves the plane as it is.
        table.append(level if first == total else round(max(0, running - first) * 255 / (total - first)))
    for index, (y, u, v) in enumerate(yuv):
        y = table[y]
        red = y + ((18678 * v + 8192) >> 14)
        green = y + ((-6472 * u - 9519 * v + 8192) >> 14)
        blue = y + ((33292 * u + 8192) >> 14)
        out[divmod(index, width_px)] = [min(255, max(0, value)) for value in (red, green, blue)]
    return out


def notebook(bgr: Pixels, side_px: int = 224) -> Pixels:
    """The published notebook (recipe ``published``), step by step; ``bgr`` as cv2.imread gives it."""
    resized = cv2.resize(bgr, (side_px, side_px))
    wrapped = (resized.astype(np.int64) * 255 % 256).astype(np.uint8)
    yuv = cv2.cvtColor(wrapped, cv2.COLOR_RGB2YUV)
    yuv[:, :, 0] = cv2.equalizeHist(np.ascontiguousarray(yuv[:, :, 0]))
    equalised = cv2.cvtColor(yuv, cv2.COLOR_YUV2RGB)
    negative = (equalised.astype(np.int64) * 255 % 256).astype(np.uint8)
    return np.asarray(ImageEnhance.Color(Image.fromarray(negative)).enhance(1.5))


def shifted_hue(rgb: Pixels, steps: int) -> Pixels:
    """Hue shift by whole 8-bit steps in exact integers, from OpenCV's hue and the channels' own extremes."""
    pixels = rgb.reshape(-1, 3).astype(np.int64)
    hue = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV).reshape(-1, 3)[:, 0].astype(np.int64)
    value, least = pixels.max(axis=1), pixels.min(axis=1)
    sector, within = np.divmod((hue + steps) % 180, 30)
    falling = value - ((value - least) * within + 15) // 30
    rising = value - ((value - least) * (30 - within) + 15) // 30
    by_sector = np.stack(
        [
            np.stack(channels, axis=1)
            for channels in (
                (value, rising, least),
                (falling, value, least),
                (least, value, rising),
                (least, falling, value),
                (rising, least, value),
                (value, least, falling),
            )
        ]
    )
    return by_sector[sector, np.arange(len(pixels))].reshape(rgb.shape).astype(np.uint8)


def naive_axis(pixels: npt.NDArray[np.float64], size_px: int) -> npt.NDArray[np.float64]:
    """One axis (the first) by its rule: mean of the covered interval when shrinking, linear when growing."""
    source_px = pixels.shape[0]
    out = np.zeros((size_px, *pixels.shape[1:]))
    scale = source_px / size_px
    for target in range(size_px):
        if source_px > size_px:
            low, high = target * scale, (target + 1) * scale
            for source in range(int(low), min(source_px, int(np.ceil(high)))):
                out[target] += pixels[source] * (min(high, source + 1) - max(low, source)) / scale
        else:
            position = min(max((target + 0.5) * scale - 0.5, 0.0), source_px - 1.0)
            first = min(int(position), max(source_px - 2, 0))
            share = position - first
            out[target] = pixels[first] * (1 - share) + pixels[min(first + 1, source_px - 1)] * share
    return out
