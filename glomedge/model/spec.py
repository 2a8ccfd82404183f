"""ModelSpec: everything a runner must know about a model, carried inside the ``.onnx`` file.

It is JSON under the ONNX metadata key ``glomedge`` (``model/file.py`` writes it and seals the file). All classes are
frozen and refuse unknown keys: a file made by a newer glomedge is refused rather than partly understood.
"""

from __future__ import annotations

import base64
import zlib
from typing import Annotated, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.errors import ModelError

SIZE_PX = 224
MAP_SIZE = 7

RecipeName = Literal["seed", "published", "plain"]
InputScaling = Literal["resnet", "resnet_v2"]
Precision = Literal["fp32", "fp16", "int8"]
Target = Literal["any", "onnxruntime", "tensorrt", "openvino"]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Frozen(BaseModel):
    """Immutable, strict about keys and about numbers (no NaN, no Inf)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Recipe(Frozen):
    """The colour enhancement, from decoded RGB to what the network sees (``imaging.enhance.enhance``).

    ``seed`` and ``plain`` differ only in these parameters; ``published`` is another sequence of steps
    (docs/preprocessing.md) of which only ``saturation_factor`` is a parameter.
    """

    name: RecipeName = "seed"
    size_px: Literal[224] = 224
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
    """What crosses to the device: uint8, ``[N, 224, 224, 3]``, RGB, already enhanced."""

    name: Literal["images"] = "images"
    layout: Literal["NHWC"] = "NHWC"
    channel_order: Literal["RGB"] = "RGB"
    dtype: Literal["uint8"] = "uint8"
    height_px: Literal[224] = 224
    width_px: Literal[224] = 224


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


class TrainingProvenance(Frozen):
    """Where the weights come from."""

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
    threshold_rule: str = "0.5"
    metrics: dict[str, Interval]
    package_versions: dict[str, str]
    git_commit: str | None = None


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

    ``pixels_zlib_base64`` holds the uint8 ``[224, 224, 3]`` RGB result of ``enhance`` at export.
    """

    seed: int
    pixels_zlib_base64: str
    probability: Probability
    pixel_tolerance: int = Field(ge=0, le=255)
    probability_tolerance: float = Field(gt=0.0, le=0.5)

    def pixels(self) -> npt.NDArray[np.uint8]:
        """The enhanced pixels, uint8 ``[224, 224, 3]``. Raises ModelError when they cannot be unpacked."""
        size = SIZE_PX * SIZE_PX * 3
        try:
            # max_length: a damaged or hostile string must not inflate without bound.
            raw = zlib.decompressobj().decompress(base64.b64decode(self.pixels_zlib_base64, validate=True), size)
        except (ValueError, zlib.error) as error:
            raise ModelError(f"The golden self-test inside the model is damaged ({error}). Export it again.") from error
        if len(raw) != size:
            raise ModelError("The golden self-test inside the model has the wrong size. Export the model again.")
        return np.frombuffer(raw, np.uint8).reshape(SIZE_PX, SIZE_PX, 3)

    @staticmethod
    def pack(pixels: npt.NDArray[np.uint8]) -> str:
        """Inverse of ``pixels``."""
        return base64.b64encode(zlib.compress(pixels.tobytes(), 9)).decode("ascii")


class ModelSpec(Frozen):
    """The contract between export and every runner."""

    schema_version: Literal[1] = 1
    producer: str
    created_utc: str
    notice: str = RESEARCH_USE_NOTICE
    class_names: tuple[str, str] = ("non-globally sclerotic", "globally sclerotic")
    threshold: float = Field(default=0.5, gt=0.0, lt=1.0)
    temperature: float = Field(default=1.0, gt=0.0, le=100.0)
    input: InputSpec = InputSpec()
    recipe: Recipe
    input_scaling: InputScaling
    precision: Precision = "fp32"
    target: Target = "any"
    opset: int
    batch_profile: BatchProfile = BatchProfile()
    weights_sha256: Sha256
    multiply_adds: int = Field(ge=0)
    training: TrainingProvenance | None = None
    operating_point: OperatingPoint | None = None
    calibration: Calibration | None = None
    parity: Parity | None = None
    golden: Golden

    def to_json(self) -> str:
        """Compact JSON, the text under the ONNX metadata key ``glomedge``."""
        return self.model_dump_json()

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
