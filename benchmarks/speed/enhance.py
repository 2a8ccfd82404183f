"""The cost of colour enhancement per crop and recipe, compared with the same steps as in a plain script.

    python -m benchmarks.speed.enhance

One thread (cv2.setNumThreads(1), as the pipeline has it: its own threads take a crop each). The scripts' way is cv2 for
the resize and the histogram, Pillow for the saturation, cv2's HSV there and back for the hue, a new array each step.
Crops are full-size smoothed noise; the cost does not depend on what they show.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

from benchmarks.lib.common import (
    Estimate,
    alternate,
    markdown_table,
    paired_ratio,
    parser,
    set_results_directory,
    write_result,
)
from glomedge.imaging.enhance import enhance
from glomedge.model.spec import RecipeName

SIDES_PX = (224, 577, 1200)
RECIPES: tuple[RecipeName, ...] = ("seed", "published", "plain")
CROPS = 20

Pixels = npt.NDArray[np.uint8]


def crop(side_px: int, seed: int) -> Pixels:
    """Smooth coloured noise, uint8 ``[side_px, side_px, 3]``."""
    noise = np.random.default_rng(seed).integers(0, 256, (side_px, side_px, 3), np.uint8)
    return np.asarray(cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 3), np.empty_like(noise), 0, 255, cv2.NORM_MINMAX))


def scripted_seed(rgb: Pixels) -> Pixels:
    """Recipe ``seed`` as a script would write it (its hue differs by a rounding, see docs/preprocessing.md)."""
    side_px = rgb.shape[0]
    resized = cv2.resize(rgb, (224, 224), interpolation=cv2.INTER_AREA if side_px > 224 else cv2.INTER_LINEAR)
    yuv = cv2.cvtColor(resized, cv2.COLOR_RGB2YUV)
    yuv[:, :, 0] = cv2.equalizeHist(yuv[:, :, 0])
    image = Image.fromarray(cv2.cvtColor(yuv, cv2.COLOR_YUV2RGB))
    hsv = cv2.cvtColor(np.asarray(ImageEnhance.Color(image).enhance(1.5)), cv2.COLOR_RGB2HSV)
    hsv[:, :, 0] = (hsv[:, :, 0].astype(np.int32) + 4) % 180
    return np.asarray(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB))


def scripted_published(rgb: Pixels) -> Pixels:
    """Recipe ``published`` as the published notebook writes it, less its files."""
    resized = cv2.resize(rgb[..., ::-1], (224, 224)) * np.uint8(255)
    yuv = cv2.cvtColor(resized, cv2.COLOR_RGB2YUV)
    yuv[:, :, 0] = cv2.equalizeHist(yuv[:, :, 0])
    values = cv2.cvtColor(yuv, cv2.COLOR_YUV2RGB).astype(np.float32) * 255
    image = Image.fromarray((values.astype(np.int64) % 256).astype(np.uint8))
    return np.asarray(ImageEnhance.Color(image).enhance(1.5))


def run(crops: list[Pixels], way: Callable[[Pixels], object]) -> Callable[[], object]:
    def go() -> None:
        for pixels in crops:
            way(pixels)

    return go


def main() -> None:
    options = parser(__doc__).parse_args()
    set_results_directory(options.results)
    cv2.setNumThreads(1)
    out = np.empty((224, 224, 3), np.uint8)
    samples_s: dict[str, list[float]] = {}
    rows: list[list[object]] = []
    for side_px in SIDES_PX:
        crops = [crop(side_px, seed) for seed in range(CROPS)]
        ways: dict[str, Callable[[], object]] = {
            f"{side_px} {recipe}": run(crops, lambda pixels, recipe=recipe: enhance(pixels, recipe, out))  # type: ignore[misc]
            for recipe in RECIPES
        }
        ways[f"{side_px} seed, script"] = run(crops, scripted_seed)
        ways[f"{side_px} published, script"] = run(crops, scripted_published)
        samples = alternate(ways, rounds=5 if options.quick else 31)
        samples_s |= samples
        for recipe in RECIPES:
            name = f"{side_px} {recipe}"
            scripted = samples.get(f"{name}, script")
            ratio: Estimate | None = paired_ratio(scripted, samples[name]) if scripted else None
            rows.append(
                [
                    side_px,
                    recipe,
                    1e3 * float(np.median(samples[name])) / CROPS,
                    1e3 * float(np.median(scripted)) / CROPS if scripted else "",
                    f"{ratio.value:.2f} ({ratio.low:.2f} to {ratio.high:.2f})" if ratio else "",
                ]
            )
    table = markdown_table(["side, px", "recipe", "glomedge, ms", "script, ms", "times faster (95%)"], rows)
    print(table)
    write_result("enhance", {"crops_per_sample": CROPS, "samples_s": samples_s}, table, title="Colour enhancement")


if __name__ == "__main__":
    main()
