"""What ``glomedge export`` always refuses although it is safe to load, as far as a file shows it without a framework.

Loading refuses by the same sentences; ``glomedge info`` says them at once instead of naming an export command.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from glomedge.model.spec import MAX_SIDE_PX, MIN_SIDE_PX
from glomedge_export.keras_files import allowed, safety
from glomedge_export.keras_files.identify import KerasFile
from glomedge_export.keras_files.layers import Layer
from glomedge_export.keras_files.reading import shown
from glomedge_export.keras_files.saved_graph import SIGNATURE

HEADS = "glomedge takes Dense(1, sigmoid), Dense(2, softmax), or a Dense layer of logits without activation (--logits)"
# They leave the numbers of a Dense layer as many as they are.
_KEEPS_COUNT = frozenset({"Activation", "Softmax", "ReLU", "Dropout", "Identity"})
_ARITHMETIC = frozenset(
    {"Average", "Add", "Subtract", "Multiply", "Maximum", "Minimum", "Divide", "TrueDivide", "Negative", "Rescaling"}
)
_ARITHMETIC_2 = frozenset(
    {"math.add", "math.subtract", "math.multiply", "math.truediv", "math.divide", "math.negative"}
    | {"__operators__.add", "__operators__.subtract", "math.maximum", "math.minimum", "math.reduce_mean"}
)


def unreadable_arithmetic(file: KerasFile) -> str | None:
    """Keras 3 writes arithmetic between layers into ``.h5`` in a way that it cannot read itself."""
    if file.file_format != "h5" or not file.is_keras3:
        return None
    for found in safety.named_objects(file.config):
        # An operation has a name alone; a layer (Add is both) has more.
        inner = found.get("config")
        if found["class_name"] in allowed.KERAS3_OPERATIONS and isinstance(inner, dict) and "trainable" not in inner:
            return (
                f"Keras 3 cannot read the arithmetic between layers ({found['class_name']}) in {shown(file.path)}, an "
                ".h5 that it wrote. Save the model as .keras where it was made: model.save('FILE.keras')"
            )
    return None


def wrong_ends(where: str, inputs: int, outputs: int) -> str | None:
    """A model that is not from one tensor to one."""
    if (inputs, outputs) == (1, 1):
        return None
    return (
        f"{where} has {inputs} inputs and {outputs} outputs: glomedge takes classifiers from one image to one answer."
    )


def wrong_input(where: str, shape: Sequence[int | None]) -> str | None:
    """A shape, with None where it is open, that no square RGB image of a usable size has."""
    if len(shape) != 4 or shape[3] not in (3, None) or (shape[1] != shape[2] and None not in shape[1:3]):
        return (
            f"{where} takes inputs of the shape {shown(list(shape))}: glomedge gives a network square RGB images, [N, "
            "side, side, 3]."
        )
    side = shape[1] or shape[2]
    return None if side is None else wrong_side(where, side)


def wrong_side(where: str, side_px: int) -> str | None:
    """A side that is too small or too large."""
    if MIN_SIDE_PX <= side_px <= MAX_SIDE_PX:
        return None
    return f"{where} has an input of {side_px} px: glomedge takes {MIN_SIDE_PX} to {MAX_SIDE_PX} px."


def wrong_count(where: str, shape: Sequence[Any]) -> str | None:
    """An answer of more or fewer numbers than two classes have."""
    if len(shape) == 2 and shape[1] in (1, 2):
        return None
    return (
        f"{where} answers with the shape {shown(list(shape))}: glomedge takes classifiers of two classes, with one "
        "output (a probability or a logit) or two (softmax)."
    )


def unknown_input(where: str) -> str:
    """A model that was never called."""
    return (
        f"{where} holds a model without a known input. Call it once on a batch of images, and save it again: "
        "model.save('FILE.keras')"
    )


def unfit_graph(where: str, shape: Sequence[int], half: bool) -> str | None:
    """Of a SavedModel: the shape of its input (``SavedGraph.input_shape``), and whether it is in half precision."""
    if not shape:
        return (
            f"The SavedModel {where} has no signature {SIGNATURE!r} that takes one image of a known shape. Save it "
            "again from Keras: model.save(FILE)"
        )
    if half:
        return (
            f"{where} computes in half precision. Save it as .keras or .h5 instead of a SavedModel: those are computed "
            "in float32."
        )
    return wrong_input(where, [None if size < 0 else size for size in shape])


def unfit_config(file: KerasFile, config: dict[str, Any], layers: Sequence[Layer]) -> str | None:
    """Of a configuration: its inputs, outputs and last layers."""
    where, inner = shown(file.path), config["config"]
    ends = inner if isinstance(inner, dict) else {}
    wrong = unreadable_arithmetic(file) or wrong_ends(
        where, _count(ends.get("input_layers")), _count(ends.get("output_layers"))
    )
    if wrong is not None or file.file_format == "savedmodel":
        return wrong or _wrong_answer(where, layers)
    shape = input_shape(config, layers)
    return (unknown_input(where) if shape is None else wrong_input(where, shape)) or _wrong_answer(where, layers)


def input_shape(config: dict[str, Any], layers: Sequence[Layer]) -> list[Any] | None:
    """Of the first layer that names one, or what a Sequential was built for; None where neither is there."""
    for layer in layers:
        for key in ("batch_input_shape", "batch_shape"):
            if layer.config.get(key):
                return list(layer.config[key])
    inner = config["config"]
    built = inner.get("build_input_shape") if isinstance(inner, dict) else None
    return list(built) if isinstance(built, list) and built else None


def _count(ends: Any) -> int:
    """How many tensors ``input_layers`` or ``output_layers`` name: one ``[name, 0, 0]``, or a list of such."""
    return len(ends) if isinstance(ends, list) and ends and not isinstance(ends[0], str) else 1


def _wrong_answer(where: str, layers: Sequence[Layer]) -> str | None:
    at = max((index for index, layer in enumerate(layers) if layer.kind == "Dense"), default=None)
    if at is None:
        return None
    dense, after = layers[at], layers[at + 1 :]
    named = [dense.config.get("activation") or "linear"]
    named += [layer.config.get("activation", layer.kind.lower()) for layer in after if layer.kind in _KEEPS_COUNT]
    activation = next((name for name in reversed(named) if name not in ("linear", "dropout", "identity")), "linear")
    arithmetic = next((layer for layer in after if _is_arithmetic(layer)), None)
    if arithmetic is not None and named[0] in ("sigmoid", "softmax"):
        return (
            f"The last layer of {where} combines probabilities ({shown(arithmetic.kind)} behind {named[0]}), and "
            "glomedge needs the logit of one: save a model that ends in one Dense layer."
        )
    if any(layer.kind not in _KEEPS_COUNT for layer in after):
        return None
    count = dense.config["units"]
    if (wrong := wrong_count(where, (None, count))) is not None:
        return wrong
    usual = {1: "sigmoid", 2: "softmax"}[count]
    if not isinstance(activation, str) or activation in ("linear", usual) or activation not in allowed.FUNCTIONS:
        return None
    return f"{where} ends in {activation} over {count} number{'s' if count > 1 else ''}. {HEADS}."


def _is_arithmetic(layer: Layer) -> bool:
    if layer.kind == "TFOpLambda":
        return layer.config.get("function") in _ARITHMETIC_2
    return layer.kind in _ARITHMETIC
