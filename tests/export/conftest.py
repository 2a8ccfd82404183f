"""What the export tests share: enhanced crops, a tiny network of the same shapes, and one real conversion."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import onnx
import pytest

from glomedge.engine.golden import draw_crop
from glomedge.imaging.enhance import enhance
from helpers.tiny_graphs import tiny_backbone


@pytest.fixture(scope="session")
def crops_nhwc() -> npt.NDArray[np.uint8]:
    """uint8 ``[8, 224, 224, 3]``: enhanced schematic crops, cheap and the same everywhere."""
    return np.stack([enhance(draw_crop(seed)) for seed in range(8)])


@pytest.fixture
def backbone() -> onnx.ModelProto:
    """See ``tiny_backbone``."""
    return tiny_backbone()


@pytest.fixture(scope="session")
def tiny_head() -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Kernel ``[2048, 1]`` and bias ``[1]`` that give logits of order 1."""
    rng = np.random.default_rng(5)
    return rng.normal(0, 0.02, (2048, 1)).astype(np.float32), np.array([-0.3], np.float32)
