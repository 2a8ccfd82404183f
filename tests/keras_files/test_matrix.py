"""Every structure in every format of Keras 2, and the published network itself: ``make keras2-files`` makes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from helpers.keras2_files import Genuine
from helpers.paths import ROOT

pytest.importorskip("tf_keras", reason="needs tf_keras: pip install 'glomedge[export]'")
pytestmark = [pytest.mark.keras, pytest.mark.slow]

from glomedge_export.keras_files.describe import describe  # noqa: E402
from glomedge_export.keras_files.load import load  # noqa: E402

FOLDER = ROOT / "build" / "keras2"
VERSIONS = ("2.12.1", "2.15.1")
SCALINGS = {
    "published_caffe": "resnet", "flat": None, "nested": None, "normalization": "affine",
}  # fmt: skip
STRUCTURES = (
    "published", "published_caffe", "flat", "nested", "sequential", "pooling_avg", "rescaling", "normalization",
    "head_logit", "head_softmax", "head_hidden", "mixed",
)  # fmt: skip


def made(name: str) -> Genuine:
    """The files of one TensorFlow version, or of the real network (``full``)."""
    found = sorted((FOLDER / name).glob("keras-*"))
    if not found:
        pytest.skip(f"no files of Keras 2 in {FOLDER / name}: run make keras2-files (needs Python 3.11)")
    return Genuine(found[0])


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("structure", STRUCTURES)
def test_loads_and_is_described(version: str, structure: str) -> None:
    genuine = made(version)
    files = genuine.files(structure)
    assert len(files) >= 2
    expected = genuine.answers(structure)
    # Half precision in the file's own framework, float32 here. A probability moves by a quarter of its logit at most.
    tolerance = {"mixed": 3e-3, "head_logit": 8e-6}.get(structure, 2e-6)
    for path in files:
        np.testing.assert_allclose(load(path).predict(genuine.images()), expected, rtol=0, atol=tolerance)
        found = describe(path)
        assert found.refused is None
        # Every other one is exported (test_genuine_files).
        assert (found.unfit is not None) == (structure == "mixed" and path.is_dir())
        assert found.scaling == SCALINGS.get(structure, "resnet_v2")
        assert (found.side_px, found.outputs) == (64, expected.shape[1])
        assert found.activation == {"head_logit": "linear", "head_softmax": "softmax"}.get(structure, "sigmoid")
        assert found.nested == (structure != "flat")


def test_the_real_network(tmp_path: Path) -> None:
    genuine = made("full")
    expected = genuine.answers("published")
    for path in genuine.files("published"):
        # Its seeded weights have a gain that trained ones have not, so rounding shows more.
        np.testing.assert_allclose(load(path).predict(genuine.images()), expected, rtol=0, atol=2e-5)
        found = describe(path)
        assert (found.backbone, found.scaling, found.side_px) == ("resnet50v2", "resnet_v2", 224)


def test_training_starts_from_every_format_of_the_real_network() -> None:
    from glomedge_export.network import network, weights

    files = made("full").files("published")
    model = network.assemble("resnet_v2")
    read = []
    for path in files:
        for variable in model.weights:
            variable.assign(np.full(variable.shape, 0.5, np.float32))
        weights.load_into(model, str(path))
        read.append([np.array(variable) for variable in network.backbone_of(model).weights])
        assert np.asarray(model.get_layer("probability").kernel).max() == 0.5
    for other in read[1:]:
        for first, second in zip(read[0], other, strict=True):
            np.testing.assert_array_equal(first, second)
    assert all(np.ptp(values) > 0 for values in read[0] if values.size > 1 and values.ndim == 4)
