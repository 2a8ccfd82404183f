"""Flags on a decoded crop: is there tissue, is it in focus, unmasked, large enough, and of a stain we know?

A flagged crop is still predicted; the flag tells the reader to look at it. Thresholds were chosen on 830 real PAS
crops and degraded copies of them by ``benchmarks/accuracy/quality_flags.py``;
docs/quality.md has the rates it measured.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

#: The side at which detail is judged, whatever the network's own: the limits below were measured at it, and what is
#: lost above it the 224 px network never sees.
_DETAIL_SIDE_PX = 224
_COLOUR_SIDE_PX = 56
_MIN_SIDE_PX = 64

# Tissue is coloured or dark. CIE L*a*b*: chroma, lightness.
_TISSUE_MIN_CHROMA = 11.0
_TISSUE_MAX_LIGHTNESS = 70.0
_BLANK_MAX_TISSUE_FRACTION = 0.10
_BLANK_MAX_STRUCTURE = 8.0

_BLURRED_MAX_FINE = 0.195
_BLURRED_MAX_COARSE = 0.355

# Surround painted in one colour. Real glass is nearly as flat, and light gray; where a scanner saturates it is white.
_MASK_SIDE_PX = 64
_MASK_TOLERANCE = 3
_MASK_MIN_BORDER_FRACTION = 0.05
_MASK_MIN_FRACTION = 0.01
_WHITE_CORNERS = 4
_GLASS_MIN = 195
_GLASS_MAX = 252
_GLASS_MAX_SPREAD = 20

_STAIN_HUE_DEGREES = (-60.0, 8.0)
_STAIN_CHROMA = (13.0, 60.0)
_STAIN_LIGHTNESS = (16.0, 82.0)


_PACK = np.array([1 << 16, 1 << 8, 1], np.int32)

_SRGB = np.arange(256) / 255.0
_LINEAR = np.where(_SRGB <= 0.04045, _SRGB / 12.92, ((_SRGB + 0.055) / 1.055) ** 2.4).astype(np.float32)
"""Linear light of an 8-bit sRGB value (IEC 61966-2-1)."""
_TO_XYZ = np.array([[0.412453, 0.357580, 0.180423], [0.212671, 0.715160, 0.072169], [0.019334, 0.119193, 0.950227]])
_WHITE_D65 = np.array([0.950456, 1.0, 1.088754])
_TO_RELATIVE_XYZ = np.ascontiguousarray((_TO_XYZ / _WHITE_D65[:, None]).T.astype(np.float32))


@dataclass(frozen=True)
class Measures:
    """What the flags are decided on.

    Attributes:
        tissue_fraction: share of pixels that are coloured or dark.
        hue_degrees: CIE L*a*b* hue angle of the tissue's mean colour, -180 to 180 (PAS magenta: -43 to -7).
        chroma: CIE chroma of that colour.
        lightness: CIE L* of that colour, 0 to 100.
        structure: mean squared detail between 1/8 and 1/4 of the grid's resolution, squared gray levels.
        fine: detail of the finest octave against that of the next; falls as focus is lost.
        coarse: detail of the second octave against that of the third; falls with heavy blur even under noise.
    """

    tissue_fraction: float
    hue_degrees: float
    chroma: float
    lightness: float
    structure: float
    fine: float
    coarse: float


def assess(pixels_hwc: npt.NDArray[np.uint8]) -> tuple[str, ...]:
    """Flags of one decoded crop, uint8 [H, W, 3] RGB: any of ``blank``, ``blurred``, ``masked``, ``stain``,
    ``too_small``.

    ``blank`` stands for itself: where there is no tissue neither focus nor stain can be judged.

    Raises:
        ValueError: the array is not uint8 [H, W, 3] with at least one pixel.
    """
    if pixels_hwc.dtype != np.uint8 or pixels_hwc.ndim != 3 or pixels_hwc.shape[2] != 3 or pixels_hwc.size == 0:
        raise ValueError(f"expected uint8 [H, W, 3], got {pixels_hwc.dtype} {pixels_hwc.shape}")
    flags = []
    found = measure(pixels_hwc)
    if found.tissue_fraction < _BLANK_MAX_TISSUE_FRACTION or found.structure < _BLANK_MAX_STRUCTURE:
        flags.append("blank")
    else:
        if found.fine < _BLURRED_MAX_FINE or found.coarse < _BLURRED_MAX_COARSE:
            flags.append("blurred")
        if masked_fraction(pixels_hwc) >= _MASK_MIN_FRACTION:
            flags.append("masked")
        if not (
            _within(found.hue_degrees, _STAIN_HUE_DEGREES)
            and _within(found.chroma, _STAIN_CHROMA)
            and _within(found.lightness, _STAIN_LIGHTNESS)
        ):
            flags.append("stain")
    if min(pixels_hwc.shape[:2]) < _MIN_SIDE_PX:
        flags.append("too_small")
    return tuple(flags)


def measure(pixels_hwc: npt.NDArray[np.uint8]) -> Measures:
    """The figures behind ``assess``, for uint8 [H, W, 3] RGB of any size."""
    tissue_fraction, lab = _tissue_colour(pixels_hwc)
    fine, middle, coarse = _octaves(_shrunk_gray(pixels_hwc))
    return Measures(
        tissue_fraction=tissue_fraction,
        hue_degrees=math.degrees(math.atan2(lab[2], lab[1])),
        chroma=math.hypot(lab[1], lab[2]),
        lightness=lab[0],
        structure=coarse,
        # The offsets avoid a division by zero in flat pictures; real crops measure 60 and more.
        fine=fine / (middle + 1e-3),
        coarse=middle / (coarse + 1e-3),
    )


def masked_fraction(pixels_hwc: npt.NDArray[np.uint8]) -> float:
    """Share of the picture that one flat colour takes up from the border inwards, where it was painted there.

    Judged on every n-th pixel. Light gray counts as glass, and white only where it holds all four corners, as it
    does outside an outline: on a scanner that saturates, white is glass, too. 0 where there is no such colour.
    """
    step = max(1, min(pixels_hwc.shape[:2]) // _MASK_SIDE_PX)
    grid = np.ascontiguousarray(pixels_hwc[::step, ::step])
    border = np.concatenate([grid[0], grid[-1], grid[:, 0], grid[:, -1]]).astype(np.int32)
    colours, counts = np.unique(border @ _PACK, return_counts=True)
    most = int(counts.argmax())
    # Nearly every crop ends here.
    if counts[most] < _MASK_MIN_BORDER_FRACTION * len(border):
        return 0.0
    packed = int(colours[most])
    colour = (packed >> 16, packed >> 8 & 255, packed & 255)
    low, high = min(colour), max(colour)
    if low >= _GLASS_MIN and high <= _GLASS_MAX and high - low <= _GLASS_MAX_SPREAD:
        return 0.0
    flat = cv2.inRange(
        grid,
        tuple(max(0, value - _MASK_TOLERANCE) for value in colour),
        tuple(min(255, value + _MASK_TOLERANCE) for value in colour),
    )
    corners = np.count_nonzero(flat[[0, 0, -1, -1], [0, -1, 0, -1]])
    if low > _GLASS_MAX and corners < _WHITE_CORNERS:
        return 0.0
    # Filled from a frame put around the picture: what is connected with its border, many times cheaper than naming all
    # connected parts.
    height_px, width_px = flat.shape
    framed = cv2.copyMakeBorder(flat, 1, 1, 1, 1, cv2.BORDER_CONSTANT, value=(255,))
    filled, *_ = cv2.floodFill(framed, None, (0, 0), (1,))
    return float((filled - 2 * (height_px + width_px) - 4) / flat.size)


def _within(value: float, limits: tuple[float, float]) -> bool:
    return limits[0] <= value <= limits[1]


def _tissue_colour(pixels_hwc: npt.NDArray[np.uint8]) -> tuple[float, tuple[float, float, float]]:
    """Share of tissue and its mean L*a*b*, on a subsampled grid, which is enough for means."""
    steps = [max(1, side // _COLOUR_SIDE_PX) for side in pixels_hwc.shape[:2]]
    lab = _lab(pixels_hwc[:: steps[0], :: steps[1]])
    chroma_squared = lab[:, 1] ** 2 + lab[:, 2] ** 2
    tissue = (chroma_squared > _TISSUE_MIN_CHROMA**2) | (lab[:, 0] < _TISSUE_MAX_LIGHTNESS)
    count = int(np.count_nonzero(tissue))
    if count == 0:
        return 0.0, (100.0, 0.0, 0.0)
    mean = lab[tissue].mean(axis=0)
    return count / len(tissue), (float(mean[0]), float(mean[1]), float(mean[2]))


def _lab(pixels_hwc: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """CIE L*a*b* (1976, white D65) of sRGB pixels, float32 [H W, 3].

    Not by OpenCV, whose first conversion in a process fills tables for longer than several crops take.
    """
    relative = _LINEAR[pixels_hwc.reshape(-1, 3)] @ _TO_RELATIVE_XYZ
    root = np.where(relative > 0.008856, np.cbrt(relative), 7.787 * relative + np.float32(16 / 116))
    x, y, z = root.T
    return np.stack([116 * y - 16, 500 * (x - y), 200 * (y - z)], axis=1)


def _shrunk_gray(pixels_hwc: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Luma, no side over 224 px: whole-number averaging, then linear; five times cheaper than one area resize.

    Never enlarged: a small sharp crop is small, not blurred.
    """
    gray = cv2.cvtColor(pixels_hwc, cv2.COLOR_RGB2GRAY)
    height_px, width_px = gray.shape
    down_y, down_x = max(1, height_px // _DETAIL_SIDE_PX), max(1, width_px // _DETAIL_SIDE_PX)
    if down_y > 1 or down_x > 1:
        whole = gray[: height_px // down_y * down_y, : width_px // down_x * down_x]
        gray = cv2.resize(whole, (width_px // down_x, height_px // down_y), interpolation=cv2.INTER_AREA)
    size = (min(gray.shape[1], _DETAIL_SIDE_PX), min(gray.shape[0], _DETAIL_SIDE_PX))
    if size != gray.shape[::-1]:
        gray = cv2.resize(gray, size, interpolation=cv2.INTER_LINEAR)
    result: npt.NDArray[np.uint8] = gray
    return result


def _octaves(gray: npt.NDArray[np.uint8]) -> tuple[float, float, float]:
    """Mean squares of the three finest levels of the Laplacian pyramid (Burt and Adelson, 1983), finest first.

    Their ratios do not change with contrast, so a pale scar is not taken for a blurred one.
    """
    energies = []
    for _ in range(3):
        halved = cv2.pyrDown(gray)
        smooth = cv2.pyrUp(halved, dstsize=(gray.shape[1], gray.shape[0]))
        energies.append(cv2.norm(gray, smooth, cv2.NORM_L2SQR) / gray.size)
        gray = halved
    return energies[0], energies[1], energies[2]
