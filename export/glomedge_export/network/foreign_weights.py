"""The backbone's weights out of a Keras file that glomedge did not write, whatever Keras and form it has."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from glomedge.errors import ModelError
from glomedge_export.keras_files.identify import KerasFile
from glomedge_export.keras_files.load import open_model
from glomedge_export.keras_files.reading import shown
from glomedge_export.keras_files.saved_graph import SIGNATURE

Shapes = list[tuple[int, ...]]
# What Keras appends to a name that is taken.
_SUFFIX = re.compile(r"_\d+$")
_ORDER = ("kernel", "depthwise_kernel", "pointwise_kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")


@dataclass(frozen=True)
class LayerWeights:
    """The arrays of one layer, in Keras' order (kernel, bias; gamma, beta, moving mean, moving variance)."""

    name: str
    arrays: list[npt.NDArray[Any]]

    @property
    def shapes(self) -> Shapes:
        """Of the arrays."""
        return [array.shape for array in self.arrays]


def weights_in(file: KerasFile) -> list[LayerWeights]:
    """Every layer that has weights, in the order of the model, those of nested models among them.

    Args:
        file: one that ``safety.check`` has passed.

    Raises:
        ModelError: its framework cannot load it, or its variables do not say which layers they belong to.
    """
    model, _ = open_model(file)
    if file.file_format == "savedmodel":
        return _by_variable_name(file, _variables(model))
    return [
        LayerWeights(layer.name, [np.asarray(variable) for variable in layer.weights])
        for layer in model._flatten_layers(include_self=False)
        if layer.weights and not list(layer._flatten_layers(include_self=False))
    ]


def matched(
    wanted: Sequence[tuple[str, Shapes]], found: Sequence[LayerWeights]
) -> tuple[list[LayerWeights], list[str]]:
    """For each wanted layer the found one: by name, by name without Keras' suffix, else all by their order.

    Args:
        wanted: name and shapes of each layer of the backbone that has weights, in its order.
        found: of ``weights_in``.

    Returns:
        The found layers in the order of ``wanted``, and what does not fit, in words; one of the two is empty.
    """
    for key in (lambda name: name, lambda name: _SUFFIX.sub("", name)):
        named: dict[str, list[LayerWeights]] = {}
        for layer in found:
            named.setdefault(key(layer.name), []).append(layer)
        chosen = [named.get(name, []) for name, _ in wanted]
        if all(len(layers) == 1 for layers in chosen):
            layers = [layer for (layer,) in chosen]
            wrong = [
                f"layer {name} has shapes {layer.shapes} instead of {shapes}"
                for (name, shapes), layer in zip(wanted, layers, strict=True)
                if layer.shapes != shapes
            ]
            return ([], wrong) if wrong else (layers, [])
    in_order, count = [shapes for _, shapes in wanted], len(wanted)
    theirs = [layer.shapes for layer in found]
    starts = [at for at in range(len(theirs) - count + 1) if theirs[at : at + count] == in_order]
    if len(starts) == 1:
        return list(found[starts[0] : starts[0] + count]), []
    names = {layer.name for layer in found} | {_SUFFIX.sub("", layer.name) for layer in found}
    missing = [f"layer {name} is missing" for name, _ in wanted if name not in names]
    return [], missing or ["its layers are neither named nor ordered as those of ResNet50V2"]


def _variables(model: Any) -> Sequence[Any]:
    """Those of a Keras object, else (``tf.saved_model.save``) those that the answer is computed with."""
    if hasattr(model, "variables"):
        return list(model.variables)
    function = model.signatures.get(SIGNATURE)
    return list(function.variables) if function is not None else []


def _by_variable_name(file: KerasFile, variables: Sequence[Any]) -> list[LayerWeights]:
    """A SavedModel keeps variables alone, named ``[model/]layer/variable:0``."""
    # What belongs to no layer is the state of random draws, of which any number may share a name.
    named = [variable for variable in variables if variable.dtype.is_floating and "/" in variable.name]
    names = [variable.name.partition(":")[0] for variable in named]
    if not names or len(set(names)) != len(names):
        raise ModelError(
            f"The variables in the SavedModel {shown(file.path)} do not say which layers they belong to. Save the "
            "model again as one file, model.save('FILE.keras'), and name that with --weights."
        )
    layers: dict[str, dict[str, npt.NDArray[Any]]] = {}
    for name, variable in zip(names, named, strict=True):
        layer, _, kind = name.rpartition("/")
        layers.setdefault(layer, {})[kind] = variable.numpy()
    # The four arrays of a norm have one shape: they are told apart by their names, not by their order in the file.
    return [
        LayerWeights(layer.rpartition("/")[2], [arrays[kind] for kind in sorted(arrays, key=_place)])
        for layer, arrays in layers.items()
    ]


def _place(kind: str) -> int:
    return _ORDER.index(kind) if kind in _ORDER else len(_ORDER)
