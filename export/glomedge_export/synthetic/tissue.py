"""What crops are painted with: a canvas of stain densities, outlines, noise, nuclei.

A picture is painted as *stain density*, not as colour: a uint8 canvas ``[H, W, 3]`` whose channels are how much
PAS reagent, haematoxylin and pigment is at each pixel. ``optics`` turns it into colour.

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

    def ellipses(self, centres: Points, axes_px: Points, angles_degrees: Points, values: Points) -> None:
        """Paint filled ellipses in turn.

        Args:
            centres: float ``[n, 2]``. axes_px: half lengths, float ``[n, 2]``. angles_degrees: float ``[n]``.
            values: densities, float ``[n, 3]``.
        """
        at, half = _fixed(centres).tolist(), np.maximum(_fixed(axes_px), 1 << (_SHIFT - 1)).tolist()
        density, angles, tones = self.density, angles_degrees.tolist(), np.clip(values, 0, 255).tolist()
        for centre, axes, angle, tone in zip(at, half, angles, tones, strict=True):
            cv2.ellipse(density, centre, axes, angle, 0, 360, tone, cv2.FILLED, cv2.LINE_AA, _SHIFT)

    def mask(self, outline: Points) -> Pixels:
        """uint8 ``[H, W]``: 255 inside the outline."""
        inside = np.zeros(self.density.shape[:2], np.uint8)
        cv2.fillPoly(inside, [_fixed(outline)], 255, cv2.LINE_AA, _SHIFT)
        return inside

    def paste(self, layer: Pixels, mask: Pixels) -> None:
        """Replace the densities by ``layer`` (same shape) where ``mask`` (uint8 ``[H, W]``) is high, blending edges."""
        weight = cv2.merge([mask, mask, mask])
        over, under = cv2.multiply(layer, weight, scale=1 / 255), cv2.multiply(self.density, ~weight, scale=1 / 255)
        self.density = cv2.add(over, under)

    def texture(self, gain: Plane) -> None:
        """Multiply the densities by a float ``[H, W]`` gain, saturating at 255."""
        self.density = cv2.multiply(self.density, cv2.merge([gain, gain, gain]), dtype=cv2.CV_8U)


def _fixed(points: Points) -> npt.NDArray[np.int32]:
    return np.rint(points * (1 << _SHIFT)).astype(np.int32)


def blobs(
    rng: Rng, centres: Points, radii_px: Points, wobble: float, aspects: Points, vertices: int = 64, orders: int = 5
) -> Points:
    """Smooth closed outlines, float ``[n, vertices, 2]``: circles with ``orders`` random harmonics, then stretched.

    ``centres`` is float ``[n, 2]``; ``radii_px`` and ``aspects`` (long side over short side) are float ``[n]``. Each
    outline is stretched along the horizontal and then, unless its aspect is 1, nothing: callers that want another
    direction give an aspect below 1 or use the random turn of the harmonics. Seven plain numbers and arrays, as for
    any drawing primitive.
    """
    count = len(centres)
    angle = np.linspace(0.0, 2 * np.pi, vertices, endpoint=False)
    order = np.arange(2, 2 + orders)
    amplitude = rng.normal(0.0, 1.0, (count, orders)) * wobble / order
    phase = rng.uniform(0, 2 * np.pi, (count, orders))
    # a cos(k t + p) = a cos p cos k t - a sin p sin k t: two small matrix products instead of n x v cosines
    waves = order[:, None] * angle
    radius = 1.0 + (amplitude * np.cos(phase)) @ np.cos(waves) - (amplitude * np.sin(phase)) @ np.sin(waves)
    radius *= np.asarray(radii_px)[:, None]
    stretch = np.sqrt(np.asarray(aspects))[:, None]
    shape = np.stack([np.cos(angle) * radius * stretch, np.sin(angle) * radius / stretch], 2)
    return np.asarray(shape + centres[:, None])


def blob(rng: Rng, centre: Points, radius_px: float, wobble: float, aspect: float = 1.0, vertices: int = 64) -> Points:
    """One outline of :func:`blobs`, float ``[vertices, 2]``."""
    return np.asarray(blobs(rng, centre[None], np.array([radius_px]), wobble, np.array([aspect]), vertices)[0])


def turned(outlines: Points, angles: Points) -> Points:
    """Turn each outline (float ``[n, v, 2]``) about its own centre by ``angles`` (radians, float ``[n]``)."""
    centre = outlines.mean(1, keepdims=True)
    cos, sin = np.cos(angles), np.sin(angles)
    rotation = np.stack([np.stack([cos, sin], 1), np.stack([-sin, cos], 1)], 1)
    return np.asarray((outlines - centre) @ rotation + centre)


def smooth_noise(rng: Rng, height_px: int, width_px: int, grain_px: float) -> Plane:
    """Isotropic noise with features of about ``grain_px``, float32 ``[H, W]``, mean 0, standard deviation about 0.8."""
    rows, columns = max(2, round(height_px / grain_px) + 1), max(2, round(width_px / grain_px) + 1)
    coarse = rng.standard_normal((rows, columns), dtype=np.float32)
    return np.asarray(cv2.resize(coarse, (width_px, height_px), interpolation=cv2.INTER_CUBIC))


def fibres(rng: Rng, height_px: int, width_px: int, grain_px: float, stretch: float, bend_px: float) -> Plane:
    """Wavy fibres about ``grain_px`` thick and ``stretch`` times as long, float32 ``[H, W]``, mean 0.

    Noise stretched along one random direction is then displaced by ``bend_px`` along a smooth random field.
    """
    # Half resolution is enough for anything two pixels thick, at a quarter of the cost.
    rows, columns = height_px // 2 + 1, width_px // 2 + 1
    side = float(np.hypot(rows, columns))
    across, along = max(2, round(side * 2 / grain_px)), max(2, round(side * 2 / (grain_px * stretch)))
    coarse = rng.standard_normal((across, along), dtype=np.float32)
    turn = rng.uniform(0, np.pi)
    x, y = np.meshgrid(np.arange(columns, dtype=np.float32), np.arange(rows, dtype=np.float32))
    x += np.float32(bend_px / 2) * smooth_noise(rng, rows, columns, side / 5) - np.float32(columns / 2)
    y += np.float32(bend_px / 2) * smooth_noise(rng, rows, columns, side / 5) - np.float32(rows / 2)
    cos, sin = np.float32(np.cos(turn)), np.float32(np.sin(turn))
    to_along, to_across = np.float32(along / side), np.float32(across / side)
    map_x = (cos * x + sin * y) * to_along + np.float32(along / 2)
    map_y = (cos * y - sin * x) * to_across + np.float32(across / 2)
    small = cv2.remap(coarse, map_x, map_y, cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT)
    return np.asarray(cv2.resize(small, (width_px, height_px), interpolation=cv2.INTER_LINEAR))


def lamellae(rng: Rng, height_px: int, width_px: int, centre: Points, grain_px: float) -> Plane:
    """Concentric layers about ``grain_px`` thick around ``centre``, float32 ``[H, W]``, mean 0."""
    reach = float(np.hypot(height_px, width_px))
    polar = rng.standard_normal((9, max(2, round(reach / grain_px))), dtype=np.float32)
    polar[-1] = polar[0]  # the turn closes
    polar = cv2.resize(polar, (round(reach / 2), 360), interpolation=cv2.INTER_LINEAR)
    at = (float(centre[0]), float(centre[1]))
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP | cv2.WARP_POLAR_LINEAR
    return np.asarray(cv2.warpPolar(polar, (width_px, height_px), at, reach, flags))


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


def soften(mask: Pixels, radius_px: float) -> Pixels:
    """Blur the edge of a mask by about ``radius_px`` (two box filters: the cost does not grow with the radius)."""
    side = 2 * max(1, round(radius_px)) + 1
    return np.asarray(cv2.blur(cv2.blur(mask, (side, side)), (side, side)))


def nuclei(canvas: Canvas, centres: Points, length_um: tuple[float, float], dark: tuple[float, float]) -> None:
    """Paint nuclei: ellipses of haematoxylin, most with a paler inside and a clump of darker chromatin."""
    rng, count = canvas.rng, len(centres)
    long_half = canvas.px_per_um * rng.uniform(*length_um, count) / 2
    axes = np.stack([long_half, long_half * rng.uniform(0.42, 0.95, count)], 1)
    angle = rng.uniform(0, 180, count)
    depth = rng.uniform(*dark, count)
    pas = rng.uniform(35, 80, count)
    none = np.zeros(count)
    canvas.ellipses(centres, axes, angle, np.stack([pas, depth, none], 1))
    if canvas.px_per_um * sum(length_um) / 4 < 2.2:
        return  # too small to show an inside
    shift = rng.uniform(-0.4, 0.4, (count, 2)) * axes
    pale = rng.random(count) < 0.6
    canvas.ellipses(
        (centres + shift * 0.4)[pale], axes[pale] * 0.62, angle[pale], np.stack([pas, depth * 0.72, none], 1)[pale]
    )
    canvas.ellipses(centres + shift, axes * 0.28, angle, np.stack([pas, depth * 1.25, none], 1))
