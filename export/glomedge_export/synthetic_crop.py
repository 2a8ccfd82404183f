"""Composes one crop: surroundings, capsule, tuft or scar, then the optics of the scanner.

What separates the classes is *structure* only: open capillary loops, cells and a urinary space against a shrunken,
homogeneous scar. Colour, brightness, sharpness, crop size, fibrosis and inflammation around the glomerulus are drawn
from distributions that overlap on purpose, and the mean stain density is steered towards a target that does not know
the class, so that no first-order statistic gives the answer away (a test holds this).
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from glomedge_export.synthetic_tissue import (
    Canvas,
    Pixels,
    Plane,
    Points,
    Rng,
    Stain,
    blob,
    inside,
    nuclei,
    scatter,
    smooth_noise,
    to_rgb,
)

MIN_SIDE_PX, MAX_SIDE_PX = 200, 1200
_CANVAS_PX = 400  # long side at which structures are painted; larger crops are enlarged, as from a coarser scan

# Gaussian quantiles: one random byte indexes one sample of sensor noise of unit standard deviation.
_NOISE_QUANTILES = 256


@dataclass(frozen=True)
class Anatomy:
    """What one glomerulus and its surroundings look like, apart from its class."""

    field_um: float  # long side of the crop
    centre: Points  # of the glomerulus, float [2], pixels
    radius_px: float  # of Bowman's capsule
    aspect: float
    scarring: float  # 0-1: interstitial fibrosis, tubular atrophy and inflammation around the glomerulus


def draw_crop(rng: Rng, sclerotic: bool, size_px: tuple[int, int] | None = None, stain: Stain | None = None) -> Pixels:
    """Draw one crop.

    Args:
        rng: source of all randomness; the same state gives the same bytes.
        sclerotic: True for a globally sclerotic glomerulus (label 1), False for any other (label 0), which includes
            segmentally sclerosed and collapsed ones.
        size_px: height and width; drawn from the users' range (200-1200) when None.
        stain: how the biopsy took the stain; drawn when None.

    Returns:
        uint8 ``[H, W, 4]``, RGBA, fully opaque.
    """
    height_px, width_px = size_px or draw_size(rng)
    stain = stain or Stain.draw(rng)
    shrink = min(1.0, _CANVAS_PX / max(height_px, width_px))
    rows, columns = max(8, round(height_px * shrink)), max(8, round(width_px * shrink))
    field_um = float(rng.uniform(120, 250) if sclerotic else rng.uniform(150, 290))
    canvas = Canvas(np.zeros((rows, columns, 3), np.uint8), max(rows, columns) / field_um, rng)
    anatomy = Anatomy(
        field_um=field_um,
        centre=np.array([columns, rows]) * (0.5 + rng.normal(0, 0.04, 2)),
        radius_px=min(rows, columns) * float(rng.uniform(0.36, 0.5)),
        aspect=float(np.clip(columns / rows * rng.uniform(0.85, 1.2), 0.7, 1.45)),
        scarring=float(rng.beta(2.2, 1.6) if sclerotic else rng.beta(1.6, 2.2)),
    )
    _surroundings(canvas, anatomy)
    if sclerotic:
        _sclerotic_glomerulus(canvas, anatomy)
    else:
        _open_glomerulus(canvas, anatomy)
    _blemishes(canvas)
    return _scan(canvas, stain, height_px, width_px)


def draw_size(rng: Rng) -> tuple[int, int]:
    """Height and width of a crop in pixels: log-normal about 560, nearly square, within the users' range."""
    side = 560 * rng.lognormal(0.0, 0.33)
    ratio = rng.lognormal(0.0, 0.09)
    size = np.clip(np.rint([side * ratio, side / ratio]), MIN_SIDE_PX, MAX_SIDE_PX)
    return int(size[0]), int(size[1])


def _surroundings(canvas: Canvas, anatomy: Anatomy) -> None:
    """Interstitium, tubules (healthy to atrophic) and inflammatory cells over the whole canvas."""
    rng, height, width = canvas.rng, canvas.height_px, canvas.width_px
    canvas.density[:] = (rng.uniform(38, 70) + 40 * anatomy.scarring, rng.uniform(10, 30), 0)
    fibres = smooth_noise(rng, height, width, canvas.um(3), stretch=6.0)
    canvas.texture(np.clip(1 + 0.28 * fibres, 0.2, 2.0))
    outside = 255 - canvas.mask(_outline(rng, anatomy, 1.04, 0.0))
    spacing = canvas.um(44 - 14 * anatomy.scarring)
    margin = np.full(2, spacing)
    centres = scatter(rng, -margin, np.array([width, height]) + margin, spacing)
    for centre in centres:
        away = np.hypot(*(centre - anatomy.centre)) - anatomy.radius_px
        if away > spacing * 0.25 and rng.random() > 0.25 * anatomy.scarring:
            _tubule(canvas, centre, spacing * float(rng.uniform(0.4, 0.54)), anatomy.scarring)
    cells = scatter(rng, np.zeros(2), np.array([width, height], float), canvas.um(9))
    crowd = smooth_noise(rng, height, width, canvas.um(45))
    cells = cells[inside(outside, cells)]
    column, row = np.floor(cells).astype(int).T
    keep = crowd[row, column] > 1.9 - 2.2 * anatomy.scarring * rng.uniform(0.5, 1.2)
    nuclei(canvas, cells[keep], (4.5, 7.0), (150, 235))


def _tubule(canvas: Canvas, centre: Points, radius_px: float, scarring: float) -> None:
    rng = canvas.rng
    atrophic = rng.random() < scarring
    outline = blob(rng, centre, radius_px * (0.7 if atrophic else 1.0), 0.09, float(rng.uniform(0.6, 1.6)), 40)
    cytoplasm = (float(rng.uniform(35, 85)), float(rng.uniform(20, 55)), 0.0)
    canvas.fill(outline, cytoplasm)
    lumen = centre + (outline - centre) * float(rng.uniform(0.1, 0.3) if atrophic else rng.uniform(0.25, 0.62))
    canvas.fill(lumen, (float(rng.uniform(2, 25)), 4.0, 0.0))
    wall = float(rng.uniform(110, 175))
    canvas.line(outline, (wall, 15, 0), canvas.um(1.5, 3.5) if atrophic else canvas.um(0.7, 1.4), closed=True)
    step = max(1, round(len(outline) / (2 * np.pi * radius_px / canvas.um(9, 14))))
    ring = (outline * 0.72 + centre * 0.28)[:: step if step else 1]
    nuclei(canvas, ring[rng.random(len(ring)) < 0.8], (5.0, 7.0), (110, 200))


def _outline(rng: Rng, anatomy: Anatomy, scale: float, wobble: float) -> Points:
    """The capsule's outline, scaled about its centre."""
    return blob(rng, anatomy.centre, anatomy.radius_px * scale, wobble, anatomy.aspect, 96)


def _shrunk(outline: Points, scale: float, shift: Points) -> Points:
    centre = outline.mean(0)
    return np.asarray(centre + (outline - centre) * scale + shift)


def _capsule(canvas: Canvas, outline: Points, width_px: float, layers: int) -> None:
    """Bowman's capsule: one sharp PAS-positive line, or several wavy ones when it is thickened."""
    rng = canvas.rng
    for layer in range(layers):
        wave = 1 + 0.035 * layer + rng.normal(0, 0.004 * (layers - 1), len(outline))[:, None]
        path = outline.mean(0) + (outline - outline.mean(0)) * wave
        canvas.line(path, (float(rng.uniform(120, 190)) - 12 * layer, 20, 0), width_px, closed=True)
    flat = outline[rng.random(len(outline)) < 0.16]
    nuclei(canvas, outline.mean(0) + (flat - outline.mean(0)) * 0.985, (4.0, 7.0), (120, 200))


def _open_glomerulus(canvas: Canvas, anatomy: Anatomy) -> None:
    """Capsule, urinary space and a tuft of open loops; sometimes collapsed, hypercellular or with a scarred segment."""
    rng = canvas.rng
    outline = _outline(rng, anatomy, 1.0, 0.05)
    canvas.fill(outline, (float(rng.uniform(0, 14)), float(rng.uniform(0, 8)), 0.0))
    room = float(rng.uniform(0.8, 0.97))
    shift = rng.normal(0, 1, 2) * anatomy.radius_px * (1 - room) * 0.4
    tuft = _shrunk(_lobed(rng, outline), room, shift)
    layer = Canvas(canvas.density.copy(), canvas.px_per_um, rng)
    mask = canvas.mask(tuft)
    _tuft(layer, tuft, mask, openness=float(rng.beta(2.2, 1.5)))
    if rng.random() < 0.16:  # segmental sclerosis: label 0, and the hardest of them
        _segmental_scar(layer, tuft)
    canvas.paste(layer.density, mask)
    layers = 1 if rng.random() > 0.35 * anatomy.scarring else int(rng.integers(2, 4))
    _capsule(canvas, outline, canvas.um(1.0, 2.6), layers)


def _lobed(rng: Rng, outline: Points) -> Points:
    """Indent an outline with a few clefts between lobules."""
    centre = outline.mean(0)
    angle = np.linspace(0, 2 * np.pi, len(outline), endpoint=False)
    depth = np.zeros(len(outline))
    for _ in range(int(rng.integers(2, 6))):
        gap = np.angle(np.exp(1j * (angle - rng.uniform(0, 2 * np.pi))))
        depth += rng.uniform(0.03, 0.22) * np.exp(-((gap / rng.uniform(0.08, 0.25)) ** 2))
    depth += 0.012 * rng.standard_normal(len(outline))
    return np.asarray(centre + (outline - centre) * (1 - np.clip(depth, -0.03, 0.4))[:, None])


def _tuft(canvas: Canvas, tuft: Points, mask: Pixels, openness: float) -> None:
    """Mesangium, capillary loops and nuclei. ``openness`` 0 is a dense, cellular tuft, 1 a fully perfused one."""
    rng = canvas.rng
    mesangium = float(rng.uniform(60, 105))
    canvas.fill(tuft, (mesangium, float(rng.uniform(15, 45)), 0.0))
    canvas.texture(np.clip(1 + 0.25 * smooth_noise(rng, canvas.height_px, canvas.width_px, canvas.um(7)), 0.3, 1.8))
    low, high = tuft.min(0), tuft.max(0)
    spacing = canvas.um(9.5, 13.5)
    loops = scatter(rng, low, high, spacing)
    loops = loops[inside(mask, loops)]
    patchy = smooth_noise(rng, canvas.height_px, canvas.width_px, canvas.um(50))
    column, row = np.floor(loops).astype(int).T
    chance = np.clip(0.35 + 0.6 * openness + 0.22 * patchy[row, column], 0.08, 0.97)
    is_open = rng.random(len(loops)) < chance
    wall = float(rng.uniform(105, 165))
    wall_px = max(1.0, canvas.um(0.8, 1.6))
    for centre in loops[is_open]:
        radius = spacing * float(rng.uniform(0.26, 0.56)) * (0.65 + 0.4 * openness)
        outline = blob(rng, centre, radius, 0.16, float(rng.uniform(0.45, 2.2)), 16)
        blood = rng.random() < 0.06
        canvas.fill(
            outline, (45.0, 10.0, 90.0) if blood else (float(rng.uniform(2, 30)), float(rng.uniform(0, 10)), 0.0)
        )
        canvas.line(outline, (wall + float(rng.normal(0, 12)), 18.0, 0.0), wall_px, closed=True)
    cells = scatter(rng, low, high, canvas.um(10, 14) * (1.1 - 0.2 * (1 - openness)))
    cells = cells[inside(mask, cells)]
    nuclei(canvas, cells[rng.random(len(cells)) < 0.8], (5.0, 8.5), (115, 215))


def _segmental_scar(canvas: Canvas, tuft: Points) -> None:
    """A sector of the tuft turned into scar and stuck to the capsule."""
    rng = canvas.rng
    start, share = int(rng.integers(len(tuft))), float(rng.uniform(0.2, 0.42))
    arc = np.take(tuft, np.arange(start, start + int(len(tuft) * share)), axis=0, mode="wrap")
    centre = tuft.mean(0)
    segment = np.concatenate([arc * 1.03 - centre * 0.03, centre[None] + rng.normal(0, canvas.um(6), (1, 2))])
    scar = Canvas(canvas.density.copy(), canvas.px_per_um, rng)
    _scar_tissue(scar, segment, cells=0.4)
    soft = cv2.GaussianBlur(canvas.mask(segment), (0, 0), max(0.8, canvas.um(1.5)))
    canvas.paste(scar.density, soft)


def _scar_tissue(canvas: Canvas, outline: Points, cells: float) -> None:
    """Homogeneous PAS-positive matrix with faint fibres, folds and few nuclei."""
    rng, height, width = canvas.rng, canvas.height_px, canvas.width_px
    canvas.fill(outline, (float(rng.uniform(95, 165)), float(rng.uniform(8, 35)), 0.0))
    fibres = smooth_noise(rng, height, width, canvas.um(1.6, 3.0), stretch=float(rng.uniform(3, 7)))
    cloud = smooth_noise(rng, height, width, canvas.um(18, 35))
    canvas.texture(np.clip(1 + float(rng.uniform(0.05, 0.13)) * fibres + 0.1 * cloud, 0.3, 1.7))
    mask = canvas.mask(outline)
    span = float(np.ptp(outline, axis=0).mean())
    for centre in _inside_scatter(rng, outline, mask, span / 4.5):
        if rng.random() < 0.4:  # folds and clefts of the collapsed tuft, paler or darker than the matrix
            bend = np.cumsum(rng.normal(0, 0.35, 9)) + rng.uniform(0, 2 * np.pi)
            step = np.stack([np.cos(bend), np.sin(bend)], 1) * span * float(rng.uniform(0.01, 0.035))
            tone = float(rng.choice([15.0, 60.0, 185.0]))
            canvas.line(centre + np.cumsum(step, 0), (tone, 14.0, 0.0), canvas.um(0.6, 1.8))
    spots = _inside_scatter(rng, outline, mask, canvas.um(11))
    nuclei(canvas, spots[rng.random(len(spots)) < 0.3 * cells], (4.0, 8.0), (110, 215))


def _inside_scatter(rng: Rng, outline: Points, mask: Pixels, spacing_px: float) -> Points:
    points = scatter(rng, outline.min(0), outline.max(0), spacing_px)
    return np.asarray(points[inside(mask, points)])


def _sclerotic_glomerulus(canvas: Canvas, anatomy: Anatomy) -> None:
    """A shrunken scar in a thin, wrinkled or layered capsule; the urinary space is gone or filled with matrix."""
    rng = canvas.rng
    outline = _outline(rng, anatomy, 1.0, 0.07)
    space = rng.choice(["gone", "matrix", "open"], p=[0.5, 0.3, 0.2])
    room = {"gone": rng.uniform(0.95, 1.0), "matrix": rng.uniform(0.6, 0.85), "open": rng.uniform(0.72, 0.92)}[space]
    fill = {"gone": 80.0, "matrix": float(rng.uniform(40, 75)), "open": float(rng.uniform(0, 16))}[space]
    canvas.fill(outline, (fill, 12.0, 0.0))
    if space == "matrix":
        spots = _inside_scatter(rng, outline, canvas.mask(outline), canvas.um(16))
        nuclei(canvas, spots[rng.random(len(spots)) < 0.4], (5.0, 9.0), (90, 170))
    scar = blob(rng, outline.mean(0), anatomy.radius_px * float(room), 0.07, anatomy.aspect, 96)
    layer = Canvas(canvas.density.copy(), canvas.px_per_um, rng)
    _scar_tissue(layer, scar, cells=float(rng.uniform(0.15, 1.0)))
    mask = cv2.GaussianBlur(canvas.mask(scar), (0, 0), max(0.7, canvas.um(1.0)))
    loops = _inside_scatter(rng, scar, mask, canvas.um(14))
    for centre in loops[rng.random(len(loops)) < float(rng.beta(1, 9))]:  # slits and loops that are not yet closed
        slit = blob(rng, centre, canvas.um(1.5, 4.0), 0.15, float(rng.uniform(0.4, 2.5)), 14)
        layer.fill(slit, (float(rng.uniform(5, 45)), 8.0, 0.0))
    canvas.paste(layer.density, mask)
    _capsule(canvas, outline, canvas.um(0.7, 1.8), int(rng.integers(1, 4)))


def _blemishes(canvas: Canvas) -> None:
    """What happens to any section: a torn edge, a fold, dust; as often in one class as in the other."""
    rng = canvas.rng
    size = np.array([canvas.width_px, canvas.height_px], float)
    if rng.random() < 0.22:  # the edge of the biopsy core
        direction = rng.uniform(0, 2 * np.pi)
        away = np.array([np.cos(direction), np.sin(direction)])
        across = np.array([-away[1], away[0]]) * size.max()
        along = np.linspace(-1, 1, 60)[:, None]
        ragged = np.cumsum(rng.normal(0, canvas.um(1.2), 60))[:, None]
        edge = size / 2 + away * (size.min() * rng.uniform(0.34, 0.5) + ragged) + across * along
        canvas.fill(np.concatenate([edge, (edge + away * size.max() * 2)[::-1]]), (0.0, 0.0, 0.0))
    if rng.random() < 0.06:  # a fold: the section lies double along a band
        start, end = rng.uniform(0, 1, (2, 2)) * size
        band = np.zeros(canvas.density.shape[:2], np.uint8)
        width = max(2, round(canvas.um(5, 14)))
        cv2.line(band, tuple(map(int, start)), tuple(map(int, end)), 255, width, cv2.LINE_AA)
        canvas.texture(1 + cv2.GaussianBlur(band, (0, 0), 1.5).astype(np.float32) / 255 * 0.9)
    for _ in range(int(rng.poisson(0.5))):  # dust and pigment
        spot = blob(rng, rng.uniform(0, 1, 2) * size, canvas.um(0.8, 3.5), 0.3, 1.0, 16)
        canvas.fill(spot, (60.0, 60.0, float(rng.uniform(60, 230))))


def _scan(canvas: Canvas, stain: Stain, height_px: int, width_px: int) -> Pixels:
    """Section thickness, stain, optics, enlargement and sensor noise: densities to RGBA uint8 ``[H, W, 4]``."""
    rng, density = canvas.rng, canvas.density
    tissue = cv2.threshold(density[..., 0], 0, stain.wash, cv2.THRESH_BINARY)[1]
    density[..., 1] = cv2.add(np.ascontiguousarray(density[..., 1]), tissue)
    thickness = 1 + 0.07 * smooth_noise(rng, canvas.height_px, canvas.width_px, canvas.um(70))
    canvas.texture(np.clip(thickness, 0.7, 1.3))
    density = canvas.density
    # Steer the mean densities towards targets that do not depend on the class (the pathologist's eye, the scanner's
    # exposure and the laboratory's protocol do the same); a power below one leaves some of the natural difference.
    mean = density.reshape(-1, 3).mean(0)
    target = np.array([62.0, 46.0]) * rng.lognormal(0.0, 0.25, 2)
    gain = np.clip((target / np.maximum(mean[:2], 1.0)) ** 0.85, 0.35, 2.4)
    pixels = to_rgb(density, stain, (float(gain[0]), float(gain[1])))
    blur = float(rng.choice([0.0, 0.6, 1.0, 1.8], p=[0.3, 0.35, 0.25, 0.1])) * float(rng.uniform(0.8, 1.2))
    if blur > 0:
        pixels = cv2.GaussianBlur(pixels, (0, 0), blur)
    if pixels.shape[:2] != (height_px, width_px):
        pixels = cv2.resize(pixels, (width_px, height_px), interpolation=cv2.INTER_CUBIC)
    noise = _noise_table(float(rng.uniform(0.6, 3.0)))[rng.integers(0, _NOISE_QUANTILES, pixels.shape, np.uint8)]
    rgba = np.full((height_px, width_px, 4), 255, np.uint8)
    rgba[..., :3] = cv2.add(pixels, noise, dtype=cv2.CV_8U)
    return rgba


def _noise_table(sigma: float) -> Plane:
    """float32 ``[256]``: Gaussian quantiles of that standard deviation (Box and Muller avoided: a byte is enough)."""
    from statistics import NormalDist

    levels = (np.arange(_NOISE_QUANTILES) + 0.5) / _NOISE_QUANTILES
    return np.array([NormalDist(0.0, sigma).inv_cdf(float(level)) for level in levels], np.float32)


__all__ = ["MAX_SIDE_PX", "MIN_SIDE_PX", "Anatomy", "draw_crop", "draw_size"]
