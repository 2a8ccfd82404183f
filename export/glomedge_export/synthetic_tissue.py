"""Draws one PAS-stained glomerulus crop.

The picture is painted as *stain density*, not as colour: a uint8 canvas ``[H, W, 3]`` whose channels are how much
PAS reagent, haematoxylin and pigment lies at each pixel. Colour comes last, by the Beer-Lambert law
(``intensity = white * exp(-density @ absorbance)``, as in Ruifrok & Johnston, Anal Quant Cytol Histol 2001;23:291), so
one :class:`Stain` per biopsy changes every tissue consistently, as a real batch of reagents does.

Lengths are in micrometres where the name says ``_um``; a canvas knows its ``px_per_um``. All randomness comes from
the generator handed in: the same generator state gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

Rng = np.random.Generator
Pixels = npt.NDArray[np.uint8]
Plane = npt.NDArray[np.float32]
Points = npt.NDArray[np.float64]
Density = tuple[float, float, float]

_SHIFT = 4  # cv2 takes vertices as fixed point with this many fractional bits
_FULL_DENSITY = 1.9  # optical density of canvas value 255 at stain strength 1


@dataclass(frozen=True)
class Stain:
    """How one biopsy took the stain.

    Attributes:
        absorbance: float ``[3, 3]``, rows PAS, haematoxylin, pigment; columns R, G, B; optical density at value 1.
        white: float ``[3]``, RGB of bare glass, 0-255.
        wash: haematoxylin density (canvas units) that lies over all tissue, the purple cast of an overstained slide.
    """

    absorbance: npt.NDArray[np.float64]
    white: npt.NDArray[np.float64]
    wash: float

    @staticmethod
    def draw(rng: Rng) -> Stain:
        """A stain such as one laboratory run gives: pale to dark, pink to purple."""
        pas = np.array([0.17, 1.0, 0.46]) * rng.lognormal(0.0, [0.22, 0.04, 0.15])
        haematoxylin = np.array([1.0, 0.92, 0.42]) * rng.lognormal(0.0, [0.08, 0.08, 0.15])
        pigment = np.array([0.45, 0.95, 1.1])
        white = np.array([243.0, 240.0, 244.0]) + rng.normal(0.0, 3.0, 3)
        wash = float(rng.choice([0.0, 8.0, 20.0, 45.0], p=[0.35, 0.35, 0.2, 0.1])) * rng.uniform(0.6, 1.2)
        return Stain(np.stack([pas, haematoxylin, pigment]), np.clip(white, 225, 252), wash)


@dataclass
class Canvas:
    """Stain densities under construction: uint8 ``[H, W, 3]`` (PAS, haematoxylin, pigment)."""

    density: Pixels
    px_per_um: float
    rng: Rng

    @property
    def height_px(self) -> int:
        """Rows."""
        return int(self.density.shape[0])

    @property
    def width_px(self) -> int:
        """Columns."""
        return int(self.density.shape[1])

    def um(self, low: float, high: float | None = None) -> float:
        """Pixels for a length in micrometres, drawn uniformly between ``low`` and ``high`` when both are given."""
        return self.px_per_um * (low if high is None else float(self.rng.uniform(low, high)))

    def fill(self, outline: Points, value: Density) -> None:
        """Paint the inside of a closed outline (float ``[n, 2]``, x and y in pixels)."""
        cv2.fillPoly(self.density, [_fixed(outline)], value, cv2.LINE_AA, _SHIFT)

    def line(self, path: Points, value: Density, width_px: float, closed: bool = False) -> None:
        """Paint a line along a path (float ``[n, 2]``)."""
        width = max(1, round(width_px))
        cv2.polylines(self.density, [_fixed(path)], closed, value, width, cv2.LINE_AA, _SHIFT)

    def ellipse(self, centre: Points, axes_px: tuple[float, float], angle_degrees: float, value: Density) -> None:
        """Paint a filled ellipse; ``axes_px`` are half lengths."""
        scale = 1 << _SHIFT
        cv2.ellipse(
            self.density,
            (round(float(centre[0]) * scale), round(float(centre[1]) * scale)),
            (max(scale // 2, round(axes_px[0] * scale)), max(scale // 2, round(axes_px[1] * scale))),
            angle_degrees,
            0,
            360,
            value,
            cv2.FILLED,
            cv2.LINE_AA,
            _SHIFT,
        )

    def mask(self, outline: Points) -> Pixels:
        """uint8 ``[H, W]``: 255 inside the outline."""
        inside = np.zeros(self.density.shape[:2], np.uint8)
        cv2.fillPoly(inside, [_fixed(outline)], 255, cv2.LINE_AA, _SHIFT)
        return inside

    def paste(self, layer: Pixels, mask: Pixels) -> None:
        """Replace the densities by ``layer`` (same shape) where ``mask`` (uint8 ``[H, W]``) is high, blending edges."""
        weight = mask.astype(np.float32)[..., None] * np.float32(1 / 255)
        self.density = np.rint(layer * weight + self.density * (1 - weight)).astype(np.uint8)

    def texture(self, gain: Plane) -> None:
        """Multiply the densities by a float ``[H, W]`` gain, saturating at 255."""
        self.density = cv2.multiply(self.density, cv2.merge([gain, gain, gain]), dtype=cv2.CV_8U)


def _fixed(points: Points) -> npt.NDArray[np.int32]:
    return np.rint(points * (1 << _SHIFT)).astype(np.int32)


def blob(rng: Rng, centre: Points, radius_px: float, wobble: float, aspect: float = 1.0, vertices: int = 64) -> Points:
    """A smooth closed outline, float ``[vertices, 2]``: a circle with a few random harmonics, then stretched."""
    angle = np.linspace(0.0, 2 * np.pi, vertices, endpoint=False)
    order = np.arange(2, 7)
    size = rng.normal(0.0, wobble / order)
    radius = 1.0 + (
        size[:, None] * np.cos(order[:, None] * angle + rng.uniform(0, 2 * np.pi, order.size)[:, None])
    ).sum(0)
    stretch = np.sqrt(aspect)
    shape = np.stack([np.cos(angle) * stretch, np.sin(angle) / stretch], 1) * (radius * radius_px)[:, None]
    turn = rng.uniform(0, np.pi)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    return np.asarray(shape @ rotation.T + centre)


def smooth_noise(rng: Rng, height_px: int, width_px: int, grain_px: float, stretch: float = 1.0) -> Plane:
    """Noise of unit variance before smoothing, float32 ``[H, W]``, with features of about ``grain_px``.

    ``stretch`` > 1 draws them out along a random direction, which gives fibres.
    """
    side = int(np.hypot(height_px, width_px)) + 2
    across = max(2, round(side / grain_px))
    along = max(2, round(side / (grain_px * stretch)))
    coarse = rng.standard_normal((across, along), dtype=np.float32)
    if stretch == 1.0:
        return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC)[:height_px, :width_px])
    # One affine map does both the enlarging and the turning.
    turn = rng.uniform(0, np.pi)
    cos, sin = np.cos(turn), np.sin(turn)
    matrix = np.array([[cos * along / side, sin * along / side, 0.0], [-sin * across / side, cos * across / side, 0.0]])
    centre = matrix[:, :2] @ np.array([width_px / 2, height_px / 2])
    matrix[:, 2] = np.array([along / 2, across / 2]) - centre
    return np.asarray(
        cv2.warpAffine(
            coarse,
            matrix,
            (width_px, height_px),
            flags=cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP,
            borderMode=cv2.BORDER_REFLECT,
        )
    )


def scatter(rng: Rng, low: Points, high: Points, spacing_px: float) -> Points:
    """Jittered hexagonal grid over a box: evenly spread points without the look of a grid, float ``[n, 2]``."""
    across, down = (np.asarray(high) - np.asarray(low)) / spacing_px
    grid_y, grid_x = np.mgrid[0 : int(down / 0.87) + 1, 0 : int(across) + 1].astype(np.float64)
    grid_x += 0.5 * (grid_y % 2)
    points = np.stack([grid_x.ravel(), grid_y.ravel() * 0.87], 1) * spacing_px + low
    return np.asarray(points + rng.uniform(-0.38, 0.38, points.shape) * spacing_px)


def inside(mask: Pixels, points: Points) -> npt.NDArray[np.bool_]:
    """Which points lie where ``mask`` is high; points off the canvas do not."""
    column, row = np.floor(points).astype(int).T
    on_canvas = (column >= 0) & (row >= 0) & (column < mask.shape[1]) & (row < mask.shape[0])
    found = np.zeros(len(points), bool)
    found[on_canvas] = mask[row[on_canvas], column[on_canvas]] > 127
    return found


def nuclei(canvas: Canvas, centres: Points, length_um: tuple[float, float], dark: tuple[float, float]) -> None:
    """Paint nuclei: ellipses of haematoxylin with a clump or two of darker chromatin."""
    rng = canvas.rng
    count = len(centres)
    half = canvas.px_per_um * rng.uniform(*length_um, count) / 2
    slim = rng.uniform(0.5, 0.95, count)
    angle = rng.uniform(0, 180, count)
    depth = rng.uniform(*dark, count)
    clump = rng.uniform(-0.45, 0.45, (count, 2))
    for index in range(count):
        tone = float(depth[index])
        canvas.ellipse(centres[index], (half[index], half[index] * slim[index]), angle[index], (60.0, tone, 0.0))
        if half[index] > 2.5:
            spot = centres[index] + clump[index] * half[index]
            canvas.ellipse(
                spot, (half[index] * 0.4, half[index] * 0.3), angle[index], (60.0, min(255.0, tone * 1.3), 0.0)
            )


def to_rgb(density: Pixels, stain: Stain, gain: tuple[float, float]) -> Plane:
    """Beer-Lambert: float32 ``[H, W, 3]`` RGB in 0-255 from stain densities.

    ``gain`` multiplies PAS and haematoxylin: the thickness of the section and the strength of the two baths.
    """
    absorbance = stain.absorbance * np.array([[gain[0]], [gain[1]], [1.0]]) * (-_FULL_DENSITY / 255)
    exponent = cv2.transform(density.astype(np.float32), absorbance.T.astype(np.float32))
    return np.asarray(cv2.exp(exponent) * stain.white.astype(np.float32))
