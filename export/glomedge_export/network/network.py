"""The network: Keras ResNet50V2 without its top, partly frozen, with augmentation and scaling inside the model.

    images [N, 224, 224, 3] RGB, enhanced, 0..255
      -> horizontal flip -> vertical flip -> rotation (0.15 turn)     only while training
      -> RgbScaling ("resnet" or "resnet_v2")
      -> resnet50v2 (190 layers, the first 140 frozen, called with training=False)
      -> GlobalAveragePooling2D -> Dropout(0.3) -> Dense(1, sigmoid)

``training=False`` keeps every BatchNormalization on its moving statistics, so a small batch cannot disturb them
(the fine-tuning advice of the Keras transfer-learning guide).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.errors import ModelError
from glomedge.model.scaling import IMAGENET_MEAN_BGR
from glomedge.model.spec import SIZE_PX, ComputeDtype, InputScaling
from glomedge_export.frameworks import keras, layers, ops

BACKBONE_NAME = "resnet50v2"
BACKBONE_LAYERS = 190
FROZEN_LAYERS = 140
DROPOUT_RATE = 0.3
ROTATION_TURNS = 0.15


@keras.saving.register_keras_serializable(package="glomedge")
class RgbScaling(layers.Layer):  # type: ignore[misc]  # keras ships no types
    """``preprocess_input`` as a layer, so that the saved model takes plain RGB pixels.

    Args:
        mode: ``resnet`` is ``keras.applications.resnet.preprocess_input`` (BGR minus the ImageNet means);
            ``resnet_v2`` is ``keras.applications.resnet_v2.preprocess_input`` (``x / 127.5 - 1``).

    Input and output: float32 ``[N, H, W, 3]``; input RGB 0..255.
    """

    def __init__(self, mode: InputScaling = "resnet", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if mode not in ("resnet", "resnet_v2"):
            raise ValueError(f"unknown input scaling {mode!r}: choose resnet or resnet_v2")
        self.mode: InputScaling = mode

    def call(self, images: Any) -> Any:
        """Scale one batch."""
        images = ops.cast(images, self.compute_dtype)
        if self.mode == "resnet":
            return ops.flip(images, axis=-1) - ops.convert_to_tensor(IMAGENET_MEAN_BGR, dtype=self.compute_dtype)
        return images / 127.5 - 1.0

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Unchanged."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """The mode, for serialisation."""
        return {**super().get_config(), "mode": self.mode}


@keras.saving.register_keras_serializable(package="glomedge")
class Augmentation(layers.Layer):  # type: ignore[misc]  # keras ships no types
    """Horizontal flip, vertical flip and rotation, only while training.

    Keras' own random layers augment unless called with ``training=False``: ``model(images)`` would answer about
    a turned crop. This layer augments only when told ``training=True``.

    Args:
        seed: of the random draws; the flips, the rotation use ``seed``, ``seed + 1``, ``seed + 2``.
        turns: the rotation is drawn from ``[-turns, turns]`` of a full turn.

    Input and output: float32 ``[N, H, W, 3]``.
    """

    def __init__(self, seed: int = 42, turns: float = ROTATION_TURNS, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.seed = seed
        self.turns = turns
        self.flip_horizontal = layers.RandomFlip("horizontal", seed=seed)
        self.flip_vertical = layers.RandomFlip("vertical", seed=seed + 1)
        # Reflected borders: tissue continues beyond the crop, and black corners would reveal the rotation.
        self.rotation = layers.RandomRotation(turns, fill_mode="reflect", seed=seed + 2)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Build the three layers (they hold no weights, only the state of their random draws)."""
        for layer in (self.flip_horizontal, self.flip_vertical, self.rotation):
            layer.build(input_shape)
        super().build(input_shape)

    def call(self, images: Any, training: bool = False) -> Any:
        """Augment one batch, each crop by its own draw."""
        if not training:
            return images
        images = self.flip_vertical(self.flip_horizontal(images, training=True), training=True)
        return self.rotation(images, training=True)

    def compute_output_shape(self, input_shape: tuple[int | None, ...]) -> tuple[int | None, ...]:
        """Unchanged."""
        return input_shape

    def get_config(self) -> dict[str, Any]:
        """Seed and turns, for serialisation."""
        return {**super().get_config(), "seed": self.seed, "turns": self.turns}


@dataclass(frozen=True)
class InferenceParts:
    """What export needs of a trained model.

    Attributes:
        input_scaling: mode of the RgbScaling layer.
        backbone: the ResNet50V2, a keras.Model from scaled ``[N, 224, 224, 3]`` to ``[N, 7, 7, 2048]``.
        kernel: float32 ``[2048, 1]`` of the dense layer.
        bias: float32 ``[1]`` of the dense layer.
    """

    input_scaling: InputScaling
    backbone: Any
    kernel: npt.NDArray[np.float32]
    bias: npt.NDArray[np.float32]


def new_backbone(side_px: int | None = SIZE_PX) -> Any:
    """An untrained ResNet50V2 without top, all layers trainable; ``side_px`` None takes pictures of any size."""
    backbone = keras.applications.ResNet50V2(include_top=False, weights=None, input_shape=(side_px, side_px, 3))
    if len(backbone.layers) != BACKBONE_LAYERS:
        raise ModelError(
            f"This Keras builds a ResNet50V2 of {len(backbone.layers)} layers, not {BACKBONE_LAYERS}: freezing by "
            "layer number would freeze other layers. Install the versions in constraints.txt."
        )
    return backbone


def freeze(backbone: Any) -> None:
    """Freeze ``layers[:140]``; the rest is trained."""
    for index, layer in enumerate(backbone.layers):
        layer.trainable = index >= FROZEN_LAYERS


def thaw(backbone: Any) -> None:
    """Make every layer trainable, one by one: Keras' ``backbone.trainable = True`` leaves its layers as they are."""
    for layer in backbone.layers:
        layer.trainable = True


def assemble(input_scaling: InputScaling = "resnet", seed: int = 42) -> Any:
    """The whole network with random weights, not compiled.

    The initial weights depend on ``seed`` alone (it reseeds Python, NumPy and TensorFlow).
    """
    keras.utils.set_random_seed(seed)
    images = keras.Input((SIZE_PX, SIZE_PX, 3), dtype="float32", name="images")
    x = Augmentation(seed, name="augmentation")(images)
    x = RgbScaling(input_scaling, name="scaling")(x)
    backbone = new_backbone()
    freeze(backbone)
    x = backbone(x, training=False)
    x = layers.GlobalAveragePooling2D(name="gap")(x)
    x = layers.Dropout(DROPOUT_RATE, seed=seed + 3, name="dropout")(x)
    outputs = layers.Dense(1, activation="sigmoid", name="probability")(x)
    return keras.Model(images, outputs, name="glomedge")


def backbone_of(model: Any) -> Any:
    """The ResNet50V2 inside a model of this network. Raises ModelError where there is none."""
    for layer in model.layers:
        if layer.name == BACKBONE_NAME and hasattr(layer, "layers") and len(layer.layers) == BACKBONE_LAYERS:
            return layer
    raise ModelError(
        "The Keras model is not this network: it has no 190-layer 'resnet50v2' inside. "
        "Train one with: glomedge train DATA"
    )


def split_backbone(backbone: Any) -> tuple[Any, Any]:
    """The backbone as two models that share its layers and weights: frozen trunk and trained tail.

    Residual connections cross the border, so the trunk has several outputs, which are the tail's inputs in the same
    order. ``tail(trunk(x)) == backbone(x)``; training differentiates the tail alone.
    """
    first, second = backbone.layers[:FROZEN_LAYERS], backbone.layers[FROZEN_LAYERS:]
    made_by_trunk = {id(layer.output): layer.output for layer in first}
    crossing: dict[int, Any] = {}
    for layer in second:
        for tensor in _inputs_of(layer):
            if id(tensor) in made_by_trunk:
                crossing[id(tensor)] = tensor
    trunk = keras.Model(backbone.input, list(crossing.values()), name="trunk")
    inputs = [keras.Input(tensor.shape[1:]) for tensor in crossing.values()]
    value = dict(zip(crossing, inputs, strict=True))
    for layer in second:
        arguments = [value[id(tensor)] for tensor in _inputs_of(layer)]
        options = {"training": False} if isinstance(layer, layers.BatchNormalization) else {}
        value[id(layer.output)] = layer(arguments if len(arguments) > 1 else arguments[0], **options)
    return trunk, keras.Model(inputs, value[id(backbone.output)], name="tail")


def _inputs_of(layer: Any) -> list[Any]:
    node = layer._inbound_nodes[0]
    return list(node.input_tensors)


@contextmanager
def computing_in(backbone: Any, dtype: ComputeDtype) -> Iterator[None]:
    """Have the layers of a backbone compute in ``dtype`` inside the block; their variables stay float32.

    For use inside a traced function: what is traced in the block keeps computing so, and nothing outside it changes.
    bfloat16 has the exponents of float32, so no loss scaling is needed; Keras computes BatchNormalization in float32
    all the same.
    """
    before = [(layer, layer.dtype_policy) for layer in backbone.layers]
    policy = keras.DTypePolicy("float32" if dtype == "float32" else "mixed_bfloat16")
    try:
        for layer, _ in before:
            layer.dtype_policy = policy
        yield
    finally:
        for layer, old in before:
            layer.dtype_policy = old


def batch_norms(backbone: Any) -> Iterator[Any]:
    """Every BatchNormalization of the backbone, in the order of the graph."""
    return (layer for layer in backbone.layers if isinstance(layer, layers.BatchNormalization))


def inference_parts(model: Any) -> InferenceParts:
    """Take a trained model apart for export.

    Raises:
        ModelError: a part is missing or has another shape.
    """
    backbone = backbone_of(model)
    scaling = [layer for layer in model.layers if isinstance(layer, RgbScaling)]
    heads = [layer for layer in model.layers if isinstance(layer, layers.Dense)]
    if len(scaling) != 1 or len(heads) != 1:
        raise ModelError(
            "The Keras model is not this network: it must hold one RgbScaling and one Dense layer. "
            "Train one with: glomedge train DATA"
        )
    kernel, bias = (np.asarray(value, np.float32) for value in heads[0].get_weights())
    if kernel.shape != (2048, 1) or bias.shape != (1,):
        raise ModelError(
            f"The Keras model's dense layer has kernel {kernel.shape} and bias {bias.shape}, not (2048, 1) and (1,). "
            "Train a model of this network with: glomedge train DATA"
        )
    return InferenceParts(scaling[0].mode, backbone, kernel, bias)


def load_model(path: Path | str) -> Any:
    """Load a ``.keras`` file of this network with ``safe_mode=True`` (no code in the file is run).

    Raises:
        ModelError: missing, damaged, refused by safe mode, or another network.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"There is no Keras model at {path}. Train one with: glomedge train DATA")
    if path.suffix != ".keras":
        raise ModelError(f"{path} is not a .keras file. Name the model.keras that glomedge train wrote.")
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    # Keras raises whatever its parts raise on a damaged archive: zip, JSON, HDF5, lookup and type errors alike.
    except Exception as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{path} cannot be loaded as a Keras model ({reason}). Copy it again, or train again with: "
            "glomedge train DATA"
        ) from error
    backbone_of(model)
    return model


def parameter_counts(model: Any) -> dict[str, int]:
    """How many numbers are ``trained`` and how many are ``frozen`` (BatchNormalization statistics included)."""

    def count(variables: list[Any]) -> int:
        return int(sum(np.prod(variable.shape) for variable in variables))

    return {"trained": count(model.trainable_weights), "frozen": count(model.non_trainable_weights)}
