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

from glomedge_export.synthetic.optics import Stain, scan
from glomedge_export.synthetic.tissue import (
    Canvas,
    Pixels,
    Points,
    Rng,
    blob,
    blobs,
    fibres,
    inside,
    lamellae,
    nuclei,
    scatter,
    smooth_noise,
    soften,
    turned,
)

MIN_SIDE_PX, MAX_SIDE_PX = 200, 1200
_CANVAS_PX = 400  # long side at which structures are painted; larger crops are enlarged, as from a coarser scan


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
        size_px: height and width; drawn from the range of full-size crops (200-1200) when None.
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
    return scan(canvas, stain, height_px, width_px)


def draw_size(rng: Rng) -> tuple[int, int]:
    """Height and width of a crop in pixels: log-normal about 560, nearly square, 200 to 1200."""
    side = 560 * rng.lognormal(0.0, 0.33)
    ratio = rng.lognormal(0.0, 0.09)
    size = np.clip(np.rint([side * ratio, side / ratio]), MIN_SIDE_PX, MAX_SIDE_PX)
    return int(size[0]), int(size[1])


def _surroundings(canvas: Canvas, anatomy: Anatomy) -> None:
    """Interstitium, tubules (healthy to atrophic) and inflammatory cells over the whole canvas."""
    rng, height, width = canvas.rng, canvas.height_px, canvas.width_px
    canvas.density[:] = (rng.uniform(36, 66) + 34 * anatomy.scarring, rng.uniform(5, 18), 0)
    strands = fibres(rng, height, width, canvas.um(2.5, 4), stretch=4.0, bend_px=canvas.um(25))
    canvas.texture(np.clip(1 + 0.2 * strands, 0.2, 2.0))
    spacing = canvas.um(46 - 14 * anatomy.scarring)
    margin = np.full(2, spacing * 0.5)
    size = np.array([width, height], float)
    centres = scatter(rng, -margin, size + margin, spacing)
    away = np.hypot(*(centres - anatomy.centre).T) - anatomy.radius_px * 0.95
    keep = (away > spacing * 0.2) & (rng.random(len(centres)) > 0.3 * anatomy.scarring)
    _tubules(canvas, centres[keep], spacing, anatomy.scarring)
    _periglomerular_layers(canvas, anatomy)
    cells = rng.uniform(0, 1, (int(height * width / canvas.um(8) ** 2), 2)) * size
    cells = cells[~inside(canvas.mask(_outline(rng, anatomy, 1.04, 0.0)), cells)]
    crowd = smooth_noise(rng, height, width, canvas.um(40))
    column, row = np.floor(cells).astype(int).T
    infiltrate = crowd[row, column] + rng.normal(0, 0.4, len(cells)) > 2.3 - 1.9 * anatomy.scarring * rng.uniform(
        0.5, 1.2
    )
    nuclei(canvas, cells[infiltrate], (4.0, 7.5), (105, 225))


def _tubules(canvas: Canvas, centres: Points, spacing_px: float, scarring: float) -> None:
    rng, count = canvas.rng, len(centres)
    atrophic = rng.random(count) < scarring
    radius = spacing_px * rng.uniform(0.4, 0.56, count) * np.where(atrophic, 0.7, 1.0)
    outlines = blobs(rng, centres, radius, 0.1, rng.uniform(1.0, 1.8, count), 36)
    outlines = turned(outlines, rng.uniform(0, np.pi, count))
    lumen_share = np.where(atrophic, rng.uniform(0.05, 0.3, count), rng.uniform(0.2, 0.62, count))
    lumens = blobs(rng, centres, radius * lumen_share, 0.25, rng.uniform(0.8, 1.8, count), 20)
    wall_px = np.where(atrophic, canvas.um(1.4, 3.2), canvas.um(0.7, 1.3))
    cytoplasm = rng.uniform(30, 80)  # one stain, one epithelium: tubules of a crop resemble each other
    for index in range(count):
        tone = cytoplasm + float(rng.normal(0, 7))
        canvas.fill(outlines[index], (tone, float(rng.uniform(12, 34)), 0.0))
        canvas.fill(lumens[index], (float(rng.uniform(2, 25)), 3.0, 0.0))
        canvas.line(outlines[index], (float(rng.uniform(100, 165)), 10, 0), float(wall_px[index]), closed=True)
    around = np.linspace(0, 36, max(3, round(2 * np.pi * spacing_px * 0.36 / canvas.um(12))), endpoint=False).astype(
        int
    )
    ring = outlines[:, around] * 0.7 + centres[:, None] * 0.3
    ring += rng.normal(0, canvas.um(1.2), ring.shape)
    nuclei(canvas, ring[rng.random(ring.shape[:2]) < 0.62], (5.0, 7.0), (85, 170))


def _periglomerular_layers(canvas: Canvas, anatomy: Anatomy) -> None:
    """Concentric fibrosis around the capsule, as deep as the surroundings are scarred."""
    rng = canvas.rng
    reach = anatomy.radius_px * (1.0 + 0.45 * anatomy.scarring * float(rng.uniform(0.0, 1.0)))
    outline = blob(rng, anatomy.centre, reach, 0.12, anatomy.aspect, 64)
    mask = soften(canvas.mask(outline), canvas.um(4))
    layers = lamellae(rng, canvas.height_px, canvas.width_px, anatomy.centre, canvas.um(2.5))
    tone = np.float32(rng.uniform(60, 105))
    sheet = np.zeros_like(canvas.density)
    sheet[..., 0] = np.clip(tone * (1 + 0.3 * layers), 0, 255).astype(np.uint8)
    sheet[..., 1] = 12
    canvas.paste(sheet, mask)


def _outline(rng: Rng, anatomy: Anatomy, scale: float, wobble: float) -> Points:
    """The capsule's outline, scaled about its centre."""
    return blob(rng, anatomy.centre, anatomy.radius_px * scale, wobble, anatomy.aspect, 96)


def _capsule(canvas: Canvas, outline: Points, width_px: float, layers: int) -> None:
    """Bowman's capsule: one sharp PAS-positive line, or several wavy ones when it is thickened."""
    rng = canvas.rng
    for layer in range(layers):
        wave = 1 + 0.035 * layer + rng.normal(0, 0.004 * (layers - 1), len(outline))[:, None]
        path = outline.mean(0) + (outline - outline.mean(0)) * wave
        canvas.line(path, (float(rng.uniform(120, 190)) - 12 * layer, 20, 0), width_px, closed=True)
    flat = outline[rng.random(len(outline)) < 0.09]
    nuclei(canvas, outline.mean(0) + (flat - outline.mean(0)) * 0.985, (3.0, 6.0), (90, 175))


def _open_glomerulus(canvas: Canvas, anatomy: Anatomy) -> None:
    """Capsule, urinary space and a tuft of open loops; sometimes collapsed, hypercellular or with a scarred segment."""
    rng = canvas.rng
    outline = _outline(rng, anatomy, 1.0, 0.05)
    canvas.fill(outline, (float(rng.uniform(0, 14)), float(rng.uniform(0, 8)), 0.0))
    room = float(rng.uniform(0.8, 1.0))
    direction = float(rng.uniform(0, 2 * np.pi))  # of the vascular pole, where the tuft hangs on the capsule
    shift = (
        np.array([np.cos(direction), np.sin(direction)]) * anatomy.radius_px * (1.02 - room) * float(rng.uniform(0, 1))
    )
    tuft = _lobed(rng, blob(rng, outline.mean(0) + shift, anatomy.radius_px * room, 0.1, anatomy.aspect, 96))
    layer = Canvas(canvas.density.copy(), canvas.px_per_um, rng)
    mask = cv2.min(canvas.mask(tuft), canvas.mask(outline))
    collapsed = rng.random() < 0.1  # hardly a loop open: looks half way to a scar, is not one
    _tuft(layer, tuft, mask, openness=float(rng.uniform(-0.35, 0.0) if collapsed else rng.beta(2.2, 1.5)))
    if rng.random() < 0.18:  # segmental sclerosis: label 0, and the hardest of them
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
    """Mesangium, capillary loops and nuclei. ``openness``: below 0 collapsed, 0 dense and cellular, 1 fully open."""
    rng, height, width = canvas.rng, canvas.height_px, canvas.width_px
    canvas.fill(tuft, (float(rng.uniform(55, 105)), float(rng.uniform(10, 34)), 0.0))
    canvas.texture(np.clip(1 + 0.25 * smooth_noise(rng, height, width, canvas.um(7)), 0.3, 1.8))
    low, high = tuft.min(0), tuft.max(0)
    _stalks(canvas, tuft)
    cell_spacing = canvas.um(9.5, 14)
    cells = scatter(rng, low, high, cell_spacing) + rng.normal(0, 0.22, (1, 2)) * cell_spacing
    cells = cells[inside(mask, cells)]
    cells += rng.normal(0, 0.25, cells.shape) * cell_spacing
    first = rng.random(len(cells)) < 0.55  # loops lie over some nuclei and under others
    dark = (float(rng.uniform(85, 120)), float(rng.uniform(165, 215)))
    nuclei(canvas, cells[first], (5.0, 9.5), dark)
    spacing = canvas.um(8.5, 13)
    loops = scatter(rng, low, high, spacing)
    loops = loops[inside(mask, loops)]
    patchy = smooth_noise(rng, height, width, canvas.um(45))
    column, row = np.floor(loops).astype(int).T
    chance = np.clip(0.3 + 0.65 * openness + 0.25 * patchy[row, column], 0.04, 0.97)
    loops = loops[rng.random(len(loops)) < chance]
    count = len(loops)
    radius = spacing * rng.uniform(0.25, 0.62, count) * (0.6 + 0.45 * openness)
    outlines = turned(blobs(rng, loops, radius, 0.3, rng.uniform(1.0, 2.6, count), 14, 3), rng.uniform(0, np.pi, count))
    wall = np.clip(rng.uniform(90, 165) + rng.normal(0, 14, count), 60, 220)
    wall_px = canvas.um(0.7, 1.5)
    blood = rng.random(count) < 0.04
    pale = rng.uniform(0, 30, count)
    for index in range(count):
        canvas.line(outlines[index], (float(wall[index]), 14.0, 0.0), wall_px, closed=True)
    for index in range(count):  # after the walls, so that neighbouring lumina run together as they do in a section
        inner = loops[index] + (outlines[index] - loops[index]) * max(0.3, 1 - 0.5 * wall_px / radius[index])
        canvas.fill(inner, (40.0, 10.0, 70.0) if blood[index] else (float(pale[index]), float(pale[index]) * 0.3, 0.0))
    rest = cells[~first]
    nuclei(canvas, rest[rng.random(len(rest)) < 0.85], (5.0, 9.0), dark)


def _stalks(canvas: Canvas, tuft: Points) -> None:
    """Mesangial stalks: thick wandering PAS-positive strands from the middle of the tuft to its edge."""
    rng = canvas.rng
    centre, span = tuft.mean(0), float(np.ptp(tuft, axis=0).mean())
    for _ in range(int(rng.integers(4, 12))):
        bend = rng.uniform(0, 2 * np.pi) + np.cumsum(rng.normal(0, 0.45, 9))
        path = (
            centre + rng.normal(0, 0.12, 2) * span + np.cumsum(np.stack([np.cos(bend), np.sin(bend)], 1), 0) * span / 19
        )
        canvas.line(path, (float(rng.uniform(95, 150)), 20.0, 0.0), canvas.um(2.0, 6.0))


def _segmental_scar(canvas: Canvas, tuft: Points) -> None:
    """A sector of the tuft turned into scar and stuck to the capsule."""
    rng = canvas.rng
    start, share = int(rng.integers(len(tuft))), float(rng.uniform(0.2, 0.6))
    arc = np.take(tuft, np.arange(start, start + int(len(tuft) * share)), axis=0, mode="wrap")
    centre = tuft.mean(0)
    rim = arc * 1.03 - centre * 0.03
    corner = centre + rng.normal(0, canvas.um(8), 2)
    share_along = np.linspace(0, 1, 14)[:, None]
    inner = np.concatenate([rim[-1] + (corner - rim[-1]) * share_along, corner + (rim[0] - corner) * share_along])
    bumps = np.convolve(rng.normal(0, canvas.um(7), 2 * (len(inner) + 4)), np.ones(4) / 4, "same")
    segment = np.concatenate([rim, inner + bumps.reshape(-1, 2)[2:-2]])
    scar = Canvas(canvas.density.copy(), canvas.px_per_um, rng)
    _scar_tissue(scar, segment, cells=0.4)
    soft = soften(canvas.mask(segment), canvas.um(1.5))
    canvas.paste(scar.density, soft)


def _scar_tissue(canvas: Canvas, outline: Points, cells: float) -> None:
    """Homogeneous PAS-positive matrix with faint wavy fibres, folds and few nuclei."""
    rng, height, width = canvas.rng, canvas.height_px, canvas.width_px
    canvas.fill(outline, (float(rng.uniform(90, 150)), float(rng.uniform(3, 16)), 0.0))
    span = float(np.ptp(outline, axis=0).mean())
    strands = fibres(
        rng, height, width, canvas.um(1.5, 3.5), float(rng.uniform(2, 6)), span * float(rng.uniform(0.1, 0.3))
    )
    cloud = smooth_noise(rng, height, width, canvas.um(14, 35))
    canvas.texture(np.clip(1 + float(rng.uniform(0.05, 0.14)) * strands + 0.12 * cloud, 0.3, 1.7))
    mask = canvas.mask(outline)
    folds = _inside_scatter(rng, outline, mask, span / 5.5)
    for centre in folds[rng.random(len(folds)) < float(rng.uniform(0.1, 0.8))]:  # of the collapsed tuft
        bend = np.cumsum(rng.normal(0, 0.3, 9)) + rng.uniform(0, 2 * np.pi)
        step = np.stack([np.cos(bend), np.sin(bend)], 1) * span * float(rng.uniform(0.008, 0.03))
        tone = float(rng.choice([30.0, 65.0, 170.0], p=[0.25, 0.5, 0.25]))
        canvas.line(centre + np.cumsum(step, 0), (tone, 10.0, 0.0), canvas.um(0.6, 1.8))
    spots = _inside_scatter(rng, outline, mask, canvas.um(11))
    spots += rng.normal(0, canvas.um(2.5), spots.shape)
    nuclei(canvas, spots[rng.random(len(spots)) < 0.24 * cells], (3.5, 8.0), (75, 185))


def _inside_scatter(rng: Rng, outline: Points, mask: Pixels, spacing_px: float) -> Points:
    points = scatter(rng, outline.min(0), outline.max(0), spacing_px)
    return np.asarray(points[inside(mask, points)])


def _sclerotic_glomerulus(canvas: Canvas, anatomy: Anatomy) -> None:
    """A shrunken scar in a thin, wrinkled or layered capsule; the urinary space is gone or filled with matrix."""
    rng = canvas.rng
    outline = _outline(rng, anatomy, 1.0, 0.07)
    space = rng.choice(["gone", "matrix", "open"], p=[0.52, 0.35, 0.13])
    room = {"gone": rng.uniform(0.95, 1.0), "matrix": rng.uniform(0.6, 0.85), "open": rng.uniform(0.72, 0.92)}[space]
    fill = {"gone": 80.0, "matrix": float(rng.uniform(40, 75)), "open": float(rng.uniform(0, 16))}[space]
    canvas.fill(outline, (fill, 12.0, 0.0))
    if space == "matrix":
        spots = _inside_scatter(rng, outline, canvas.mask(outline), canvas.um(16))
        nuclei(canvas, spots[rng.random(len(spots)) < 0.4], (5.0, 9.0), (90, 170))
    scar = blob(
        rng, outline.mean(0), anatomy.radius_px * float(room), float(rng.uniform(0.08, 0.26)), anatomy.aspect, 96
    )
    layer = Canvas(canvas.density.copy(), canvas.px_per_um, rng)
    recent = rng.random() < 0.15  # a scar in which cells and slits remain: the hardest of its class
    _scar_tissue(layer, scar, cells=float(rng.uniform(1.2, 2.5) if recent else rng.uniform(0.15, 1.0)))
    mask = soften(canvas.mask(scar), canvas.um(1.0))
    loops = _inside_scatter(rng, scar, mask, canvas.um(14))
    loops = loops[
        rng.random(len(loops)) < float(rng.beta(3, 5) if recent else rng.beta(1, 7))
    ]  # slits and loops not yet closed
    slits = blobs(
        rng, loops, canvas.px_per_um * rng.uniform(1.2, 4.0, len(loops)), 0.3, rng.uniform(1, 3, len(loops)), 14, 3
    )
    for slit in turned(slits, rng.uniform(0, np.pi, len(loops))):
        layer.fill(slit, (float(rng.uniform(5, 45)), 5.0, 0.0))
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
