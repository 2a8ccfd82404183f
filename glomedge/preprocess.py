"""Colour enhancement: decoded RGB pixels to the 224 x 224 pixels that the network sees.

One function, ``enhance``, is called by training, calibration, parity and inference, so that no two of them can
ever feed the network differently. It works in uint8 throughout, with look-up tables and saturating OpenCV calls:
no float is ever cast to an integer that cannot hold it (undefined in C; x86 and ARM give different bytes).
docs/preprocessing.md describes the recipes, their sources and what was measured.
"""

from __future__ import annotations

import functools
import threading

import cv2
import numpy as np
import numpy.typing as npt

from glomedge.errors import UsageError
from glomedge.spec import SIZE_PX, Recipe

HUE_STEP_DEGREES = 2
"""OpenCV's 8-bit hue is H / 2: one step is two degrees, and a turn has 180 steps."""

Pixels = npt.NDArray[np.uint8]

# Pillow's luma (ITU-R 601-2), L = (19595 R + 38470 G + 7471 B + 32768) >> 16, as a float32 matrix over pixels - 128.
# The weights are multiples of 2^-16 that add up to 1, so every partial sum fits float32's 24 bits and the result is
# exact in any order of summation, with or without fused multiply-add. 2^-17 turns OpenCV's rounding of ties to even
# into Pillow's rounding of ties up; it fits only because pixels - 128 needs one bit less than pixels.
_LUMA = np.array([[19595 / 65536, 38470 / 65536, 7471 / 65536, 2.0**-17]], np.float32)
_SIGN = 0x80


class _Scratch(threading.local):
    """One thread's working buffers, made on its first call and reused."""

    def __init__(self) -> None:
        shape = (SIZE_PX, SIZE_PX, 3)
        self.first: Pixels = np.empty(shape, np.uint8)
        self.second: Pixels = np.empty(shape, np.uint8)
        self.plane: Pixels = np.empty(shape[:2], np.uint8)
        self.equalised: Pixels = np.empty(shape[:2], np.uint8)


_scratch = _Scratch()


def enhance(rgb: Pixels, recipe: Recipe | str = "seed", out: Pixels | None = None) -> Pixels:
    """Resize and colour-enhance one crop.

    Args:
        rgb: uint8 ``[H, W, 3]``, RGB, any size from 1 x 1 and any memory layout. Not written to (unless it is ``out``).
        recipe: a Recipe, or the name of one with its default parameters: ``seed``, ``published``, ``plain``.
        out: where to write, uint8 ``[224, 224, 3]``, C-contiguous; made when None.

    Returns:
        uint8 ``[224, 224, 3]``: ``out`` itself when given. RGB, except that ``published`` gives what the published
        notebook gave its network, whose channel order was never put right (docs/preprocessing.md).

    Raises:
        UsageError: ``rgb``, ``out`` or ``recipe`` is none of the above, or the hue is no multiple of two degrees.

    Safe to call from many threads at once; the bytes do not depend on threads or on ``cv2.setNumThreads``.
    """
    steps = _resolve(recipe)
    rgb = _checked_input(rgb)
    out = np.empty((SIZE_PX, SIZE_PX, 3), np.uint8) if out is None else _checked_output(out)
    if steps.name == "published":
        _published(rgb, steps, out)
    else:
        _seed(rgb, steps, out)
    return out


def _resolve(recipe: Recipe | str) -> Recipe:
    if isinstance(recipe, Recipe):
        return recipe
    try:
        return Recipe.named(recipe)
    except ValueError as error:
        raise UsageError(f"{error}.") from None


def _checked_input(rgb: Pixels) -> Pixels:
    if not isinstance(rgb, np.ndarray) or rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[2] != 3 or rgb.size == 0:
        found = f"{rgb.dtype} {list(rgb.shape)}" if isinstance(rgb, np.ndarray) else type(rgb).__name__
        raise UsageError(
            f"enhance takes uint8 RGB pixels of shape [height, width, 3], not {found}. "
            "Decode the file with glomedge.images.decode, or convert the array first."
        )
    height_px, width_px, _ = rgb.shape
    # OpenCV reads rows at any distance from one another (a slice of a larger image), but nothing else.
    if rgb.flags.c_contiguous or (rgb.strides[1:] == (3, 1) and rgb.strides[0] >= width_px * 3 and height_px > 1):
        return rgb
    return np.ascontiguousarray(rgb)


def _checked_output(out: Pixels) -> Pixels:
    if (
        not isinstance(out, np.ndarray)
        or out.dtype != np.uint8
        or out.shape != (SIZE_PX, SIZE_PX, 3)
        or not out.flags.c_contiguous
        or not out.flags.writeable
    ):
        raise UsageError(
            f"enhance writes into a C-contiguous, writable uint8 array of shape [{SIZE_PX}, {SIZE_PX}, 3] "
            "(a slot of a batch). Pass such an array as out, or leave it away."
        )
    return out


def _seed(rgb: Pixels, recipe: Recipe, out: Pixels) -> None:
    """Recipes ``seed`` and ``plain``: the steps that the parameters ask for; the last one writes ``out``."""
    here, there = _scratch.first, _scratch.second
    steps = hue_steps(recipe.hue_degrees)
    saturate = recipe.saturation_factor != 1.0
    if not (recipe.equalise or saturate or steps):
        _resize(rgb, out if not np.may_share_memory(rgb, out) else here)
        if np.may_share_memory(rgb, out):
            np.copyto(out, here)
        return
    _resize(rgb, here)
    if recipe.equalise:
        _equalise(here, there, cv2.COLOR_RGB2YUV)
        here, there = there, here
    if saturate:
        _saturate(here, there, recipe.saturation_factor)
        here, there = there, here
    if steps:
        _shift_hue(here, there, steps)
        here = there
    np.copyto(out, here)


def _published(rgb: Pixels, recipe: Recipe, out: Pixels) -> None:
    """Recipe ``published``: the steps of the published notebook, to the bit (docs/preprocessing.md).

    The notebook held BGR and called it RGB. Here the pixels stay RGB up to the colour conversion, and asking for
    BGR2YUV reads the very same channels as the notebook's RGB2YUV did; YUV2RGB then gives its channel order.
    """
    here, there = _scratch.first, _scratch.second
    cv2.resize(rgb, (SIZE_PX, SIZE_PX), dst=here, interpolation=cv2.INTER_LINEAR)
    np.negative(here, out=here)  # (x * 255) mod 256: the notebook multiplied in uint8
    _equalise(here, there, cv2.COLOR_BGR2YUV)
    np.negative(there, out=there)  # the notebook's second multiplication, as the integer formula
    _saturate(there, out, recipe.saturation_factor)


def _resize(rgb: Pixels, out: Pixels) -> None:
    """To 224 x 224, each axis by its own rule: area where it shrinks, linear where it grows.

    OpenCV quietly falls back from area to linear for both axes when either one grows, which would drop whole rows
    of a long thin crop; so a mixed aspect takes two calls, the shrinking axis first.
    """
    height_px, width_px, _ = rgb.shape
    if (height_px > SIZE_PX and width_px < SIZE_PX) or (width_px > SIZE_PX and height_px < SIZE_PX):
        size_px = (min(width_px, SIZE_PX), min(height_px, SIZE_PX))
        rgb = cv2.resize(rgb, size_px, interpolation=cv2.INTER_AREA)
    shrinks = rgb.shape[0] > SIZE_PX or rgb.shape[1] > SIZE_PX
    cv2.resize(rgb, (SIZE_PX, SIZE_PX), dst=out, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)


def _equalise(pixels: Pixels, out: Pixels, to_yuv: int) -> None:
    """Equalise the histogram of Y in YUV (BT.601, full range); ``pixels`` is used up."""
    plane, equalised = _scratch.plane, _scratch.equalised
    cv2.cvtColor(pixels, to_yuv, dst=out)
    cv2.extractChannel(out, 0, dst=plane)
    cv2.equalizeHist(plane, dst=equalised)
    cv2.insertChannel(equalised, out, 0)
    cv2.cvtColor(out, cv2.COLOR_YUV2RGB, dst=pixels)
    np.copyto(out, pixels)


@functools.lru_cache(maxsize=16)
def _saturation_table(factor: float) -> Pixels:
    """Pillow's blend of a value with its luma, for every pair: uint8 ``[65536]``, index 256 x luma + value.

    libImaging/Blend.c: ``luma + factor * (value - luma)`` in float32, clipped to 0..255, fraction cut off.
    """
    luma = np.arange(256, dtype=np.float32)[:, None]
    value = np.arange(256, dtype=np.float32)[None, :]
    blended = luma + np.float32(factor) * (value - luma)
    return np.clip(blended, 0.0, 255.0).astype(np.uint8).reshape(-1)


def _saturate(pixels: Pixels, out: Pixels, factor: float) -> None:
    """Saturation as Pillow's ``ImageEnhance.Color(image).enhance(factor)`` has it, to the bit."""
    plane = _luma(pixels)
    index = np.left_shift(plane, 8, dtype=np.uint16)[:, :, None] | pixels
    np.take(_saturation_table(factor), index, out=out, mode="clip")


def _luma(pixels: Pixels) -> Pixels:
    """Pillow's ``convert("L")``, to the bit: uint8 ``[224, 224]``."""
    signed = np.bitwise_xor(pixels, _SIGN).view(np.int8)
    plane: Pixels = cv2.transform(signed, _LUMA).view(np.uint8)
    return np.bitwise_xor(plane, _SIGN, out=plane)


def hue_steps(hue_degrees: float) -> int:
    """Degrees of hue as steps of OpenCV's 8-bit hue, 0..179 (8 degrees are 4 steps, -8 are 176).

    Raises:
        UsageError: not a multiple of two degrees; rounding it would quietly do something else than was asked.
    """
    steps = hue_degrees / HUE_STEP_DEGREES
    if not steps.is_integer():
        raise UsageError(
            f"Hue is shifted in steps of {HUE_STEP_DEGREES} degrees (8-bit hue), so {hue_degrees:g} degrees cannot be "
            f"done exactly. Choose {HUE_STEP_DEGREES * int(steps // 1)} or {HUE_STEP_DEGREES * int(steps // 1 + 1)}."
        )
    return int(steps) % 180


def _shift_hue(pixels: Pixels, out: Pixels, steps: int) -> None:
    """Turn the hue by ``steps`` of two degrees, wrapping round."""
    cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV, dst=out)
    cv2.LUT(out, _hue_table(steps), dst=pixels)
    cv2.cvtColor(pixels, cv2.COLOR_HSV2RGB, dst=out)


@functools.lru_cache(maxsize=16)
def _hue_table(steps: int) -> Pixels:
    table = np.repeat(np.arange(256, dtype=np.uint8)[:, None], 3, axis=1)
    table[:180, 0] = (np.arange(180) + steps) % 180
    return table.reshape(256, 1, 3)
