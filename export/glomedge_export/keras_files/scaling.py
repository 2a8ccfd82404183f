"""What a configuration does to the pixels before its first convolution, as one factor and one summand a channel.

For showing only: export reads the scaling off the converted graph.
"""

from __future__ import annotations

import math
from typing import Any, Literal

from glomedge.model.scaling import Scaling
from glomedge.model.spec import Affine
from glomedge_export.keras_files.layers import CONVOLUTIONS, Layer

_SHAPING = frozenset({"InputLayer", "ZeroPadding2D", "Identity", "Dropout", "GaussianNoise", "Activation"})
_RANDOM = ("Random", "Augmentation")


class _Pixels:
    """``factor * x + summand`` for each channel, and whether the channels are reversed."""

    def __init__(self) -> None:
        self.reversed = False
        self.factor, self.summand = [1.0] * 3, [0.0] * 3
        self.touched = False

    def times(self, value: Any) -> None:
        """Multiply by one number or three."""
        self.touched = True
        for channel, number in enumerate(_three(value)):
            self.factor[channel] *= number
            self.summand[channel] *= number

    def plus(self, value: Any) -> None:
        """Add one number or three."""
        self.touched = True
        self.summand = [a + b for a, b in zip(self.summand, _three(value), strict=True)]

    def reverse(self) -> None:
        """RGB to BGR."""
        self.touched = True
        self.reversed = not self.reversed
        self.factor.reverse()
        self.summand.reverse()


def is_augmentation(layer: Layer) -> bool:
    """Whether a layer changes images in training and leaves them alone at inference."""
    return layer.kind.startswith(_RANDOM)


def scaling_of(layers: list[Layer]) -> str | None:
    """The scaling's name, ``affine`` for one without a name, ``unreadable``, or None where there is none.

    Raises:
        KeyError, TypeError, ValueError, IndexError, ZeroDivisionError: the configuration is not as Keras writes it.
    """
    pixels = _Pixels()
    for layer in layers:
        if layer.kind in CONVOLUTIONS:
            break
        if layer.kind == "RgbScaling":
            return str(layer.config["mode"])
        if layer.kind in _SHAPING or is_augmentation(layer):
            continue
        if not _apply(layer, pixels):
            return "unreadable"
    else:
        return None
    if not pixels.touched:
        return None
    (f0, f1, f2), (s0, s1, s2) = pixels.factor, pixels.summand
    order: Literal["BGR", "RGB"] = "BGR" if pixels.reversed else "RGB"
    name = Scaling.of(Affine(channel_order=order, scale=(f0, f1, f2), offset=(s0, s1, s2))).name
    return None if name == "none" else name


def _apply(layer: Layer, pixels: _Pixels) -> bool:
    """One layer on the pixels; False for one that is not understood."""
    config = layer.config
    if layer.kind == "Rescaling":
        pixels.times(config["scale"])
        pixels.plus(config.get("offset", 0.0))
    elif layer.kind == "Normalization":
        if config.get("mean") is None or config.get("variance") is None:
            # Learnt by adapt(): the numbers are among the weights.
            pixels.times(math.inf)
        else:
            mean, variance = _three(config["mean"]), _three(config["variance"])
            pixels.plus([-number for number in mean])
            pixels.times([1 / max(math.sqrt(number), 1e-7) for number in variance])
    elif layer.kind in ("TFOpLambda", "SlicingOpLambda"):
        return _apply_tensorflow(str(config["function"]), layer.nodes, pixels)
    elif layer.kind in ("TrueDivide", "Divide", "Subtract", "Multiply", "Add"):
        _arithmetic(layer.kind, _operand(layer.nodes[0]["args"][1]), pixels)
    elif layer.kind == "Stack":
        # resnet.preprocess_input of Keras 3 takes the channels apart and stacks them in the other order.
        pixels.reverse()
    else:
        return layer.kind == "GetItem"
    return True


def _apply_tensorflow(function: str, nodes: Any, pixels: _Pixels) -> bool:
    node = nodes[0]
    arguments = node[3] if isinstance(node[0], str) else node[0][3]
    name = function.rpartition(".")[2]
    if function == "__operators__.getitem":
        *_, last = arguments["slice_spec"]
        if last.get("step") != -1:
            return False
        pixels.reverse()
    elif function == "nn.bias_add":
        pixels.plus(arguments["bias"])
    elif name in ("truediv", "divide", "subtract", "multiply", "add"):
        kind = {"truediv": "Divide", "divide": "Divide"}.get(name, name.capitalize())
        _arithmetic(kind, _operand(arguments["y"]), pixels)
    else:
        return name == "cast"
    return True


def _arithmetic(kind: str, operand: Any, pixels: _Pixels) -> None:
    if kind in ("TrueDivide", "Divide"):
        pixels.times([1 / number for number in _three(operand)])
    elif kind == "Multiply":
        pixels.times(operand)
    elif kind == "Subtract":
        pixels.plus([-number for number in _three(operand)])
    else:
        pixels.plus(operand)


def _operand(value: Any) -> Any:
    return value["config"]["value"] if isinstance(value, dict) else value


def _three(value: Any) -> list[float]:
    while isinstance(value, dict):
        value = value["config"]["value"]
    while isinstance(value, list) and len(value) == 1:
        value = value[0]
    numbers = [float(number) for number in value] if isinstance(value, list) else [float(value)] * 3
    if len(numbers) != 3:
        raise ValueError(f"{len(numbers)} numbers for three channels")
    return numbers
