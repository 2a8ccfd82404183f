"""Keras networks with realistic statistics, converted once for the whole session."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.model.spec import RecipeName
from helpers.parity_pair import Pair

COUNT = 32


def _pixels(directory: Path | None) -> list[npt.NDArray[np.uint8]]:
    """``COUNT`` decoded crops: of the real data set where it is at hand, drawn ones otherwise."""
    if directory is None:
        from glomedge_export.synthetic.dataset import draw_crop

        rng = np.random.default_rng(3)
        return [np.ascontiguousarray(draw_crop(rng, bool(i % 2), (300, 320))[..., :3]) for i in range(COUNT)]
    from glomedge.imaging import images

    paths = sorted(directory.glob("*globally_sclerotic_glomeruli/*.png"))
    return [images.decode(images.read(paths[i])).pixels_hwc for i in np.linspace(0, len(paths) - 1, COUNT).astype(int)]


@pytest.fixture(scope="session")
def enhanced(request: pytest.FixtureRequest) -> dict[RecipeName, npt.NDArray[np.uint8]]:
    """uint8 ``[32, 224, 224, 3]`` for every recipe."""
    from glomedge.imaging.enhance import enhance

    try:
        directory = request.getfixturevalue("real_data")
    except pytest.skip.Exception:
        directory = None
    pixels = _pixels(directory)
    recipes: tuple[RecipeName, ...] = ("seed", "published", "plain")
    return {recipe: np.stack([enhance(crop, recipe) for crop in pixels]) for recipe in recipes}


@pytest.fixture(scope="session", params=["resnet", "resnet_v2"])
def pair(request: pytest.FixtureRequest, enhanced: dict[RecipeName, npt.NDArray[np.uint8]]) -> Pair:
    """The network in one input scaling, and its conversion."""
    pytest.importorskip("tensorflow", reason="needs the extra glomedge[export]")
    from glomedge_export.graph.convert import convert
    from helpers.keras_networks import realistic_network

    model = realistic_network(request.param, enhanced["seed"][::2])
    return Pair(request.param, model, convert(model).model)
