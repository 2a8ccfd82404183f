"""Loading a Keras file with the framework that fits, after ``identify`` and ``safety``.

Files of Keras 2 go to tf_keras (Keras 2 for today's TensorFlow), files of Keras 3 to Keras, SavedModel folders to
TensorFlow alone: ``tf_keras.models.load_model`` would also run what ``keras_metadata.pb`` holds.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.errors import MissingExtraError, ModelError
from glomedge_export.frameworks import import_tf_keras, keras, tf
from glomedge_export.keras_files import safety, unfit
from glomedge_export.keras_files.copies import to_open
from glomedge_export.keras_files.identify import KerasFile, identify
from glomedge_export.keras_files.reading import refusing, shown
from glomedge_export.keras_files.saved_graph import SIGNATURE, read_saved_graph

_BATCH = 32


@dataclass(frozen=True)
class ForeignModel:
    """A classifier that glomedge did not train, loaded by its own framework.

    Attributes:
        file: what it was loaded from.
        framework: that answers for it, such as ``tf_keras 2.21.0 (file written by keras 2.15.0)``.
        model: ``keras.Model``, ``tf_keras.Model`` or the object of ``tf.saved_model.load``.
        side_px: of its square input.
        outputs: 1 (a probability or a logit) or 2 (one a class).
    """

    file: KerasFile
    framework: str
    model: Any
    side_px: int
    outputs: int

    def inference(self) -> Any:
        """A ``tf.function`` from float32 ``[N, side_px, side_px, 3]`` RGB 0..255 to float32 ``[N, outputs]``.

        Exactly the file's own answer at inference (``training=False``), whatever scaling it holds or lacks.
        """
        call = _signature(self.file, self.model) if self.file.file_format == "savedmodel" else _keras_call(self.model)
        spec = tf.TensorSpec([None, self.side_px, self.side_px, 3], tf.float32)
        return tf.function(lambda images: tf.cast(call(images), tf.float32), input_signature=[spec])

    @cached_property
    def _answer(self) -> Any:
        return self.inference()

    def predict(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """The framework's own answers, float32 ``[N, outputs]``, for float32 ``[N, side_px, side_px, 3]`` 0..255."""
        parts = [
            np.asarray(self._answer(tf.constant(images[at : at + _BATCH], tf.float32)), np.float32)
            for at in range(0, len(images), _BATCH)
        ]
        return np.concatenate(parts) if parts else np.empty((0, self.outputs), np.float32)


def load(path: Path, side_px: int | None = None) -> ForeignModel:
    """Identify, check and load a classifier.

    Args:
        path: ``.keras``, ``.h5`` or SavedModel folder.
        side_px: of the input, only for a model that leaves it open.

    Raises:
        ModelError: no Keras file, unsafe, damaged, or no classifier of one square RGB image.
        MissingExtraError: tf_keras is not installed.
    """
    file = identify(path)
    safety.check(file)
    model, framework = open_model(file)
    if file.file_format == "savedmodel":
        shape, answer = _signature_shapes(file, model)
    else:
        shape, answer = _model_shapes(file, model)
    side = _side(file, shape, side_px)
    _refuse(unfit.wrong_count(shown(path), answer))
    return ForeignModel(file, framework, model, side, int(answer[1] or 0))


def open_model(file: KerasFile) -> tuple[Any, str]:
    """The model inside a file that ``safety.check`` has passed, and the framework that loaded it.

    What was saved in mixed precision computes in float32: its variables are float32, and so is what is exported.
    glomedge's own layers are known where ``glomedge_export.network`` has been imported.

    Raises:
        ModelError: the framework cannot load it.
        MissingExtraError: tf_keras is not installed.
    """
    if file.file_format == "savedmodel":
        return _open_saved_model(file)
    if file.is_keras3:
        module, name = keras, "keras"
    else:
        module, name = _tf_keras(), "tf_keras"
    _refuse(unfit.unreadable_arithmetic(file))
    with tempfile.TemporaryDirectory(prefix="glomedge-") as folder:
        path = to_open(file, Path(folder))
        message = (
            f"{name} {module.__version__} cannot load {shown(file.path)} ({{reason}}). Copy it again, or save the "
            "model again with the Keras that made it: model.save('FILE.keras')"
        )
        with refusing(file.path, message):
            model = module.models.load_model(str(path), compile=False, safe_mode=True)
    written = f"file written by keras {shown(file.keras_version)}" if file.keras_version else "file of unknown version"
    return model, f"{name} {module.__version__}" if file.is_keras3 else f"{name} {module.__version__} ({written})"


def _tf_keras() -> Any:
    try:
        return import_tf_keras()
    except ModuleNotFoundError as error:
        raise MissingExtraError("Loading a file of Keras 2", "tf_keras", "export") from error


def _refuse(wrong: str | None) -> None:
    if wrong is not None:
        raise ModelError(wrong)


def _keras_call(model: Any) -> Callable[[Any], Any]:
    def call(images: Any) -> Any:
        answer = model(tf.cast(images, model.inputs[0].dtype), training=False)
        return answer[0] if isinstance(answer, list | tuple) else answer

    return call


def _model_shapes(file: KerasFile, model: Any) -> tuple[list[int | None], list[int | None]]:
    try:
        inputs, outputs = model.inputs, model.outputs
    except AttributeError:
        inputs = outputs = None
    if inputs is None or outputs is None:
        raise ModelError(unfit.unknown_input(shown(file.path)))
    _refuse(unfit.wrong_ends(shown(file.path), len(inputs), len(outputs)))
    return _shape(inputs[0]), _shape(outputs[0])


def _shape(tensor: Any) -> list[int | None]:
    return [None if size is None else int(size) for size in tuple(tensor.shape)]


def _side(file: KerasFile, shape: list[int | None], given: int | None) -> int:
    where = shown(file.path)
    _refuse(unfit.wrong_input(where, shape))
    said = shape[1] or shape[2]
    if said is None and given is None:
        raise ModelError(f"{where} leaves the side of its input open. Give it in pixels with --input-side PX.")
    if None not in (said, given) and said != given:
        raise ModelError(f"{where} takes inputs of {said} px, not {given}. Omit --input-side.")
    side = said or given or 0
    _refuse(unfit.wrong_side(where, side))
    return side


# --- SavedModel -------------------------------------------------------------------------------------------------------


def _open_saved_model(file: KerasFile) -> tuple[Any, str]:
    message = f"TensorFlow cannot load the SavedModel {shown(file.path)} ({{reason}}). Copy the whole folder again."
    with refusing(file.path, message):
        model = tf.saved_model.load(str(file.path))
    written = f"tensorflow {shown(read_saved_graph(file.path).tensorflow_version)}"
    if file.keras_version is not None:
        written += f", keras {shown(file.keras_version)}"
    return model, f"tensorflow {tf.__version__} (SavedModel written by {written})"


def _signature(file: KerasFile, model: Any) -> Callable[[Any], Any]:
    function = model.signatures[SIGNATURE]
    (name,) = function.structured_input_signature[1]
    (output,) = function.structured_outputs
    dtype = function.structured_input_signature[1][name].dtype
    return lambda images: function(**{name: tf.cast(images, dtype)})[output]


def _signature_shapes(file: KerasFile, model: Any) -> tuple[list[int | None], list[int | None]]:
    where = shown(file.path)
    if SIGNATURE not in model.signatures:
        raise ModelError(
            f"The SavedModel {where} has no signature {SIGNATURE!r}. Save it again from Keras: model.save(FILE)"
        )
    function = model.signatures[SIGNATURE]
    inputs, outputs = function.structured_input_signature[1], function.structured_outputs
    _refuse(unfit.wrong_ends(f"The SavedModel {where}", len(inputs), len(outputs)))
    shapes = [next(iter(group.values())).shape for group in (inputs, outputs)]
    if any(shape.rank is None for shape in shapes):
        raise ModelError(f"The SavedModel {where} does not say the shape of its input. Save it again from Keras.")
    return shapes[0].as_list(), shapes[1].as_list()
