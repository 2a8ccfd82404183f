"""Genuine Keras 2 files, and Keras 3's, loaded by their own frameworks: they answer as where they were made."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.errors import MissingExtraError, ModelError
from helpers.keras2_files import ARCHIVES, Genuine
from helpers.paths import ROOT

pytest.importorskip("keras", reason="needs TensorFlow: pip install 'glomedge[export]'")
pytest.importorskip("tf_keras", reason="needs tf_keras: pip install 'glomedge[export]'")
pytestmark = pytest.mark.keras

from glomedge_export.frameworks import keras, layers, tf  # noqa: E402
from glomedge_export.keras_files import load as loading  # noqa: E402
from glomedge_export.keras_files.identify import identify  # noqa: E402
from glomedge_export.keras_files.load import load  # noqa: E402

VERSIONS = [archive.name.removeprefix("keras-").removesuffix(".tar.xz") for archive in ARCHIVES]
SIDE_PX = 32


def _half_precision(model: loading.ForeignModel) -> list[str]:
    graph = model.inference().get_concrete_function().graph
    return [op.type for op in graph.get_operations() if any(out.dtype == tf.float16 for out in op.outputs)]


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("structure", ["published", "published_caffe", "sequential", "head_softmax"])
def test_every_format_answers_as_keras_2_did(genuine: dict[str, Genuine], structure: str, version: str) -> None:
    made = genuine[version]
    expected = made.answers(structure)
    assert np.ptp(expected[:, 0]) > 0.1
    files = made.files(structure)
    assert len(files) >= 2
    for path in files:
        model = load(path)
        assert (model.side_px, model.outputs) == (SIDE_PX, expected.shape[1])
        answers = model.predict(made.images())
        assert answers.dtype == np.float32
        np.testing.assert_allclose(answers, expected, rtol=0, atol=1e-6, err_msg=path.name)
        assert version in model.framework
        assert model.framework.startswith("tensorflow" if path.is_dir() else "tf_keras")


@pytest.mark.parametrize("version", VERSIONS)
def test_mixed_precision_computes_in_float32(genuine: dict[str, Genuine], version: str) -> None:
    made = genuine[version]
    for path in made.files("mixed"):
        model = load(path)
        answers = model.predict(made.images())
        assert answers.dtype == np.float32
        np.testing.assert_allclose(answers, made.answers("mixed"), rtol=0, atol=3e-3)
        if not path.is_dir():
            assert _half_precision(model) == []


def test_the_name_of_a_file_does_not_matter(keras2: Genuine, tmp_path: Path) -> None:
    for source, name in (("published.keras", "a.h5"), ("published.h5", "b")):
        (tmp_path / name).write_bytes((keras2.folder / source).read_bytes())
        answers = load(tmp_path / name).predict(keras2.images())
        np.testing.assert_allclose(answers, keras2.answers("published"), rtol=0, atol=1e-6)


def _network(scaling: Callable[[Any], Any] | None = None, side_px: int | None = SIDE_PX) -> Any:
    keras.utils.set_random_seed(3)
    images = keras.Input((side_px, side_px, 3))
    x = keras.Sequential([layers.RandomFlip("horizontal"), layers.RandomRotation(0.15)])(images)
    x = layers.Conv2D(4, 3, strides=2, activation="relu")(scaling(x) if scaling else layers.Rescaling(1 / 255)(x))
    x = layers.BatchNormalization()(x)
    return keras.Model(images, layers.Dense(1, activation="sigmoid")(layers.GlobalAveragePooling2D()(x)))


@pytest.fixture
def images() -> npt.NDArray[np.float32]:
    return np.random.default_rng(1).uniform(0, 255, (40, SIDE_PX, SIDE_PX, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("scaling", "suffix"),
    [
        (None, ".keras"),
        (None, ".h5"),
        (keras.applications.resnet.preprocess_input, ".keras"),
        (keras.applications.resnet_v2.preprocess_input, ".keras"),
    ],
    ids=["rescaling", "rescaling-h5", "caffe", "tf"],
)
def test_keras_3_files(tmp_path: Path, images: npt.NDArray[np.float32], scaling: Any, suffix: str) -> None:
    network = _network(scaling)
    network.save(tmp_path / f"model{suffix}")
    model = load(tmp_path / f"model{suffix}")
    expected = np.asarray(network(images, training=False))
    # 40 images: more than one batch.
    np.testing.assert_allclose(model.predict(images), expected, rtol=0, atol=1e-6)
    assert model.framework == f"keras {keras.__version__}"
    assert model.predict(images[:0]).shape == (0, 1)


@pytest.mark.parametrize(
    "scaling", [keras.applications.resnet.preprocess_input, keras.applications.resnet_v2.preprocess_input]
)
def test_an_h5_that_keras_3_cannot_read_back(tmp_path: Path, scaling: Any) -> None:
    _network(scaling).save(tmp_path / "model.h5")
    with pytest.raises(ModelError, match=r"cannot read the arithmetic .* as \.keras") as caught:
        load(tmp_path / "model.h5")
    assert len(str(caught.value)) < 500
    # Keras itself fails, too: where it learns to read such files this refusal can go.
    with pytest.raises((ValueError, TypeError)):
        keras.models.load_model(tmp_path / "model.h5", compile=False)


def test_keras_3_mixed_precision(tmp_path: Path, images: npt.NDArray[np.float32]) -> None:
    keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        network = _network()
        network.save(tmp_path / "mixed.keras")
    finally:
        keras.mixed_precision.set_global_policy("float32")
    model = load(tmp_path / "mixed.keras")
    assert _half_precision(model) == []
    expected = np.asarray(network(images, training=False), np.float32)
    np.testing.assert_allclose(model.predict(images), expected, rtol=0, atol=3e-3)


def test_an_export_of_keras_3_with_active_augmentation_is_refused(tmp_path: Path) -> None:
    """Keras 3.15 exports the random layers as they are in training: the file answers differently each time."""
    _network().export(tmp_path / "drawn", verbose=False)
    with pytest.raises(ModelError, match="answers by chance"):
        load(tmp_path / "drawn")


def test_an_export_of_keras_3_without_augmentation(tmp_path: Path, images: npt.NDArray[np.float32]) -> None:
    inputs = keras.Input((SIDE_PX, SIDE_PX, 3))
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(4, 3)(layers.Rescaling(1 / 255)(inputs)))
    network = keras.Model(inputs, layers.Dense(2, activation="softmax")(x))
    network.export(tmp_path / "saved", verbose=False)
    model = load(tmp_path / "saved")
    assert model.outputs == 2
    np.testing.assert_allclose(model.predict(images), np.asarray(network(images)), rtol=0, atol=1e-6)


def test_an_open_side_must_be_given(tmp_path: Path, images: npt.NDArray[np.float32]) -> None:
    network = _network(side_px=None)
    network.save(tmp_path / "open.keras")
    with pytest.raises(ModelError, match="--input-side"):
        load(tmp_path / "open.keras")
    model = load(tmp_path / "open.keras", side_px=SIDE_PX)
    expected = np.asarray(network(images, training=False))
    np.testing.assert_allclose(model.predict(images), expected, rtol=0, atol=1e-6)
    with pytest.raises(ModelError, match="32 to 1024"):
        load(tmp_path / "open.keras", side_px=16)


def test_a_side_that_differs_from_the_files(keras2: Genuine) -> None:
    with pytest.raises(ModelError, match="of 32 px, not 64"):
        load(keras2.folder / "published.h5", side_px=64)


@pytest.mark.parametrize(
    ("shape", "units", "words"),
    [
        ((32, 48, 3), 1, "square RGB"),
        ((32, 32, 1), 1, "square RGB"),
        ((16, 16, 3), 1, "32 to 1024"),
        ((32, 32, 3), 3, "classifiers of two classes"),
    ],
)
def test_other_networks_are_refused(tmp_path: Path, shape: tuple[int, ...], units: int, words: str) -> None:
    inputs = keras.Input(shape)
    keras.Model(inputs, layers.Dense(units)(layers.GlobalAveragePooling2D()(inputs))).save(tmp_path / "a.keras")
    with pytest.raises(ModelError, match=words) as caught:
        load(tmp_path / "a.keras")
    assert len(str(caught.value)) < 500


def test_two_inputs_and_maps_are_refused(tmp_path: Path) -> None:
    first, second = keras.Input((32, 32, 3)), keras.Input((32, 32, 3))
    both = layers.GlobalAveragePooling2D()(layers.Add()([first, second]))
    keras.Model([first, second], layers.Dense(1)(both)).save(tmp_path / "two.keras")
    with pytest.raises(ModelError, match="2 inputs and 1 outputs"):
        load(tmp_path / "two.keras")
    keras.Model(first, layers.Conv2D(1, 1)(first)).save(tmp_path / "map.keras")
    with pytest.raises(ModelError, match="answers with the shape"):
        load(tmp_path / "map.keras")


def test_keras_own_message_is_kept_short(with_config: Callable[..., Path]) -> None:
    def broken(config: dict[str, Any]) -> None:
        config["config"]["layers"][-1]["config"]["units"] = "many"

    for h5 in (False, True):
        with pytest.raises(ModelError, match=r"tf_keras .* cannot load") as caught:
            load(with_config(broken, h5))
        assert len(str(caught.value)) < 500


def test_without_tf_keras_the_extra_is_named(keras2: Genuine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tf_keras", None)
    with pytest.raises(MissingExtraError, match=r"tf_keras.*export"):
        load(keras2.folder / "published.h5")


def test_keras_3_stays_the_keras_of_the_process(keras2: Genuine) -> None:
    """TF_USE_LEGACY_KERAS would make tf.keras of the whole process Keras 2."""
    code = (
        "import sys; sys.path[:0] = ['export']\n"
        "from pathlib import Path\n"
        "from glomedge_export.keras_files.load import load\n"
        "from glomedge_export.frameworks import tf, keras\n"
        "load(Path(sys.argv[1]))\n"
        "assert tf.keras.__version__.startswith('3.'), tf.keras.__version__\n"
        "assert keras.Sequential is tf.keras.Sequential\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TF_USE_LEGACY_KERAS"}
    done = subprocess.run(
        [sys.executable, "-c", code, str(keras2.folder / "published.keras")],
        capture_output=True, text=True, cwd=ROOT, check=False, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_a_damaged_archive_of_keras_2_12(genuine: dict[str, Genuine], tmp_path: Path) -> None:
    data = bytearray((genuine["2.12.0"].folder / "sequential_v3.keras").read_bytes())
    at = data.index(b"\x89HDF")
    data[at + 200 : at + 3000] = bytes(2800)
    path = tmp_path / "damaged.keras"
    path.write_bytes(bytes(data))
    with pytest.raises(ModelError, match="damaged"):
        load(path)
    assert identify(path).keras_version == "2.12.0"
