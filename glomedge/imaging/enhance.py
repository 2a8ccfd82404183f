"""Colour enhancement: decoded RGB pixels to the square of pixels that the network sees, 224 x 224 or its own side.

Training, calibration, parity and inference all call ``enhance``, so they cannot feed the network differently. It
works in uint8 throughout, with look-up tables and saturating OpenCV calls: no float is ever cast to an integer type
that cannot represent it (undefined in C; x86 and ARM give different bytes). docs/preprocessing.md describes the
recipes, their sources and the measurements.
"""

from __future__ import annotations

import functools
import math
import threading
from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt

from glomedge.errors import UsageError
from glomedge.model.spec import MAX_SIDE_PX, MIN_SIDE_PX, Recipe

HUE_STEP_DEGREES = 2
HUE_TURN_STEPS = 180
"""OpenCV's 8-bit hue is H / 2: one step is two degrees, and a turn has 180 steps."""

Pixels = npt.NDArray[np.uint8]

# Pillow's luma (ITU-R 601-2) is (19595 R + 38470 G + 7471 B + 32768) >> 16. The weights are multiples of 2^-16, so in
# float32 every product and partial sum is exact, in any order and with or without fused multiply-add. Shifting by -128
# frees one bit of float32's 24 for 2^-17, which turns OpenCV's rounding of ties to even into Pillow's rounding up.
_LUMA_RED, _LUMA_GREEN, _LUMA_BLUE = 19595 / 65536, 38470 / 65536, 7471 / 65536
_LUMA_SHIFT = 2.0**-17 - 128.0
_SIGN_BIT = np.uint8(0x80)


class _Scratch(threading.local):
    """One thread's working buffers, made for its first crop and reused while the side stays the same."""

    side_px = 0

    def fit(self, side_px: int) -> None:
        """Make the buffers anew where they are of another side: a thread serves one model, as a rule."""
        if side_px == self.side_px:
            return
        self.side_px = side_px
        size_px = (side_px, side_px)
        self.pixels: Pixels = np.empty((*size_px, 3), np.uint8)
        self.other: Pixels = np.empty((*size_px, 3), np.uint8)
        self.planes: tuple[Pixels, Pixels, Pixels] = (
            np.empty(size_px, np.uint8),
            np.empty(size_px, np.uint8),
            np.empty(size_px, np.uint8),
        )
        self.results: tuple[Pixels, Pixels, Pixels] = (
            np.empty(size_px, np.uint8),
            np.empty(size_px, np.uint8),
            np.empty(size_px, np.uint8),
        )
        self.plane: Pixels = np.empty(size_px, np.uint8)
        self.partial: npt.NDArray[np.float32] = np.empty(size_px, np.float32)
        self.term: npt.NDArray[np.float32] = np.empty(size_px, np.float32)


_scratch = _Scratch()


def enhance(
    rgb: Pixels, recipe: Recipe | str = "seed", out: Pixels | None = None, *, size_px: int | None = None
) -> Pixels:
    """Resize and colour-enhance one crop.

    Args:
        rgb: uint8 ``[H, W, 3]``, RGB, any size from 1 x 1 and any memory layout. Not written to (unless it is ``out``).
        recipe: a Recipe, or the name of one with its default parameters: ``seed``, ``published``, ``plain``. A model's
            own is ``engine.spec.recipe``.
        out: where to write, uint8 ``[side, side, 3]``, C-contiguous; made when None.
        size_px: side of the result, 32 to 1,024, for a recipe given by name (224 when None); a Recipe has its own.

    Returns:
        uint8 ``[side, side, 3]``: ``out`` itself when given. RGB, except that ``published`` gives what the published
        notebook gave its network, whose channel order was never corrected (docs/preprocessing.md).

    Raises:
        UsageError: ``rgb``, ``out``, ``recipe`` or ``size_px`` is none of the above, or the hue is not a multiple of
            two degrees.

    Safe to call from many threads at once; the bytes do not depend on threads or on ``cv2.setNumThreads``.
    """
    steps = _resolve(recipe, size_px)
    side_px = steps.size_px
    rgb = _checked_input(rgb)
    out = np.empty((side_px, side_px, 3), np.uint8) if out is None else _checked_output(out, side_px)
    _scratch.fit(side_px)
    if steps.name == "published":
        _published(rgb, steps, out)
    else:
        _seed(rgb, steps, out)
    return out


def _resolve(recipe: Recipe | str, size_px: int | None) -> Recipe:
    if isinstance(recipe, Recipe):
        if size_px not in (None, recipe.size_px):
            raise UsageError(
                f"The recipe resizes to {recipe.size_px} px, not to {size_px}. Omit size_px, or name the recipe."
            )
        return recipe
    try:
        named = Recipe.named(recipe)
    except ValueError as error:
        raise UsageError(f"{error}.") from None
    if size_px in (None, named.size_px):
        return named
    if not isinstance(size_px, int) or not MIN_SIDE_PX <= size_px <= MAX_SIDE_PX:
        raise UsageError(f"size_px must be a whole number from {MIN_SIDE_PX} to {MAX_SIDE_PX}, not {size_px!r}.")
    return named.model_copy(update={"size_px": size_px})


def _checked_input(rgb: Pixels) -> Pixels:
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        found = f"{rgb.dtype} {list(rgb.shape)}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise UsageError(
            f"enhance takes uint8 RGB pixels of shape [height, width, 3], not {found}. "
            "Decode the file with glomedge.imaging.images.decode, or convert the array first."
        )
    height_px, width_px, _ = rgb.shape
    # The only stride OpenCV accepts is that between rows (a slice of a larger image).
    if rgb.flags.c_contiguous or (rgb.strides[1:] == (3, 1) and rgb.strides[0] >= width_px * 3 and height_px > 1):
        return rgb
    return np.ascontiguousarray(rgb)


def _checked_output(out: Pixels, side_px: int) -> Pixels:
    if (
        not isinstance(out, np.ndarray)
        or out.dtype != np.uint8
        or out.shape != (side_px, side_px, 3)
        or not out.flags.c_contiguous
        or not out.flags.writeable
    ):
        raise UsageError(
            f"enhance writes into a C-contiguous, writable uint8 array of shape [{side_px}, {side_px}, 3] "
            "(a slot of a batch). Pass such an array as out, or omit it."
        )
    return out


def _seed(rgb: Pixels, recipe: Recipe, out: Pixels) -> None:
    """Recipes ``seed`` and ``plain``: the steps that the parameters ask for; the last one writes ``out``."""
    steps: list[Callable[[Pixels, Pixels], None]] = []
    if recipe.equalise:
        steps.append(functools.partial(_equalise, to_yuv=cv2.COLOR_RGB2YUV))
    if recipe.saturation_factor != 1.0:
        steps.append(functools.partial(_saturate, factor=recipe.saturation_factor))
    if hue := hue_steps(recipe.hue_degrees):
        steps.append(functools.partial(_shift_hue, steps=hue))
    if not steps:
        # OpenCV must not write into the array it reads from.
        _resize(rgb if not np.may_share_memory(rgb, out) else rgb.copy(), out)
        return
    pixels = _scratch.pixels
    _resize(rgb, pixels)
    for step in steps[:-1]:
        step(pixels, pixels)
    steps[-1](pixels, out)


def _published(rgb: Pixels, recipe: Recipe, out: Pixels) -> None:
    """Recipe ``published``: the steps of the published notebook, to the bit (docs/preprocessing.md).

    The notebook treated BGR as RGB. Here the pixels stay RGB up to the colour conversion, where BGR2YUV reads the same
    channels as the notebook's RGB2YUV did; YUV2RGB then gives its channel order.
    """
    pixels = _scratch.pixels
    cv2.resize(rgb, pixels.shape[:2], dst=pixels, interpolation=cv2.INTER_LINEAR)
    np.negative(pixels, out=pixels)  # (x * 255) mod 256: the notebook multiplied in uint8
    _equalise(pixels, pixels, cv2.COLOR_BGR2YUV)
    np.negative(pixels, out=pixels)  # its second multiplication, as the integer formula
    _saturate(pixels, out, recipe.saturation_factor)


def _resize(rgb: Pixels, out: Pixels) -> None:
    """To the size of ``out``, each axis by its own rule: area when shrinking, linear when enlarging.

    OpenCV silently falls back from area to linear for both axes when either one grows, which would skip whole rows
    of a long thin crop; so a mixed aspect takes two calls, shrinking axis first.
    """
    height_px, width_px, _ = rgb.shape
    side_px = out.shape[0]
    if (height_px > side_px and width_px < side_px) or (width_px > side_px and height_px < side_px):
        rgb = cv2.resize(rgb, (min(width_px, side_px), min(height_px, side_px)), interpolation=cv2.INTER_AREA)
    shrinks = rgb.shape[0] > side_px or rgb.shape[1] > side_px
    cv2.resize(rgb, (side_px, side_px), dst=out, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _equalise(pixels: Pixels, out: Pixels, to_yuv: int) -> None:
    """Equalise the histogram of Y in YUV (BT.601); ``out`` may be ``pixels``."""
    yuv, (y, u, v) = _scratch.other, _scratch.planes
    cv2.cvtColor(pixels, to_yuv, dst=yuv)
    cv2.split(yuv, (y, u, v))
    cv2.equalizeHist(y, dst=_scratch.plane)
    cv2.merge((_scratch.plane, u, v), dst=yuv)
    cv2.cvtColor(yuv, cv2.COLOR_YUV2RGB, dst=out)


@functools.lru_cache(maxsize=16)
def _saturation_table(factor: float) -> Pixels:
    """Pillow's blend of a value with its luma, for every pair: uint8 ``[256, 256]``, indexed by luma, then value.

    libImaging/Blend.c: ``luma + factor * (value - luma)`` in float32, clipped to 0..255, truncated.
    """
    luma = np.arange(256, dtype=np.float32)[:, None]
    value = np.arange(256, dtype=np.float32)[None, :]
    blended = luma + np.float32(factor) * (value - luma)
    table = np.clip(blended, 0.0, 255.0).astype(np.uint8)
    table.flags.writeable = False  # shared by every thread
    return table


def _blend(value: Pixels, luma: Pixels, factor: float, out: Pixels) -> None:
    # OpenCV rounds to nearest where Pillow truncates: half a level less, plus 2^-9 so that whole numbers stay.
    cv2.addWeighted(value, factor, luma, 1.0 - factor, 2.0**-9 - 0.5, dst=out)


@functools.lru_cache(maxsize=16)
def _blend_is_exact(factor: float) -> bool:
    """Whether OpenCV's vectorised blend gives Pillow's bytes for all 65,536 pairs, on this machine, with this factor.

    It does for 1.5 and most others; where it does not, the table is used, which is exact but slower.
    """
    level = np.arange(256, dtype=np.uint8)
    luma, value = np.repeat(level[:, None], 256, axis=1), np.repeat(level[None, :], 256, axis=0)
    blended = np.empty_like(luma)
    _blend(value, luma, factor, blended)
    return np.array_equal(blended, _saturation_table(factor))


def _saturate(pixels: Pixels, out: Pixels, factor: float) -> None:
    """Saturation exactly as in Pillow's ``ImageEnhance.Color(image).enhance(factor)``; in place is allowed."""
    planes, luma = _scratch.planes, _scratch.plane
    cv2.split(pixels, planes)
    _luma(planes, luma)
    if _blend_is_exact(factor):
        for plane in planes:
            _blend(plane, luma, factor, plane)
    else:
        table = _saturation_table(factor)
        for plane in planes:
            np.copyto(plane, table[luma, plane])
    cv2.merge(planes, dst=out)


def _luma(planes: tuple[Pixels, Pixels, Pixels], out: Pixels) -> None:
    """Pillow's ``convert("L")`` of red, green and blue, to the bit."""
    red, green, blue = planes
    partial, term = _scratch.partial, _scratch.term
    cv2.addWeighted(red, _LUMA_RED, green, _LUMA_GREEN, _LUMA_SHIFT, dst=partial, dtype=cv2.CV_32F)
    cv2.multiply(blue, _LUMA_BLUE, dst=term, dtype=cv2.CV_32F)
    cv2.add(partial, term, dst=out.view(np.int8), dtype=cv2.CV_8S)
    np.bitwise_xor(out, _SIGN_BIT, out=out)  # luma - 128 as int8 to luma as uint8


def hue_steps(hue_degrees: float) -> int:
    """Degrees of hue as steps of OpenCV's 8-bit hue, 0..179 (8 degrees are 4 steps, -8 are 176).

    Raises:
        UsageError: not a multiple of two degrees; rounding would silently do something else than requested.
    """
    steps = hue_degrees / HUE_STEP_DEGREES
    if not steps.is_integer():
        below = HUE_STEP_DEGREES * math.floor(steps)
        raise UsageError(
            f"Hue is shifted in steps of {HUE_STEP_DEGREES} degrees (8-bit hue), so {hue_degrees:g} degrees cannot be "
            f"done exactly. Choose {below} or {below + HUE_STEP_DEGREES}."
        )
    return int(steps) % HUE_TURN_STEPS


def _shift_hue(pixels: Pixels, out: Pixels, steps: int) -> None:
    """Shift the hue by ``steps`` of two degrees, with wrap-around; in place is allowed.

    Hue, saturation and value come from OpenCV's RGB2HSV (integer tables). Its HSV2RGB is not used: it works in float
    and truncates in the vectorised part of a row but rounds in the rest, so its bytes depend on the width of the image
    and of the processor's registers. The conversion here is exact, rounded to nearest, the same everywhere: each
    channel is ``value - chroma * share(hue)`` with ``share`` a whole number of thirtieths.
    """
    hsv, (hue, saturation, value) = _scratch.other, _scratch.planes
    chroma = _scratch.plane
    cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV, dst=hsv)
    cv2.split(hsv, (hue, saturation, value))
    cv2.multiply(saturation, value, dst=chroma, scale=1 / 255)  # no ties: 255 is odd
    for share, channel in zip(_hue_shares(steps), _scratch.results, strict=True):
        cv2.LUT(hue, share, dst=channel)
        cv2.multiply(channel, chroma, dst=channel, scale=_PER_THIRTIETH)
        cv2.subtract(value, channel, dst=channel)
    cv2.merge(_scratch.results, dst=out)


# A little above 1/30: exact ties always round up, however float32 rounds 1/30, and no other product
# (at least 1/30 below a tie, while this adds at most 255 * 5e-5) moves to another integer.
_PER_THIRTIETH = (1.0 + 5e-5) / 30.0


@functools.lru_cache(maxsize=16)
def _hue_shares(steps: int) -> tuple[Pixels, Pixels, Pixels]:
    """For red, green and blue: thirtieths of the chroma missing from the value, by 8-bit hue before the shift.

    A channel is full within 60 degrees (30 steps) of its own hue, zero beyond 120 degrees, linear in between.
    """
    hue = np.arange(256) + steps

    def share(own_hue: int) -> Pixels:
        away = np.minimum((hue - own_hue) % HUE_TURN_STEPS, (own_hue - hue) % HUE_TURN_STEPS)
        thirtieths: Pixels = np.clip(away - 30, 0, 30).astype(np.uint8)
        thirtieths.flags.writeable = False  # shared by every thread
        return thirtieths

    return share(0), share(60), share(120)
