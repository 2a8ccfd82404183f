"""What a model file says of its network, in plain words: for model card, report, run record and ``glomedge info``."""

from __future__ import annotations

from glomedge.model.spec import ModelSpec

_NAMES = {
    "resnet50v2": "ResNet50V2",
    "resnet50": "ResNet50",
    "inceptionv3": "InceptionV3",
    "densenet121": "DenseNet121",
    "mobilenetv2": "MobileNetV2",
    "efficientnetv2b0": "EfficientNetV2B0",
    "other": "another network",
}
_FORMATS = {
    "keras3": "a Keras 3 file",
    "keras2": "a Keras 2 file",
    "h5": "an .h5 file",
    "savedmodel": "a SavedModel folder",
}


def network(spec: ModelSpec) -> str:
    """The network, its input and its map: ``ResNet50V2, 224 x 224 px, exact activation map of 7 x 7 cells``."""
    side_px = spec.input.side_px
    map_ = "no exact activation map"
    if spec.map_shape is not None:
        map_ = f"exact activation map of {spec.map_cells} x {spec.map_cells} cells"
    return f"{_NAMES.get(spec.backbone, spec.backbone)}, {side_px} x {side_px} px, {map_}"


def source(spec: ModelSpec) -> str | None:
    """Where a model that glomedge did not train comes from, in one sentence; None for glomedge's own."""
    if spec.source is None:
        return None
    told = [f"recipe {spec.source.recipe_from}", f"input scaling {spec.source.scaling_from}"]
    if spec.source.class_order_from == "given":
        told.append("class order given")
    file = f"{_FORMATS[spec.source.file_format]}, read by {spec.source.framework}, SHA-256 {spec.source.file_sha256}"
    return f"Not trained by glomedge: exported from {file}; {', '.join(told)}."


def threshold_is_unknown(spec: ModelSpec) -> bool:
    """Whether the spec's threshold is only assumed, because neither the model's file nor its user said it."""
    return spec.source is not None and spec.source.threshold_from == "unknown"


def unknown(spec: ModelSpec) -> str | None:
    """What is not known of the model's decision, in one sentence; None where all is known.

    Of a model that glomedge trained, threshold and temperature come with the training; of another one they are known
    only where they were given or measured at export.
    """
    missing = []
    if threshold_is_unknown(spec):
        missing.append(f"its decision threshold ({spec.threshold:g} is assumed)")
    if spec.source is not None and spec.source.temperature_from == "unknown":
        missing.append("its temperature (probabilities are not calibrated)")
    if spec.operating_point is None:
        missing.append("its sensitivity and specificity (no percentage is corrected for them)")
    if not missing:
        return None
    listed = missing[0] if len(missing) == 1 else f"{', '.join(missing[:-1])} and {missing[-1]}"
    return f"Not known of this model: {listed}."
