"""What the slides of one laboratory have in common: the tint of its dyes, and its scanner.

Laboratory 1 is what ``glomedge synth`` draws unless told otherwise. Laboratory 2 stains and scans otherwise, as another
hospital does (docs/synthetic.md): the tissue is the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import cv2
import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Triple = tuple[float, float, float]


@dataclass(frozen=True)
class Scanner:
    """What a scanner makes of the light.

    Attributes:
        gamma: exponent of its tone curve for R, G, B; above 1 darkens the middle tones.
        jpeg_quality: of the slide file that crops are cut from.
    """

    gamma: Triple
    jpeg_quality: int

    def render(self, pixels: Pixels) -> Pixels:
        """What is stored: uint8 ``[H, W, 3]``, RGB, from what the sensor saw, of the same shape."""
        levels = np.arange(256) / 255
        table = np.stack([np.rint(255 * levels**gamma) for gamma in self.gamma], axis=1).astype(np.uint8)
        toned = cv2.LUT(pixels, table[None])
        done, stored = cv2.imencode(".jpg", toned[..., ::-1], (cv2.IMWRITE_JPEG_QUALITY, self.jpeg_quality))
        assert done
        read = cv2.imdecode(stored, cv2.IMREAD_COLOR)
        return np.ascontiguousarray(np.asarray(read, np.uint8)[..., ::-1])


@dataclass(frozen=True)
class Laboratory:
    """How a laboratory stains and scans.

    Attributes:
        pas, haematoxylin: optical density of the dye for R, G, B; of haematoxylin relative to its red.
        washes: haematoxylin (canvas units) over all tissue, of which each biopsy has one.
        white: bare glass, R, G, B, 0-255.
        green_mean: what exposure and strength of stain aim at for the mean of the green channel.
        scanner: None: the sensor's own pixels, stored without loss.
    """

    pas: Triple
    haematoxylin: Triple
    washes: tuple[float, float, float, float]
    white: Triple
    green_mean: float
    scanner: Scanner | None = None


LABORATORIES: Mapping[int, Laboratory] = MappingProxyType(
    {
        1: Laboratory(
            pas=(0.19, 1.0, 0.46),
            haematoxylin=(1.0, 0.94, 0.52),
            washes=(0.0, 8.0, 20.0, 55.0),
            white=(243.0, 240.0, 244.0),
            green_mean=129.0,
        ),
        # A longer bath in haematoxylin that was blued in lithium carbonate, a much weaker Schiff reagent, a lamp of a
        # warmer colour; a scanner with a steeper tone curve, and JPEG as whole-slide scanners write it.
        2: Laboratory(
            pas=(0.30, 1.0, 0.30),
            haematoxylin=(1.0, 0.80, 0.38),
            washes=(8.0, 20.0, 35.0, 60.0),
            white=(246.0, 240.0, 228.0),
            green_mean=165.0,
            scanner=Scanner(gamma=(1.25, 1.35, 1.15), jpeg_quality=70),
        ),
    }
)
"""By the number that ``synth --laboratory`` takes."""
