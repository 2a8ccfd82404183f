"""ModelSpec: everything a runner must know about a model, carried inside the ``.onnx`` file.

It is JSON under the ONNX metadata key ``glomedge`` (``model/file.py`` writes it and seals the file). All classes are
frozen and refuse unknown keys: a file made by a newer glomedge is refused rather than partly understood.
"""

from __future__ import annotations

import base64
import math
import zlib
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError, model_validator

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.errors import ModelError
from glomedge.model.frozen import Frozen, Sha256
from glomedge.model.site_calibration import SiteCalibration

SIZE_PX = 224
"""Side of the input of this project's own network; another network's is in its spec (``InputSpec.side_px``)."""
MAP_SIZE = 7
"""Cells along one side of its activation map; another network's is in ``ModelSpec.map_cells``."""

MIN_SIDE_PX, MAX_SIDE_PX = 32, 1024
"""Sides of the input that the recipes and runners are made for."""

RecipeName = Literal["seed", "published", "plain"]
InputScaling = Literal["resnet", "resnet_v2", "torch", "unit", "none", "affine"]
SidePx = Annotated[int, Field(ge=MIN_SIDE_PX, le=MAX_SIDE_PX)]
Precision = Literal["fp32", "fp16", "int8"]
Target = Literal["any", "onnxruntime", "tensorrt", "openvino"]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]


class Recipe(Frozen):
    """The colour enhancement, from decoded RGB to what the network sees (``imaging.enhance.enhance``).

    ``seed`` and ``plain`` differ only in these parameters; ``published`` is another sequence of steps
    (docs/preprocessing.md) of which only ``saturation_factor`` is a parameter.
    """

    name: RecipeName = "seed"
    size_px: SidePx = SIZE_PX
    equalise: bool = True
    saturation_factor: float = Field(default=1.5, ge=0.0, le=10.0)
    hue_degrees: float = Field(default=8.0, ge=-180.0, le=180.0)

    @staticmethod
    def named(name: str) -> Recipe:
        """The recipe of that name with its default parameters. Raises ValueError on another name."""
        match name:
            case "seed":
                return Recipe()
            case "published":
                return Recipe(name="published", equalise=True, saturation_factor=1.5, hue_degrees=0.0)
            case "plain":
                return Recipe(name="plain", equalise=False, saturation_factor=1.0, hue_degrees=0.0)
        raise ValueError(f"unknown recipe {name!r}: choose seed, published or plain")


class InputSpec(Frozen):
    """What crosses to the device: uint8, ``[N, side, side, 3]``, RGB, already enhanced."""

    name: Literal["images"] = "images"
    layout: Literal["NHWC"] = "NHWC"
    channel_order: Literal["RGB"] = "RGB"
    dtype: Literal["uint8"] = "uint8"
    height_px: SidePx = SIZE_PX
    width_px: SidePx = SIZE_PX

    @model_validator(mode="after")
    def _square(self) -> InputSpec:
        if self.height_px != self.width_px:
            raise ValueError(f"the input is {self.height_px} x {self.width_px} px, but only square inputs are known")
        return self

    @property
    def side_px(self) -> int:
        """Height and width of the square input."""
        return self.height_px


class Affine(Frozen):
    """An input scaling without a name of its own: ``scale * x + offset`` for each channel, x in 0..255.

    Attributes:
        channel_order: of the result; ``scale`` and ``offset`` are in this order.
        scale: one factor a channel.
        offset: one summand a channel.
    """

    channel_order: Literal["RGB", "BGR"] = "RGB"
    scale: tuple[float, float, float]
    offset: tuple[float, float, float]


class MapPlacement(Frozen):
    """Where the cells of the activation map look, along either axis: cell i at ``first_px + pitch_px * i``.

    Attributes:
        first_px: centre of the first cell's receptive field, in pixels of the input; negative where it lies outside.
        pitch_px: from one centre to the next: the product of the network's strides.
    """

    first_px: float = Field(ge=-MAX_SIDE_PX, le=MAX_SIDE_PX)
    pitch_px: float = Field(gt=0.0, le=MAX_SIDE_PX)


class ModelSource(Frozen):
    """Where a model that glomedge did not train comes from, and who said what its file does not say.

    Attributes:
        file_format: of the file that was exported.
        framework: that made it and answered for it in the parity test, with its version.
        file_sha256: of the file; of a SavedModel folder, of its files' names and contents in order.
        recipe_from, scaling_from, class_order_from, threshold_from, temperature_from: how each was settled.
    """

    file_format: Literal["keras3", "keras2", "h5", "savedmodel"]
    framework: str
    file_sha256: Sha256
    recipe_from: Literal["given", "record"] = "given"
    scaling_from: Literal["found in the model", "given"] = "given"
    class_order_from: Literal["one output", "given"] = "one output"
    threshold_from: Literal["unknown", "given", "measured"] = "unknown"
    temperature_from: Literal["unknown", "measured"] = "unknown"


class BatchProfile(Frozen):
    """The batch sizes an engine is built for (TensorRT's min / opt / max)."""

    min: int = Field(default=1, ge=1)
    opt: int = Field(default=8, ge=1)
    max: int = Field(default=32, ge=1)


class Interval(Frozen):
    """A measured figure with its 95% interval (``low``/``high`` are None where it was not computed)."""

    value: float
    low: float | None = None
    high: float | None = None


class SplitCounts(Frozen):
    """How many crops, positives and biopsies one part of the split holds."""

    crops: int
    positive: int
    cases: int


MIN_MPP, MAX_MPP = 0.05, 2.0
"""Microns per pixel of scanners. A TIFF from an office program says 352.8 (72 dots per inch)."""
Mpp = Annotated[float, Field(ge=MIN_MPP, le=MAX_MPP)]


class TrainingProvenance(Frozen):
    """Where the weights come from.

    Attributes:
        crop_digests: of the crops that the weights, the epoch or the temperature were chosen on (train and validation
            split), packed by ``model.crop_digests``; None in files of earlier versions.
        site: whose slides these were, and so where the counts of the test split hold (``train --site``).
    """

    data_sha256: Sha256
    data_name: str
    split_method: Literal["case", "random", "file"]
    case_pattern: str | None = None
    seed: int
    splits: dict[str, SplitCounts]
    weights: str
    optimizer: str
    learning_rate: float
    batch_size: int
    epochs: int
    best_epoch: int
    class_weight: Literal["none", "balanced"] = "none"
    compute_dtype: Literal["float32", "bfloat16"] = "float32"
    pretrain_epochs: int = 0
    pretrain_window_px: int | None = None
    augment: Literal["standard", "stain"] = "standard"
    threshold_rule: str = "0.5"
    metrics: dict[str, Interval]
    package_versions: dict[str, str]
    git_commit: str | None = None
    crop_digests: str | None = None
    site: str | None = None


class OperatingPoint(Frozen):
    """Sensitivity and specificity at the threshold on held-out crops, as counts (for Rogan-Gladen)."""

    true_positive: int = Field(ge=0)
    false_negative: int = Field(ge=0)
    true_negative: int = Field(ge=0)
    false_positive: int = Field(ge=0)


class Calibration(Frozen):
    """What an int8 file was calibrated on: crops of the training split only."""

    method: Literal["minmax", "entropy", "percentile"]
    crops: int
    cases: int
    names_sha256: Sha256
    names: tuple[str, ...]


class GateLimits(Frozen):
    """The limits that applied to a file; None means the gate was switched off by hand."""

    max_probability_difference: float | None = None
    max_flip_fraction: float | None = None
    max_auroc_loss: float | None = None
    max_grade_change_fraction: float | None = None
    min_map_rank_correlation: float | None = None


class Parity(Frozen):
    """What was measured at export, file against reference, on crops not used for calibration."""

    reference: str
    crops: int
    cases: int
    source: str
    max_probability_difference: float
    mean_probability_difference: float
    probability_spread: float
    flips: int
    max_logit_relative_difference: float | None = None
    auroc_reference: float | None = None
    auroc: float | None = None
    max_percent_gs_shift: float | None = None
    grades_changed: int | None = None
    min_map_rank_correlation: float | None = None
    limits: GateLimits


class Golden(Frozen):
    """The self-test: a crop drawn from ``seed``, its enhanced pixels, the probability it must give.

    ``pixels_zlib_base64`` holds the uint8 ``[side_px, side_px, 3]`` RGB result of ``enhance`` at export.
    """

    seed: int
    side_px: SidePx = SIZE_PX
    pixels_zlib_base64: str
    probability: Probability
    pixel_tolerance: int = Field(ge=0, le=255)
    probability_tolerance: float = Field(gt=0.0, le=0.5)

    def pixels(self) -> npt.NDArray[np.uint8]:
        """The enhanced pixels, uint8 ``[side_px, side_px, 3]``. Raises ModelError when they cannot be unpacked."""
        size = self.side_px * self.side_px * 3
        try:
            # max_length: a damaged or hostile string must not inflate without bound.
            raw = zlib.decompressobj().decompress(base64.b64decode(self.pixels_zlib_base64, validate=True), size)
        except (ValueError, zlib.error) as error:
            raise ModelError(f"The golden self-test inside the model is damaged ({error}). Export it again.") from error
        if len(raw) != size:
            raise ModelError("The golden self-test inside the model has the wrong size. Export the model again.")
        return np.frombuffer(raw, np.uint8).reshape(self.side_px, self.side_px, 3)

    @staticmethod
    def pack(pixels: npt.NDArray[np.uint8]) -> str:
        """Inverse of ``pixels``."""
        return base64.b64encode(zlib.compress(pixels.tobytes(), 9)).decode("ascii")


class ModelSpec(Frozen):
    """The contract between export and every runner.

    Version 2 added what a network other than ResNet50V2 needs: its side, ``backbone``, ``map``, more scalings,
    ``source``. A file of version 1 has none of these fields and reads as the defaults.

    Attributes:
        backbone: the network by its name in ``keras.applications``, in lower case, or ``other``.
        map: ``exact`` where the output ``activation`` exists, whose mean is the logit; ``none`` where it does not.
        map_cells: cells along one side of the activation map, ``[N, map_cells, map_cells]``.
        map_placement: where these cells look; None where that was not worked out (``reports.cell_grid``).
        input_affine: the scaling's numbers where ``input_scaling`` is ``affine``.
        source: of a model that glomedge did not train.
        site: of a file that was recalibrated; then ``threshold`` and ``operating_point`` are that site's.
        mpp: microns per pixel of the crops that it was trained on (``train --mpp``); None where that is not known.
    """

    schema_version: Literal[1, 2] = 2
    producer: str
    created_utc: str
    notice: str = RESEARCH_USE_NOTICE
    class_names: tuple[str, str] = ("non-globally sclerotic", "globally sclerotic")
    threshold: float = Field(default=0.5, gt=0.0, lt=1.0)
    temperature: float = Field(default=1.0, gt=0.0, le=100.0)
    input: InputSpec = InputSpec()
    recipe: Recipe
    input_scaling: InputScaling
    input_affine: Affine | None = None
    backbone: str = Field(default="resnet50v2", pattern=r"^[a-z0-9_.-]{1,64}$")
    map: Literal["exact", "none"] = "exact"
    map_cells: int = Field(default=MAP_SIZE, ge=1, le=1024)
    map_placement: MapPlacement | None = None
    source: ModelSource | None = None
    precision: Precision = "fp32"
    target: Target = "any"
    opset: int
    batch_profile: BatchProfile = BatchProfile()
    weights_sha256: Sha256
    multiply_adds: int = Field(ge=0)
    training: TrainingProvenance | None = None
    operating_point: OperatingPoint | None = None
    site: SiteCalibration | None = None
    calibration: Calibration | None = None
    parity: Parity | None = None
    golden: Golden
    mpp: Mpp | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ModelSpec:
        side_px = self.input.side_px
        if self.recipe.size_px != side_px or self.golden.side_px != side_px:
            raise ValueError(
                f"the input's side is {side_px} px, the recipe's {self.recipe.size_px}, the self-test's "
                f"{self.golden.side_px}"
            )
        if (self.input_scaling == "affine") != (self.input_affine is not None):
            raise ValueError("input_affine belongs to the input scaling 'affine', and to no other")
        if self.map == "none" and self.map_placement is not None:
            raise ValueError("map_placement belongs to an exact map, and this network has none")
        if self.site is not None and self.operating_point is None:
            raise ValueError("a recalibrated model has the operating_point of its site")
        return self

    @property
    def logit_line(self) -> tuple[float, float]:
        """``(a, b)`` of ``probability = sigmoid(a * logit + b)``; ``logit`` is the mean of the activation map."""
        if self.site is None:
            return 1.0 / self.temperature, 0.0
        return self.site.slope / self.temperature, self.site.offset

    def logit_at(self, probability: float) -> float:
        """The mean of the activation map that gives that probability, between 0 and 1."""
        a, b = self.logit_line
        return (math.log(probability / (1.0 - probability)) - b) / a

    @property
    def map_shape(self) -> tuple[int, int] | None:
        """``(map_cells, map_cells)``, the shape of one crop's activation map; None where there is none."""
        return (self.map_cells, self.map_cells) if self.map == "exact" else None

    def to_json(self) -> str:
        """Compact JSON, the text under the ONNX metadata key ``glomedge``; without ``mpp`` where that is not known."""
        return self.model_dump_json(exclude={"mpp"} if self.mpp is None else None)

    @staticmethod
    def from_json(text: str | bytes) -> ModelSpec:
        """Parse and check. Raises ModelError naming the first offending field."""
        try:
            return ModelSpec.model_validate_json(text)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "document"
            raise ModelError(
                f"The spec inside the model is not one this glomedge understands: {where}: {first['msg']}. "
                "Export the model again with this version, or install the version that made it."
            ) from error


ComputeDtype = Literal["float32", "bfloat16"]
