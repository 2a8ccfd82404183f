"""Model files as of networks that glomedge does not train: another side, another map, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from glomedge.imaging.enhance import enhance
from glomedge.model.spec import ModelSource, ModelSpec, Recipe
from helpers.builders import build_tiny_other, tiny_logit


class Network(NamedTuple):
    """One stand-in; ``cells`` must divide ``side_px``."""

    side_px: int
    cells: int
    recipe: str
    with_map: bool

    @property
    def map_shape(self) -> tuple[int, int] | None:
        """As ``ModelSpec.map_shape``."""
        return (self.cells, self.cells) if self.with_map else None

    def build(self, path: Path, **overrides: Any) -> ModelSpec:
        """Write its model file."""
        return build_tiny_other(path, self.side_px, self.cells, recipe=self.recipe, with_map=self.with_map, **overrides)

    def probability(self, crop: npt.NDArray[np.uint8]) -> float:
        """What it must answer for a decoded crop, worked out without ONNX and without the engine."""
        sized = Recipe.named(self.recipe).model_copy(update={"size_px": self.side_px})
        logit = tiny_logit(enhance(crop, sized)[np.newaxis])[0]
        return float(1.0 / (1.0 + np.exp(-logit)))


NETWORKS = {
    "96 px": Network(96, 3, "published", True),
    "299 px": Network(299, 13, "seed", True),
    "224 px without a map": Network(224, 7, "plain", False),
    "33 px without a map": Network(33, 1, "seed", False),
}

SOURCE = ModelSource(file_format="keras2", framework="tf_keras 2.21.0", file_sha256="a" * 64)
"""As of a file that says nothing but what the graph shows."""
