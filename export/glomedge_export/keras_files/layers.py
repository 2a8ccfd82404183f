"""The layers of a model's configuration in the order of the model, nested models opened."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

CONVOLUTIONS = ("Conv2D", "DepthwiseConv2D", "SeparableConv2D")
POOLINGS = ("GlobalAveragePooling2D", "GlobalAvgPool2D", "GlobalMaxPooling2D", "GlobalMaxPool2D", "Flatten")


@dataclass(frozen=True)
class Layer:
    """One layer, or one operation between layers.

    Attributes:
        kind: its class.
        config: its arguments.
        nodes: what it is applied to, as the configuration has it.
        inside: names of the models that it is nested in, outermost first.
    """

    kind: str
    config: dict[str, Any]
    nodes: Any
    inside: tuple[str, ...]

    @property
    def name(self) -> str:
        """Its name in the model."""
        return str(self.config.get("name", ""))


def layers_of(config: dict[str, Any]) -> list[Layer]:
    """Every layer of a Functional or Sequential configuration.

    Raises:
        KeyError, TypeError, AttributeError: it is not built as Keras builds them.
    """
    return list(_walk(config, ()))


def _walk(config: dict[str, Any], inside: tuple[str, ...]) -> Iterator[Layer]:
    inner = config["config"]
    # Keras 2 wrote a Sequential as a bare list once.
    listed = inner if isinstance(inner, list) else inner["layers"]
    for layer in listed:
        arguments = layer["config"]
        if isinstance(arguments, dict) and "layers" in arguments:
            yield from _walk(layer, (*inside, str(arguments.get("name", layer["class_name"]))))
        else:
            kind = str(layer["class_name"]).rpartition(">")[2]
            yield Layer(kind, dict(arguments), layer.get("inbound_nodes"), inside)
