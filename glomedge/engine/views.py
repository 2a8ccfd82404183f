"""From enhanced crops to probabilities: one view of each crop, or the mean over eight."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]


class InferOutput(Protocol):
    """What an engine returns (``engine.engine.Output``)."""

    @property
    def probability(self) -> npt.NDArray[np.float32]: ...
    @property
    def activation(self) -> npt.NDArray[np.float32] | None: ...


class Infer(Protocol):
    """The part of ``engine.engine.Engine`` that the pipeline needs; called from several threads at once."""

    def infer(self, images_nhwc: Pixels, /) -> InferOutput:
        """uint8 ``[N, side, side, 3]`` to probabilities ``[N]`` and maps ``[N, cells, cells]``, None without a map."""
        ...


def shortest(value: np.float32) -> float:
    """The float whose shortest decimal is that of the float32: ``0.1``, not ``0.10000000149``."""
    return float(str(value))


def fault_of(probability: float, activation: npt.NDArray[np.float32] | None) -> str | None:
    """What is wrong with one answer, its float32 ``[cells, cells]`` map included; None where nothing is.

    A float32 sigmoid cannot leave 0..1, so there is no tolerance: a value outside was not computed by that network.
    """
    if not 0.0 <= probability <= 1.0:  # also catches NaN
        answered = shortest(np.float32(probability))
        return f"The network returned {answered}, which is not a probability. Check the model: glomedge doctor"
    # Once a crop: ``ndarray.all`` costs more, for it goes through Python.
    if activation is not None and b"\0" in np.isfinite(activation).tobytes():
        return "The network returned a map with values that are not finite. Check the model: glomedge doctor"
    return None


def predict_views(
    engine: Infer, images_nhwc: Pixels, views: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32] | None, npt.NDArray[np.float32] | None]:
    """Probability ``[N]``, disagreement ``[N]`` and maps ``[N, cells, cells]``, all float32.

    Disagreement is the largest minus the smallest probability over the views, None for one view. With 8 views
    the probability is the mean over the four quarter turns of the crop and of its mirror image, and the map is the mean
    of the maps turned back. Its mean is that of the eight logits, and its cells are placed differently from those of
    one view: see ``reports.cell_grid``. No maps where the network has none.
    """
    if views == 1:
        output = engine.infer(images_nhwc)
        return output.probability, None, output.activation
    probabilities, maps = [], []
    for mirrored in (False, True):
        source = images_nhwc[:, :, ::-1] if mirrored else images_nhwc
        for turns in range(4):
            output = engine.infer(np.ascontiguousarray(np.rot90(source, turns, axes=(1, 2))))
            probabilities.append(output.probability)
            if output.activation is not None:
                back = np.rot90(output.activation, -turns, axes=(1, 2))
                maps.append(back[:, :, ::-1] if mirrored else back)
    stacked = np.stack(probabilities).astype(np.float64)
    spread = (stacked.max(axis=0) - stacked.min(axis=0)).astype(np.float32)
    activation = np.stack(maps).astype(np.float64).mean(axis=0).astype(np.float32) if maps else None
    return stacked.mean(axis=0).astype(np.float32), spread, activation
