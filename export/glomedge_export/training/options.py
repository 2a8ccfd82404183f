"""Training options. Apart from ``fit`` so that the command line can check them without loading TensorFlow."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from glomedge.errors import UsageError
from glomedge.model.spec import MAX_MPP, MIN_MPP, SIZE_PX, ComputeDtype, InputScaling, Recipe
from glomedge_export.data.split import SplitMethod

OptimizerName = Literal["sgd", "adam"]
Augment = Literal["standard", "stain"]
ClassWeight = Literal["none", "balanced"]
MIN_WINDOW_PX = 64
"""Side of the smallest windows for ``pretrain_window_px``: the network's last map is then 2 x 2."""


@dataclass(frozen=True)
class FitOptions:
    """How to fit. The defaults are the training recipe in docs/training.md.

    Attributes:
        weights: ``imagenet``, ``none`` or a file.
        epochs: of the fit; 0 only with ``pretrain_epochs``: all layers are trained, and no fit follows.
        early_stopping: stop after this many epochs without a better validation loss; 0: never.
        compute_dtype: what the convolutions of a training step are computed in; weights, loss and everything that is
            not a training step stay float32.
        pretrain_epochs: number of epochs in which all layers are trained first; only from random weights.
        pretrain_window_px: side of the windows on which they are trained; None: on whole crops, small ones first.
        augment: ``standard`` is geometry alone (and brightness where all layers are trained), ``stain`` varies colour,
            focus, resampling and JPEG as well (``training/stain.py``); None: ``stain`` with ``pretrain_epochs``, else
            ``standard``.
    """

    weights: str = "imagenet"
    input_scaling: InputScaling = "resnet"
    optimizer: OptimizerName = "sgd"
    learning_rate: float = 1e-3
    epochs: int = 7
    batch_size: int = 32
    class_weight: ClassWeight = "none"
    seed: int = 42
    early_stopping: int = 0
    compute_dtype: ComputeDtype = "float32"
    pretrain_epochs: int = 0
    pretrain_window_px: int | None = None
    augment: Augment | None = None

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch_size < 1 or self.early_stopping < 0:
            raise UsageError(
                f"Epochs ({self.epochs}) and early stopping ({self.early_stopping}) must be at least 0 and batch size "
                f"({self.batch_size}) at least 1. Change the option."
            )
        if not (self.epochs or self.pretrain_epochs):
            raise UsageError("--epochs 0 trains nothing. Add --pretrain-epochs, which trains all layers, or epochs.")
        if not 0 < self.learning_rate < float("inf"):
            raise UsageError(f"The learning rate {self.learning_rate} is not above 0. Use, for example, 0.001.")
        if self.pretrain_epochs < 0 or (self.pretrain_epochs and self.weights != "none"):
            raise UsageError(
                f"--pretrain-epochs {self.pretrain_epochs} trains all layers from random weights. Use it with "
                "--weights none, or omit it."
            )
        if self.pretrain_window_px is not None:
            self._check_window(self.pretrain_window_px)
        if self.optimizer not in ("sgd", "adam"):
            raise UsageError(f"Unknown optimizer {self.optimizer!r}. Choose sgd or adam.")
        if self.input_scaling not in ("resnet", "resnet_v2"):
            raise UsageError(f"Unknown input scaling {self.input_scaling!r}. Choose resnet or resnet_v2.")
        if self.class_weight not in ("none", "balanced"):
            raise UsageError(f"Unknown class weight {self.class_weight!r}. Choose none or balanced.")
        if self.compute_dtype not in ("float32", "bfloat16"):
            raise UsageError(f"Unknown compute dtype {self.compute_dtype!r}. Choose float32 or bfloat16.")
        if self.augment not in (None, "standard", "stain"):
            raise UsageError(f"Unknown augmentation {self.augment!r}. Choose standard or stain.")

    def _check_window(self, window_px: int) -> None:
        if not self.pretrain_epochs:
            raise UsageError("--pretrain-window says how all layers are trained. Add --pretrain-epochs, or omit it.")
        if not MIN_WINDOW_PX <= window_px <= SIZE_PX:
            raise UsageError(
                f"--pretrain-window {window_px} cannot be cut: choose {MIN_WINDOW_PX} to {SIZE_PX} pixels, such as 112."
            )

    @property
    def augmentation(self) -> Augment:
        """``augment``, or the default where it is None."""
        return self.augment or ("stain" if self.pretrain_epochs else "standard")

    def fixed(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one it resumes."""
        settings = asdict(self) | {"augment": self.augmentation}
        return {key: value for key, value in settings.items() if key not in ("epochs", "early_stopping")}


@dataclass(frozen=True)
class TrainOptions:
    """The options of ``glomedge train``.

    Attributes:
        data: folder with public.csv.
        output: folder for the results.
        split: ``case`` or ``random``; ignored where ``split_file`` is given.
        threshold: rule, see ``decision.choose_threshold``.
        calibrate: fit a temperature on validation; otherwise it is 1.
        resume: continue the stopped run in ``output``.
        overwrite: replace the finished model or the stopped run in ``output``.
        cache_dir: for the enhanced crops; ``output/cache`` where None.
        site: whose slides these are: there the counts of the test split hold.
        mpp: microns per pixel of the crops: infer flags slides whose own differ.
    """

    data: Path
    output: Path = Path("artifacts")
    fit: FitOptions = field(default_factory=FitOptions)
    recipe: Recipe = field(default_factory=Recipe)
    case_pattern: str | None = None
    split: SplitMethod = "case"
    split_file: Path | None = None
    threshold: str = "0.5"
    calibrate: bool = True
    resume: bool = False
    overwrite: bool = False
    tensorboard_dir: Path | None = None
    cache_dir: Path | None = None
    site: str | None = None
    mpp: float | None = None

    def __post_init__(self) -> None:
        if self.mpp is not None and not MIN_MPP <= self.mpp <= MAX_MPP:
            raise UsageError(
                f"--mpp {self.mpp:g} cannot be: scanners have {MIN_MPP} to {MAX_MPP} microns per pixel. Give the right "
                "number, for example: --mpp 0.25"
            )
        if self.resume and self.overwrite:
            raise UsageError("--resume and --overwrite exclude each other. See: glomedge train --help")
