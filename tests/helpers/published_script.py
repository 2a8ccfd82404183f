"""The evaluation of the published notebook, written down step by step and literally (docs/preprocessing.md).

Only its second multiplication is not literal: ``(x * 255).astype(uint8)`` of a float beyond 255 is undefined in C. On
the x86 machines that it ran on it wraps, which ``% 256`` says for every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageEnhance

SIDE_PX = 224


def enhanced_as_published(path: Path, folder: Path) -> Path:
    """Enhance one crop as the notebook did and save it as PNG; returns where."""
    image = cv2.imread(str(path))
    assert image is not None
    image = cv2.resize(image, (SIDE_PX, SIDE_PX))
    image = (image * 255).astype(np.uint8)
    yuv = cv2.cvtColor(image, cv2.COLOR_RGB2YUV)
    yuv[:, :, 0] = cv2.equalizeHist(yuv[:, :, 0])
    image = cv2.cvtColor(yuv, cv2.COLOR_YUV2RGB)
    image = (image.astype(np.float32) * 255 % 256).astype(np.uint8)
    coloured = ImageEnhance.Color(Image.fromarray(image)).enhance(1.5)
    saved = folder / f"{path.stem}.png"
    coloured.save(saved)
    return saved


def published_answers(model: Any, paths: Sequence[Path], folder: Path) -> npt.NDArray[np.float64]:
    """The probability of each crop: enhanced, written, read back, and predicted one at a time."""
    answers = []
    for path in paths:
        image = np.asarray(Image.open(enhanced_as_published(path, folder)), np.float32)
        answers.append(model.predict(image[np.newaxis], verbose=0)[0][0])
    return np.asarray(answers, np.float64)
