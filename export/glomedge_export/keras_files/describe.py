"""What is in a Keras file, in words, read without any framework: for ``glomedge info``."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.errors import MissingExtraError, ModelError
from glomedge_export.keras_files import safety, unfit
from glomedge_export.keras_files.backbones import OTHER, backbone_of
from glomedge_export.keras_files.identify import KerasFile, identify
from glomedge_export.keras_files.layers import CONVOLUTIONS, POOLINGS, Layer, layers_of
from glomedge_export.keras_files.reading import reason, shown
from glomedge_export.keras_files.saved_graph import answer_operations, keras_metadata, read_saved_graph
from glomedge_export.keras_files.scaling import is_augmentation, scaling_of

Head = Literal["sigmoid", "softmax", "linear", "other"]
_ACTIVATIONS = ("sigmoid", "softmax", "linear")
# What a stranger's configuration can make of reading it.
_UNREADABLE = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class Description:
    """A Keras file in words. What the file does not say is None.

    Attributes:
        file: what was identified.
        size_bytes: of the file, or of the folder's files.
        tensorflow: version that wrote a SavedModel.
        side_px: of the square input.
        layers: how many, nested ones included.
        augmentation: layers that change images in training only.
        scaling: name of the pixel scaling inside the model, ``affine`` for another one, ``unreadable``.
        backbone: the network by its name in ``keras.applications``, or ``other``.
        nested: whether the backbone is a model within the model.
        mixed: whether it was saved in mixed precision.
        head: the layers from the pooling on.
        outputs: how many numbers it answers with.
        activation: of the last layer.
        own: whether glomedge trained it.
        refused: why glomedge does not load it; None if it does.
        unchecked: what could not be checked here for want of a package.
        unfit: why export refuses it although it is safe; None if nothing that is shown here says so.
    """

    file: KerasFile
    size_bytes: int
    tensorflow: str | None = None
    side_px: int | None = None
    layers: int | None = None
    augmentation: tuple[str, ...] = ()
    scaling: str | None = None
    backbone: str = OTHER
    nested: bool = False
    mixed: bool = False
    head: tuple[str, ...] = ()
    outputs: int | None = None
    activation: Head | None = None
    own: bool = False
    refused: str | None = None
    unchecked: str | None = None
    unfit: str | None = None

    def command(self) -> str | None:
        """The export command that the file needs, with the choices still to be made; None where it is refused."""
        if self.refused is not None or self.unfit is not None:
            return None
        words = ["glomedge export", shlex.quote(str(self.file.path))]
        if not self.own:
            words.append("--recipe seed|published|plain")
            if self.scaling is None and self.layers is not None:
                words.append("--input-scaling resnet|resnet_v2|torch|unit|none")
            if self.activation == "linear":
                words.append("--logits")
            if self.outputs == 2:
                words.append("--positive-class 0|1")
            if self.side_px is None:
                words.append("--input-side PX")
        return " ".join(words)

    def as_json(self) -> dict[str, Any]:
        """Plain values, for ``--json``."""
        return {
            "file": {
                "path": str(self.file.path),
                "format": self.file.file_format,
                "size_bytes": self.size_bytes,
                "sha256": self.file.sha256,
            },
            "keras_version": self.file.keras_version,
            "tensorflow_version": self.tensorflow,
            "input_side_px": self.side_px,
            "layers": self.layers,
            "augmentation": list(self.augmentation),
            "input_scaling": self.scaling,
            "backbone": {"name": self.backbone, "nested": self.nested},
            "mixed_precision": self.mixed,
            "head": list(self.head),
            "outputs": self.outputs,
            "activation": self.activation,
            "trained_by_glomedge": self.own,
            "refused": self.refused,
            "unchecked": self.unchecked,
            "unfit": self.unfit,
            "export_command": self.command(),
            "notice": RESEARCH_USE_NOTICE,
        }


def describe(path: Path) -> Description:
    """Identify, check and read a Keras file.

    Raises:
        ModelError: no Keras file, or a damaged one. An unsafe one is described, and the reason is in ``refused``.
        MissingExtraError: an HDF5 file, and h5py is not installed.
    """
    file = identify(path)
    refused = unchecked = None
    try:
        safety.check(file)
    except ModelError as error:
        refused = str(error)
    except MissingExtraError:
        # The configuration is what names programs; the weights of an archive are HDF5.
        unchecked = "the weights: h5py is not installed here"
        try:
            safety.check_config(file)
        except ModelError as error:
            refused = str(error)
    sizes = [part.stat().st_size for part in (path.rglob("*") if path.is_dir() else [path]) if part.is_file()]
    facts: dict[str, Any] = {"size_bytes": sum(sizes), "refused": refused, "unchecked": unchecked}
    facts["own"] = safety.is_own(file)
    config = file.config
    if file.file_format == "savedmodel":
        graph = read_saved_graph(path)
        facts |= {"tensorflow": graph.tensorflow_version or None, "side_px": _side(graph.input_shape)}
        config = keras_metadata(path).get("model_config")
        facts["unfit"] = unfit.unfit_graph(shown(path), graph.input_shape, _is_mixed(config))
        if not isinstance(config, dict):
            return Description(file, **facts, **_from_operations(answer_operations(graph)))
    try:
        found = _from_config(file, config or {})
    except (*_UNREADABLE, RecursionError) as error:
        if refused is not None:
            return Description(file, **facts)
        raise ModelError(
            f"The configuration in {shown(path)} is not as Keras writes it ({type(error).__name__}: {reason(error)}). "
            "Save the model again: model.save('FILE.keras')"
        ) from error
    return Description(file, **(found | {key: value for key, value in facts.items() if value is not None}))


def _from_operations(operations: set[str]) -> dict[str, Any]:
    """Of a SavedModel without a configuration the graph shows the answer's activation alone."""
    kinds: dict[str, Head] = {"Softmax": "softmax", "Sigmoid": "sigmoid"}
    found = [head for operation, head in kinds.items() if operation in operations]
    return {"activation": found[0] if len(found) == 1 else None}


def _from_config(file: KerasFile, config: dict[str, Any]) -> dict[str, Any]:
    layers = layers_of(config)
    convolutions = [layer for layer in layers if layer.kind in CONVOLUTIONS]
    head, outputs, activation = _head(layers)
    try:
        scaling = scaling_of(layers)
    except _UNREADABLE:
        scaling = "unreadable"
    return {
        "side_px": _side(unfit.input_shape(config, layers) or []),
        "layers": len(layers),
        "augmentation": tuple(dict.fromkeys(shown(layer.kind) for layer in layers if is_augmentation(layer))),
        "scaling": scaling,
        "backbone": backbone_of(convolutions),
        "nested": bool(convolutions) and all(layer.inside for layer in convolutions),
        "mixed": _is_mixed(config),
        "head": tuple(head),
        "outputs": outputs,
        "activation": activation,
        "unfit": unfit.unfit_config(file, config, layers),
    }


def _head(layers: list[Layer]) -> tuple[list[str], int | None, Head | None]:
    """The layers after the last convolution from the pooling on; numbers and activation of the answer."""
    last = max((at for at, layer in enumerate(layers) if layer.kind in CONVOLUTIONS), default=-1)
    after = [layer for layer in layers[last + 1 :] if layer.kind != "InputLayer"]
    start = next((at for at, layer in enumerate(after) if layer.kind in POOLINGS), 0)
    dense = [layer for layer in after if layer.kind == "Dense"]
    if not dense:
        return [shown(layer.kind) for layer in after[start:]], None, None
    units = dense[-1].config["units"]
    activation = dense[-1].config.get("activation") or "linear"
    for layer in after[after.index(dense[-1]) + 1 :]:
        if layer.kind == "Activation" or layer.kind.lower() in _ACTIVATIONS:
            activation = layer.config.get("activation", layer.kind.lower())
    named: Head = next((name for name in _ACTIVATIONS if name == activation), "other")  # type: ignore[misc]
    return [_words(layer) for layer in after[start:]], units if isinstance(units, int) else None, named


def _words(layer: Layer) -> str:
    config = layer.config
    if layer.kind == "Dense":
        return f"Dense({shown(config['units'])}, {shown(config.get('activation') or 'linear')})"
    if layer.kind == "Dropout":
        return f"Dropout({shown(config['rate'])})"
    return shown(config["activation"] if layer.kind == "Activation" else layer.kind)


def _side(shape: list[Any]) -> int | None:
    if len(shape) == 4 and isinstance(shape[1], int) and shape[1] == shape[2] and shape[1] > 0:
        return shape[1]
    return None


def _is_mixed(value: Any) -> bool:
    if isinstance(value, dict | list):
        return any(_is_mixed(item) for item in (value.values() if isinstance(value, dict) else value))
    return value in ("mixed_float16", "mixed_bfloat16")


def in_rows(found: Description) -> list[tuple[str, str]]:
    """The description as about ten lines: what, and its words."""
    file = found.file
    written = f"Keras {shown(file.keras_version)}" if file.keras_version else "Keras unknown"
    if found.tensorflow:
        written += f", TensorFlow {shown(found.tensorflow)}"
    kinds = {"keras3": ".keras", "keras2": ".keras", "h5": "HDF5", "savedmodel": "SavedModel folder"}
    rows = [
        ("file", f"{shown(file.path)}, {found.size_bytes / 1e6:.1f} MB, {kinds[file.file_format]} of {written}"),
        ("sha256", file.sha256),
    ]
    unknown = "the file does not say" if found.layers is not None else "not shown in this file; export reads the graph"
    side = f"[N, {found.side_px}, {found.side_px}, 3]" if found.side_px else "no fixed square side"
    rows.append(("input", side))
    if found.augmentation:
        rows.append(("augmentation", f"{', '.join(found.augmentation)}: in training only, dropped at export"))
    rows.append(("scaling", _scaling_words(found, unknown)))
    nested = ", a model within the model" if found.nested else ""
    count = f"; {found.layers} layers in all" if found.layers is not None else ""
    rows.append(("backbone", f"{found.backbone}{nested}{count}" if found.layers is not None else unknown))
    rows.append(("head", f"{', '.join(found.head)}" if found.head else unknown))
    if found.mixed:
        rows.append(("precision", "mixed; exported in float32"))
    checked = f"; not checked: {found.unchecked}" if found.unchecked else ""
    rows.append(("safety", found.refused or f"names only what computes{checked}"))
    rows.append(("export", found.command() or (f"refused: {found.unfit}" if found.unfit else "refused")))
    return rows


def _scaling_words(found: Description, unknown: str) -> str:
    if found.scaling == "unreadable":
        return "not readable from the configuration; export reads it off the graph"
    if found.scaling is not None:
        return f"{shown(found.scaling)}, found in the model"
    return unknown if found.layers is None else "none in the model: --input-scaling says what was done before it"
