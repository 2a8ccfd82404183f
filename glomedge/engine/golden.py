"""The golden self-test: does this device give the same pixels and the same probability as the exporting machine?

A crop is drawn from a seed with integer arithmetic only, so that its bytes are the same on every platform. Export
stores its enhanced pixels and the probability that the new file gives for them. Loading enhances the same crop again,
runs the stored pixels through the provider that was really opened, and refuses to serve when either result differs.
Two comparisons rather than one, so that the message can say whether preprocessing or inference is at fault.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from glomedge.errors import SelfTestError
from glomedge.model.spec import SIZE_PX, Golden, ModelSpec, Precision, Recipe

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

# Three and two times the network's side (of 224 as drawn; another side's crop is enlarged or thinned out to that):
# shrinking by area is then a mean of whole pixels, exact on every platform, and still differs from every other
# interpolation along the first axis.
CROP_WIDTH_PX = 672
CROP_HEIGHT_PX = 448

# Enhancing is integer arithmetic and look-up tables. One rounding in the resize may change luma by one grey
# level; equalisation and saturation can amplify that to this much at a few pixels, never more.
PIXEL_TOLERANCE = 3

# How far the probability of one crop may move between two correct implementations of the same file: other
# summation orders (fp32), other rounding of half-precision intermediates (fp16), and other rounding at each of 53
# requantisations (int8: VNNI, NEON dot product, TensorRT and OpenVINO each round their own way).
PROBABILITY_TOLERANCE: dict[Precision, float] = {"fp32": 1e-3, "fp16": 2e-2, "int8": 5e-2}

_SEEDS_TRIED = 8

Infer = Callable[[npt.NDArray[np.uint8]], "ArrayLike"]


class _Integers:
    """A tiny linear congruential generator (Numerical Recipes' constants): whole numbers, the same everywhere."""

    def __init__(self, seed: int) -> None:
        self._state = (seed * 2_654_435_761 + 12_345) & 0xFFFFFFFF

    def below(self, limit: int) -> int:
        self._state = (1_664_525 * self._state + 1_013_904_223) & 0xFFFFFFFF
        return (self._state >> 8) * limit >> 24


def draw_crop(seed: int, side_px: int = SIZE_PX) -> npt.NDArray[np.uint8]:
    """A schematic glomerulus, uint8 RGB, fixed by ``seed`` and ``side_px`` to the last bit on every platform.

    Flat areas with sharp borders: it exercises resizing, equalising, saturation and hue, and its enhanced form
    packs into a few kB.

    Args:
        seed: of the drawing.
        side_px: side of the network's input.

    Returns:
        ``[2 * side_px, 3 * side_px, 3]``.
    """
    crop = _drawn(seed)
    if side_px == SIZE_PX:
        return crop
    # Nearest pixel, in whole numbers; drawing takes the same time for every side.
    rows, columns = (np.arange(times * side_px) * SIZE_PX // side_px for times in (2, 3))
    return np.ascontiguousarray(crop[rows[:, np.newaxis], columns])


def _drawn(seed: int) -> npt.NDArray[np.uint8]:
    """The drawing for a side of 224 px, uint8 ``[448, 672, 3]``."""
    draw = _Integers(seed)
    rows, columns = np.mgrid[0:CROP_HEIGHT_PX, 0:CROP_WIDTH_PX].astype(np.int32)
    # Interstitium: a mosaic of blocks in a few stain depths.
    blocks = (rows // 32 * 7 + columns // 48 * 13 + seed % 64) % 11
    crop = np.empty((CROP_HEIGHT_PX, CROP_WIDTH_PX, 3), np.uint8)
    crop[..., 0] = 222 - 3 * blocks
    crop[..., 1] = 178 - 5 * blocks
    crop[..., 2] = 205 - 2 * blocks

    def disc(row: int, column: int, radius_px: int, colour: tuple[int, int, int]) -> None:
        # Discs are drawn half again as wide, so that they are round once shrunk to 224 x 224.
        # Only the disc's own box is touched: the self-test is part of every cold start.
        reach = radius_px * 3 // 2 + 1
        box = (
            slice(max(0, row - radius_px), max(0, row + radius_px + 1)),
            slice(max(0, column - reach), max(0, column + reach + 1)),
        )
        inside = 9 * (rows[box] - row) ** 2 + 4 * (columns[box] - column) ** 2 <= 9 * radius_px**2
        crop[box][inside] = colour

    centre_row, centre_column = 204 + draw.below(40), 306 + draw.below(60)
    radius_px = 150 + draw.below(40)
    disc(centre_row, centre_column, radius_px, (243, 240, 246))
    disc(centre_row, centre_column, radius_px - 18 - draw.below(12), (206 - draw.below(40), 120, 168 + draw.below(40)))
    for _ in range(6 + draw.below(6)):
        disc(
            centre_row - 90 + draw.below(181),
            centre_column - 130 + draw.below(261),
            16 + draw.below(34),
            (170 + draw.below(70), 70 + draw.below(110), 140 + draw.below(80)),
        )
    for _ in range(40):
        disc(draw.below(CROP_HEIGHT_PX), draw.below(CROP_WIDTH_PX), 6 + draw.below(5), (84, 48 + draw.below(24), 128))
    return crop


def make(recipe: Recipe, infer: Infer, precision: Precision) -> Golden:
    """Make the self-test of a freshly exported file.

    Of a few seeds the one whose probability is nearest to one half is kept: there a change of the logit changes the
    probability most.

    Args:
        recipe: the file's preprocessing.
        infer: images uint8 ``[1, side, side, 3]`` to the probability of that one crop (any shape of one element).
        precision: of the file; sets the tolerance.
    """
    from glomedge.imaging.enhance import enhance

    best: tuple[float, int, npt.NDArray[np.uint8], float] | None = None
    for seed in range(_SEEDS_TRIED):
        pixels = enhance(draw_crop(seed, recipe.size_px), recipe)
        probability = _scalar(infer(pixels[np.newaxis]))
        distance = abs(probability - 0.5)
        if best is None or distance < best[0]:
            best = (distance, seed, pixels, probability)
    assert best is not None
    return Golden(
        seed=best[1],
        side_px=recipe.size_px,
        pixels_zlib_base64=Golden.pack(best[2]),
        probability=best[3],
        pixel_tolerance=PIXEL_TOLERANCE,
        probability_tolerance=PROBABILITY_TOLERANCE[precision],
    )


def check(spec: ModelSpec, infer: Infer, *, min_tolerance: float = 0.0, where: str = "this device") -> None:
    """Run the self-test: ``check_pixels``, then ``check_answer``. Arguments and errors as there."""
    check_answer(spec, check_pixels(spec), infer, min_tolerance=min_tolerance, where=where)


def check_pixels(spec: ModelSpec) -> npt.NDArray[np.uint8]:
    """Hold this machine's preprocessing against the export's; needs no engine.

    Returns:
        The enhanced crop of the export, uint8 ``[side, side, 3]``.

    Raises:
        SelfTestError: the pixels are others here; gives both sides.
    """
    from glomedge.imaging.enhance import enhance

    golden = spec.golden
    expected = golden.pixels()
    actual = enhance(draw_crop(golden.seed, golden.side_px), spec.recipe)
    difference = np.abs(actual.astype(np.int16) - expected.astype(np.int16))
    worst = int(difference.max())
    if worst > golden.pixel_tolerance:
        raise SelfTestError(
            f"Self-test failed: preprocessing (recipe '{spec.recipe.name}') gives different pixels here than at "
            f"export: {np.count_nonzero(difference > golden.pixel_tolerance)} of {difference.size} values differ by "
            f"more than {golden.pixel_tolerance}, the worst by {worst}. Install the opencv version the model was "
            "exported with (glomedge doctor prints yours), or export the model again with this version of glomedge."
        )
    return expected


def check_answer(
    spec: ModelSpec,
    pixels_hwc: npt.NDArray[np.uint8],
    infer: Infer,
    *,
    min_tolerance: float = 0.0,
    where: str = "this device",
) -> None:
    """Hold the engine's answer against the export's.

    Args:
        spec: of the loaded file.
        pixels_hwc: of ``check_pixels``.
        infer: images uint8 ``[1, side, side, 3]`` to the probability of that one crop, on the provider that serves.
        min_tolerance: a wider tolerance for a provider asked to compute below the file's precision (bf16).
        where: words for the message.

    Raises:
        SelfTestError: the probability is another one than at export; gives both sides.
    """
    golden = spec.golden
    tolerance = max(golden.probability_tolerance, min_tolerance)
    probability = _scalar(infer(pixels_hwc[np.newaxis]))
    # Written so that NaN fails as well.
    if not abs(probability - golden.probability) <= tolerance:
        raise SelfTestError(
            f"Self-test failed: the model gives probability {probability:.6f} on {where}, but gave "
            f"{golden.probability:.6f} at export (allowed difference {tolerance:g}, precision {spec.precision}, "
            f"target {spec.target}). Choose another provider with --provider, or export for this device "
            "(glomedge export --precision ... --target ...)."
        )


def _scalar(value: ArrayLike) -> float:
    return float(np.asarray(value, np.float64).reshape(-1)[0])
