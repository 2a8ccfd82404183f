"""Whether a configuration of Keras 2 can be built at all: tf_keras waits without end where it cannot.

Its ``reconstruct_from_config`` calls a layer as soon as the calls that it depends on were made, and tries again while
any is left ("this may lead to infinite loops for malformed network configurations"). The same is done here with
numbers alone, and ends. Keras 3 notices by itself. Sizes that no classifier has are refused before memory is taken.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

_MAX_SIZE = 1 << 17
_SIZES = (
    *("units", "filters", "kernel_size", "strides", "padding", "cropping", "pool_size", "size", "n", "target_shape"),
    *("height", "width", "depth_multiplier", "groups", "dilation_rate"),
    *("batch_input_shape", "batch_shape", "input_shape"),
)


def wrong_wiring(config: dict[str, Any], is_keras3: bool) -> str | None:
    """What keeps a configuration from being built, in words; None where nothing is found.

    Args:
        config: of the whole model.
        is_keras3: whether Keras 3 wrote it, whose calls are written in another way and checked by Keras itself.

    What is not as Keras writes it in other ways is left to the framework, which says so.
    """
    waiting: list[Any] = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value
        elif isinstance(value, dict):
            waiting += value.values()
            inner = value.get("config")
            if "class_name" in value and isinstance(inner, dict):
                large = next((key for key in _SIZES if _largest(inner.get(key)) > _MAX_SIZE), None)
                if large is not None:
                    return f"a layer whose {large} no classifier has"
                layers = inner.get("layers")
                is_graph = isinstance(layers, list) and "input_layers" in inner
                if is_graph and not is_keras3 and not _ends(layers):
                    return "layers that wait for each other, or for a call that is never made"
    return None


def _ends(layers: Any) -> bool:
    known = {_name(layer): layer for layer in layers if isinstance(layer, dict)}
    left = {name: _calls(layer) for name, layer in known.items()}
    first = {name: _first_call(layer) for name, layer in known.items()}
    made = dict(first)

    def is_made(name: Any, call: Any) -> bool:
        if known[name].get("class_name") == "InputLayer":
            return True
        return isinstance(call, int) and first[name] <= call < made[name]

    progress = True
    while progress:
        progress = False
        for name, calls in left.items():
            while calls and all(is_made(*use) for use in _uses(calls[0], known)):
                calls.pop(0)
                made[name] += 1
                progress = True
    return not any(left.values())


def _name(layer: dict[str, Any]) -> str:
    inner = layer.get("config")
    return str(layer.get("name", inner.get("name") if isinstance(inner, dict) else None))


def _calls(layer: dict[str, Any]) -> list[Any]:
    calls = layer.get("inbound_nodes")
    return list(calls) if isinstance(calls, list) else []


def _first_call(layer: dict[str, Any]) -> int:
    """A nested model was called once when it was made, on its own inputs; that call is not in the configuration."""
    inner = layer.get("config")
    layers = inner.get("layers") if isinstance(inner, dict) else None
    if not isinstance(layers, list) or not layers or not isinstance(layers[0], dict):
        return 0
    begins = layers[0].get("config")
    shaped = isinstance(begins, dict) and "batch_input_shape" in begins
    return int(layers[0].get("class_name") == "InputLayer" or shaped)


def _uses(call: Any, known: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """The calls of other layers that one call depends on: lists of name, call, output, and perhaps arguments."""
    waiting = [call]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.values()
        elif isinstance(value, list):
            if len(value) in (3, 4) and isinstance(value[0], str) and value[0] in known:
                yield value[0], value[1]
            waiting += [item for item in value if isinstance(item, dict | list)]


def _largest(value: Any) -> float:
    if isinstance(value, list):
        return max((_largest(item) for item in value), default=0)
    return abs(value) if isinstance(value, int | float) else 0
