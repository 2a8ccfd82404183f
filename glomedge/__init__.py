"""glomedge: call kidney glomeruli globally sclerotic or not, at the edge. Research use only.

    import glomedge

    with glomedge.load("artifacts/model.onnx", provider="auto") as model:
        for prediction in model.predict(["a.png", rgb_uint8_array]):
            print(prediction.probability, prediction.class_name)
    pixels = glomedge.enhance(rgb_uint8_array, recipe="seed")

Importing this package loads nothing heavy: the names below are resolved on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from glomedge.about import __version__

if TYPE_CHECKING:
    from glomedge.engine.engine import Engine
    from glomedge.engine.loading import load
    from glomedge.engine.predict import Prediction
    from glomedge.errors import (
        GlomedgeError,
        ImageError,
        ModelError,
        ProviderUnavailableError,
    )
    from glomedge.imaging.enhance import enhance
    from glomedge.model.spec import ModelSpec, Recipe

_MODULE_OF = {
    "Engine": "glomedge.engine.engine",
    "Prediction": "glomedge.engine.predict",
    "load": "glomedge.engine.loading",
    "GlomedgeError": "glomedge.errors",
    "ImageError": "glomedge.errors",
    "ModelError": "glomedge.errors",
    "ProviderUnavailableError": "glomedge.errors",
    "enhance": "glomedge.imaging.enhance",
    "ModelSpec": "glomedge.model.spec",
    "Recipe": "glomedge.model.spec",
}

__all__ = [
    "Engine",
    "GlomedgeError",
    "ImageError",
    "ModelError",
    "ModelSpec",
    "Prediction",
    "ProviderUnavailableError",
    "Recipe",
    "__version__",
    "enhance",
    "load",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'glomedge' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
