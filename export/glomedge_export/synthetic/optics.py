"""Stain and scanner: from painted densities to the pixels of a crop.

Colour follows the Beer-Lambert law (``intensity = white * exp(-density @ absorbance)``, as in Ruifrok & Johnston,
Anal Quant Cytol Histol 2001;23:291), so one :class:`Stain` per biopsy changes every tissue consistently, as a real
batch of reagents does.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from statistics import NormalDist

import cv2
import numpy as np
import numpy.typing as npt

from glomedge_export.synthetic.laboratory import LABORATORIES, Laboratory
from glomedge_export.synthetic.tissue import Canvas, Pixels, Plane, Rng, smooth_noise

_FULL_DENSITY = 1.9  # optical density of canvas value 255 at stain strength 1


@dataclass(frozen=True)
class Stain:
    """How one biopsy took the stain.

    Attributes:
        absorbance: float ``[3, 3]``, rows PAS, haematoxylin, pigment; columns R, G, B; optical density at value 1.
        white: float ``[3]``, RGB of bare glass, 0-255.
        wash: haematoxylin density (canvas units) that lies over all tissue, the purple cast of an overstained slide.
        laboratory: which stained and scanned it.
    """

    absorbance: npt.NDArray[np.float64]
    white: npt.NDArray[np.float64]
    wash: float
    laboratory: Laboratory = LABORATORIES[1]

    @staticmethod
    def draw(rng: Rng, laboratory: Laboratory = LABORATORIES[1]) -> Stain:
        """A stain such as one run in the laboratory gives: pale to dark, pink to purple."""
        pas = np.array(laboratory.pas) * rng.lognormal(0.0, [0.3, 0.04, 0.15])
        haematoxylin = np.array(laboratory.haematoxylin) * rng.lognormal(0.0, [0.08, 0.08, 0.15])
        pigment = np.array([0.45, 0.95, 1.1])
        white = np.array(laboratory.white) + rng.normal(0.0, 3.0, 3)
        wash = float(rng.choice(laboratory.washes, p=[0.3, 0.35, 0.22, 0.13])) * rng.uniform(0.6, 1.2)
        return Stain(np.stack([pas, haematoxylin, pigment]), np.clip(white, 225, 252), wash, laboratory)


def to_rgb(density: Pixels, stain: Stain, gain: tuple[float, float]) -> Plane:
    """Beer-Lambert: float32 ``[H, W, 3]`` RGB in 0-255 from stain densities.

    ``gain`` multiplies PAS and haematoxylin: the thickness of the section and the strength of the two baths.
    """
    absorbance = stain.absorbance * np.array([[gain[0]], [gain[1]], [1.0]]) * (-_FULL_DENSITY / 255)
    exponent = cv2.transform(density.astype(np.float32), absorbance.T.astype(np.float32))
    return np.asarray(cv2.exp(exponent) * stain.white.astype(np.float32))


def scan(canvas: Canvas, stain: Stain, height_px: int, width_px: int) -> Pixels:
    """Section thickness, stain, optics, enlargement and sensor noise: densities to RGBA uint8 ``[H, W, 4]``."""
    rng, density = canvas.rng, canvas.density
    wash = np.rint(stain.wash * np.clip(np.arange(256) / 60, 0, 1)).astype(np.uint8)  # none where there is no tissue
    density[..., 1] = cv2.add(
        np.ascontiguousarray(density[..., 1]), cv2.LUT(np.ascontiguousarray(density[..., 0]), wash)
    )
    thickness = 1 + 0.07 * smooth_noise(rng, canvas.height_px, canvas.width_px, canvas.um(70))
    thickness += 0.13 * smooth_noise(rng, canvas.height_px, canvas.width_px, max(1.6, canvas.um(1.1)))
    canvas.texture(np.clip(thickness, 0.5, 1.5))
    density = canvas.density
    pixels = to_rgb(density, stain, _exposure(rng, density, stain))
    # uint8 from here on: a scanner's own pixels are no finer, and enlarging them costs a quarter.
    pixels = cv2.convertScaleAbs(pixels)
    blur = float(rng.choice([0.0, 0.6, 1.0, 1.8], p=[0.3, 0.35, 0.25, 0.1])) * float(rng.uniform(0.8, 1.2))
    if blur > 0:
        pixels = cv2.GaussianBlur(pixels, (0, 0), blur)
    if pixels.shape[:2] != (height_px, width_px):
        pixels = cv2.resize(pixels, (width_px, height_px), interpolation=cv2.INTER_CUBIC)
    table = np.rint(_noise_quantiles() * np.float32(rng.uniform(0.6, 3.0))).astype(np.int8)
    noise = cv2.LUT(rng.integers(0, 256, pixels.shape, np.uint8), table)
    noisy = cv2.add(pixels, noise, dtype=cv2.CV_8U)
    if stain.laboratory.scanner is not None:
        noisy = stain.laboratory.scanner.render(noisy)
    return np.asarray(cv2.cvtColor(noisy, cv2.COLOR_RGB2RGBA))


def _exposure(rng: Rng, density: Pixels, stain: Stain) -> tuple[float, float]:
    """Strength of PAS and haematoxylin that brings the tissue to a brightness that does not depend on the class.

    Laboratory protocol and scanner exposure do the same. Without it the scars, which have no pale lumina, would be
    darker and bluer than open tufts, and the mean colour alone would tell the classes apart.
    """
    sample = density[::7, ::7].reshape(-1, 1, 3)
    tissue = sample[sample.any(2).ravel()]  # bare glass beside the core has no density at all
    if not len(tissue):
        return 1.0, 1.0
    cells = float(rng.lognormal(np.log(36.0), 0.25)) / max(1.0, float(tissue[..., 1].mean()))
    haematoxylin = float(np.clip(cells**0.6, 0.5, 1.6))
    # Mean of the green channel, which PAS absorbs.
    target = float(np.clip(rng.normal(stain.laboratory.green_mean, 29.0), 60.0, 190.0))
    low, high = 0.5, 2.8
    for _ in range(9):  # the mean falls as the strength rises: bisect
        middle = (low + high) / 2
        mean = float(to_rgb(tissue, stain, (middle, haematoxylin))[..., 1].mean())
        low, high = (middle, high) if mean > target else (low, middle)
    return (low + high) / 2, haematoxylin


@functools.cache
def _noise_quantiles() -> Plane:
    """float32 ``[256]``: quantiles of the standard normal, so that one random byte is one sample of sensor noise."""
    normal = NormalDist()
    return np.array([normal.inv_cdf((level + 0.5) / 256) for level in range(256)], np.float32)
