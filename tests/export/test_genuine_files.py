"""Genuine Keras 2 files, every structure in every format: the graph made of each says what its author's Keras said."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.errors import ModelError
from glomedge_export.export_source.foreign import load_foreign
from glomedge_export.export_source.source import Said
from glomedge_export.graph.anatomy import Choices
from glomedge_export.graph.run import OnnxRunner
from glomedge_export.keras_files.load import load
from helpers.keras2_files import ARCHIVES, Genuine, unpack

pytest.importorskip("keras", reason="needs TensorFlow: pip install 'glomedge[export]'")
pytest.importorskip("tf_keras", reason="needs tf_keras: pip install 'glomedge[export]'")
pytestmark = pytest.mark.keras

VERSIONS = [archive.name.removeprefix("keras-").removesuffix(".tar.xz") for archive in ARCHIVES]
# Structure -> the scaling that is found in it.
STRUCTURES = {
    "published": "resnet_v2",
    "published_caffe": "resnet",
    "sequential": "resnet_v2",
    "head_softmax": "resnet_v2",
}


@pytest.fixture(scope="module")
def genuine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Genuine]:
    """By Keras version."""
    return {found.version: found for found in unpack(tmp_path_factory.mktemp("genuine"))}


def answer_of(path: Path, scaling: str, images: npt.NDArray[np.float32], positive: int) -> npt.NDArray[np.float32]:
    """Probability of the graph that export makes, without a word but what no file says."""
    source = load_foreign(path, Said("plain", Choices(positive_class=1 if positive else None)))
    assert f"scaling {scaling}: found in the model" in source.found
    made = source.convert()
    assert made.map_cells is not None
    assert made.input_scaling == scaling
    return OnnxRunner(made.model.SerializeToString())(images.astype(np.uint8))[0]


# Every structure of the last Keras 2, and the published one of each: a file takes some seconds.
MATRIX = [(v, s) for v in VERSIONS for s in STRUCTURES if v == VERSIONS[-1] or s == "published"]


@pytest.mark.parametrize(("version", "structure"), MATRIX)
def test_a_file_of_keras_2_says_what_its_author_saw(genuine: dict[str, Genuine], structure: str, version: str) -> None:
    made = genuine[version]
    expected = made.answers(structure)
    files = made.files(structure)
    assert len(files) >= 2
    for path in files:
        answer = answer_of(path, STRUCTURES[structure], made.images(), expected.shape[1] - 1)
        np.testing.assert_allclose(answer, expected[:, -1], rtol=0, atol=1e-5, err_msg=path.name)


def test_mixed_precision_is_exported_in_float32(genuine: dict[str, Genuine]) -> None:
    made = genuine[VERSIONS[-1]]
    for path in made.files("mixed"):
        if path.is_dir():
            with pytest.raises(ModelError, match=r"Save it as \.keras or \.h5"):
                load_foreign(path, Said("plain"))
            continue
        answer = answer_of(path, "resnet_v2", made.images(), 0)
        np.testing.assert_allclose(answer, load(path).predict(made.images())[:, 0], rtol=0, atol=1e-5)
        # What its author saw was computed in float16.
        np.testing.assert_allclose(answer, made.answers("mixed")[:, 0], rtol=0, atol=3e-3)
