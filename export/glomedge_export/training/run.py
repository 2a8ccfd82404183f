"""``glomedge train`` from the folder of crops to the model, its record and its report.

The order matters: options, data and split are checked before TensorFlow is loaded, so a mistake costs a second.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import platform
import subprocess
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cases import biopsy_metrics as evaluation
from glomedge.cases import decision
from glomedge.cases.names import compile_case_pattern
from glomedge.errors import ModelError, OutputError
from glomedge.files.lock import OutputLock
from glomedge.files.writing import check_writable, replacing, sha256_of, write_atomically
from glomedge.model import crop_digests
from glomedge.model.spec import TrainingProvenance
from glomedge.system.cpu import has_native_bf16
from glomedge.system.environment import versions
from glomedge_export.data import enhanced
from glomedge_export.data.dataset import MIN_CASES, Dataset, read_dataset
from glomedge_export.data.split import Split, SplitMethod, make_split, write_split
from glomedge_export.keras_files.identify import sha256_of_folder
from glomedge_export.quiet_tensorflow import start_tensorflow
from glomedge_export.training.checkpoint import (
    PRETRAINING_FOLDER,
    Checkpointing,
    Checkpoints,
    EpochRow,
    is_begun,
    mark_begun,
    unmark_begun,
)
from glomedge_export.training.listener import Listener
from glomedge_export.training.options import TrainOptions
from glomedge_export.training.result import SideResult, TrainResult
from glomedge_export.training_record import TrainingRecord, write_record

if TYPE_CHECKING:
    from glomedge_export.training.fit import Fitted, Trainer

Images = npt.NDArray[np.uint8]

MODEL_NAME = "model.keras"
CHECKPOINT_FOLDER = "checkpoint"


def train(options: TrainOptions, listener: Listener) -> TrainResult:
    """Check, split, enhance, fit, evaluate, and write everything into ``options.output``.

    Writes model.keras, model.keras.json, history.csv, split.csv, metrics.json, curves.png, training-report.html.

    Raises:
        DatasetError: the data cannot be trained on; before TensorFlow is loaded.
        UsageError: an option is wrong.
        ModelError: the starting weights are not available.
        OutputError: something cannot be written, there is no matching run to resume from, or the output folder holds
            a finished model or a stopped run and neither ``resume`` nor ``overwrite`` was asked for.
    """
    decision.parse_rule(options.threshold)
    if options.case_pattern is not None:
        compile_case_pattern(options.case_pattern)
    if options.fit.weights not in ("imagenet", "none") and not Path(options.fit.weights).exists():
        raise ModelError(
            f"There is no weights file at {options.fit.weights}. Name another with --weights, or use: --weights none"
        )
    output = options.output
    check_writable(output, "Choose another with --output.")
    checkpoints = output / CHECKPOINT_FOLDER
    checkpoints.mkdir(exist_ok=True)
    with OutputLock(checkpoints / "lock"):
        replaces = _check_earlier_run(options)
        dataset, split = _read(options, listener)
        if options.overwrite:
            if replaces:  # not before: an overwrite that ends while it reads has replaced nothing
                mark_begun(checkpoints)
            _clear(output)
        crops = enhanced.enhanced(
            dataset,
            options.recipe,
            _cache(options),
            lambda done, total: listener.preparing("Enhancing crops", done, total),
        )
        write_split(output / "split.csv", dataset, split)
        result = _fit_and_write(options, dataset, split, crops, listener)
        # Only now: until everything is written, a killed run can still be resumed.
        _clear(output)
        unmark_begun(checkpoints)
        return result


def _cache(options: TrainOptions) -> Path:
    return options.cache_dir or options.output / "cache"


def _clear(output: Path) -> None:
    """Remove the checkpoints, which are no longer needed."""
    Checkpoints(output / CHECKPOINT_FOLDER).clear()
    Checkpoints(output / CHECKPOINT_FOLDER / PRETRAINING_FOLDER).clear()


def _read(options: TrainOptions, listener: Listener) -> tuple[Dataset, Split]:
    """The data and how they are split. Raises DatasetError or UsageError."""
    method: SplitMethod = "file" if options.split_file is not None else options.split
    dataset = read_dataset(
        options.data,
        options.case_pattern,
        min_cases=MIN_CASES if method == "case" else 0,
        known_good=lambda sha256: enhanced.cache_path(_cache(options), sha256, options.recipe).is_file(),
    )
    for note in dataset.notes:
        listener.note(note)
    split = make_split(dataset, method, seed=options.fit.seed, file=options.split_file)
    warnings = list(split.warnings)
    if options.fit.compute_dtype == "bfloat16" and not has_native_bf16():
        warnings.append(
            "this processor has no bfloat16 instructions and emulates them, many times slower than "
            "--compute-dtype float32"
        )
    for warning in warnings:
        listener.note(f"warning: {warning}")
    return dataset, split


def _check_earlier_run(options: TrainOptions) -> bool:
    """Whether the run will replace an earlier one. Raises OutputError where nobody asked for that."""
    output = options.output
    finished = (output / MODEL_NAME).exists()
    folders = (output / CHECKPOINT_FOLDER, output / CHECKPOINT_FOLDER / PRETRAINING_FOLDER)
    stopped = is_begun(folders[0]) or any(Checkpoints(folder).exist() for folder in folders)
    if not (finished or stopped):
        return False
    if options.overwrite:
        return True
    if not options.resume:
        found = "a stopped training run" if stopped else f"a trained model ({MODEL_NAME})"
        raise OutputError(
            f"{output} already holds {found}: continue a stopped run with --resume, replace what is there with "
            "--overwrite, or choose another --output."
        )
    if not stopped:
        raise OutputError(
            f"The training in {output} has finished ({MODEL_NAME} is there), so nothing is left to --resume: train "
            "again with --overwrite, or choose another --output."
        )
    return False


def _fit_and_write(
    options: TrainOptions, dataset: Dataset, split: Split, crops: Images, listener: Listener
) -> TrainResult:
    start_tensorflow()
    from glomedge_export.training import fit as training
    from glomedge_export.training.optimizer import make_optimizer

    training.make_repeatable()
    fitted = _fit(options, dataset, split, crops, listener)
    trainer = training.Trainer(fitted.model, make_optimizer())
    raw = {
        side: _answers(trainer, crops, split.indices(dataset, side), listener, side) for side in ("validation", "test")
    }
    validation_labels = dataset.labels[split.indices(dataset, "validation")]
    history = _validated(fitted.history, raw["validation"][0], validation_labels)
    temperature = decision.fit_temperature(raw["validation"][0], validation_labels) if options.calibrate else 1.0
    threshold = decision.choose_threshold(
        options.threshold, decision.sigmoid(raw["validation"][0], temperature), validation_labels
    )
    validation, test = (
        _side_result(dataset, split.indices(dataset, side), *raw[side], temperature, threshold)
        for side in ("validation", "test")
    )
    model_path = options.output / MODEL_NAME
    _save_model(fitted.model, model_path)
    record = TrainingRecord(
        model_sha256=sha256_of(model_path),
        recipe=options.recipe,
        input_scaling=options.fit.input_scaling,
        threshold=threshold,
        temperature=temperature,
        training=_provenance(options, dataset, split, fitted, test),
        operating_point=evaluation.operating_point(test.labels, test.probabilities >= threshold),
        data_directory=str(options.data),
        split=dict(split.sides),
        mpp=options.mpp,
    )
    summary = _summary(record, validation, test, history)
    result = TrainResult(options, dataset, split, history, fitted.best_epoch, validation, test, record, summary)
    _write(result, model_path)
    return result


def _validated(
    history: tuple[EpochRow, ...], logits: npt.NDArray[np.float64], labels: npt.NDArray[np.int64]
) -> tuple[EpochRow, ...]:
    """The history; where no fit followed the training of all layers (epoch 0), its row gets the validation figures."""
    if history[-1].epoch:
        return history
    loss, accuracy = decision.cross_entropy(logits, labels), float(np.mean((logits >= 0) == (labels == 1)))
    return (replace(history[-1], val_loss=loss, val_accuracy=accuracy),)


def _fit(options: TrainOptions, dataset: Dataset, split: Split, crops: Images, listener: Listener) -> Fitted:
    from glomedge_export.training import fit as training
    from glomedge_export.training.feed import TrainingData

    settings = {
        "data": dataset.sha256,
        "recipe": options.recipe.model_dump(),
        "split": hashlib.sha256(json.dumps(sorted(split.sides.items())).encode()).hexdigest(),
    }
    fitted = training.fit(
        TrainingData(crops, dataset.labels, split.indices(dataset, "train"), split.indices(dataset, "validation")),
        options.fit,
        Checkpointing(options.output / CHECKPOINT_FOLDER, settings, options.resume),
        listener=listener,
        tensorboard_dir=options.tensorboard_dir,
    )
    if options.resume:
        listener.note(
            f"resumed after epoch {fitted.resumed_after}"
            if fitted.resumed_after
            else "there was no epoch of the fit to resume from; started at epoch 1"
        )
    return fitted


def _write(result: TrainResult, model_path: Path) -> None:
    """Everything in addition to the model."""
    from glomedge_export.training import page, plots

    output = model_path.parent
    write_record(model_path, result.record)
    _write_history(output / "history.csv", result.history)
    write_atomically(output / "metrics.json", (json.dumps(result.summary, indent=1) + "\n").encode())
    write_atomically(output / "curves.png", plots.curves_png(result.history, result.best_epoch))
    write_atomically(output / "training-report.html", page.render(result).encode())


def _answers(
    trainer: Trainer,
    crops: Images,
    indices: npt.NDArray[np.int64],
    listener: Listener,
    side: str,
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float32]]:
    listener.preparing(f"Evaluating on {side}", 0, 1)
    answers = trainer.infer(crops, indices)
    listener.preparing(f"Evaluating on {side}", 1, 1)
    return answers


def _side_result(
    dataset: Dataset,
    indices: npt.NDArray[np.int64],
    logits: npt.NDArray[np.float64],
    activations: npt.NDArray[np.float32],
    temperature: float,
    threshold: float,
) -> SideResult:
    labels, cases = dataset.labels[indices], dataset.cases[indices]
    probabilities = decision.sigmoid(logits, temperature)
    per_case = evaluation.per_case(labels, probabilities >= threshold, cases)
    metrics = evaluation.metrics_with_intervals(labels, probabilities, cases, threshold)
    metrics |= evaluation.case_metrics(per_case)
    return SideResult(indices, labels, cases, logits, activations, probabilities, metrics, per_case)


def _save_model(model: Any, path: Path) -> None:
    try:
        with replacing(path) as temporary:
            model.save(temporary)
    except OSError as error:
        raise OutputError(
            f"{path} cannot be written ({error.strerror}). Free space, then continue with --resume."
        ) from error


def _provenance(
    options: TrainOptions, dataset: Dataset, split: Split, fitted: Fitted, test: SideResult
) -> TrainingProvenance:
    fit = options.fit
    return TrainingProvenance(
        data_sha256=dataset.sha256,
        data_name=options.data.resolve().name,
        split_method=split.method,
        case_pattern=options.case_pattern,
        seed=fit.seed,
        splits=split.counts(dataset),
        # The file's name and hash identify the weights; the folder it was in is private.
        weights=_weights_name(fit.weights),
        optimizer=fit.optimizer,
        learning_rate=fit.learning_rate,
        batch_size=fit.batch_size,
        epochs=fitted.history[-1].epoch,
        best_epoch=fitted.best_epoch,
        class_weight=fit.class_weight,
        compute_dtype=fit.compute_dtype,
        pretrain_epochs=fit.pretrain_epochs,
        pretrain_window_px=fit.pretrain_window_px,
        augment=fit.augmentation,
        threshold_rule=options.threshold,
        metrics={f"test_{name}": interval for name, interval in test.metrics.items()},
        package_versions=versions() | {"python": platform.python_version()},
        git_commit=_git_commit(),
        crop_digests=crop_digests.pack(
            item.sha256 for item in dataset.items if split.sides[item.name] in ("train", "validation")
        ),
        site=options.site,
    )


def _weights_name(weights: str) -> str:
    if weights in ("imagenet", "none"):
        return weights
    path = Path(weights)
    return f"{path.name} (sha256 {sha256_of_folder(path) if path.is_dir() else sha256_of(path)})"


def _git_commit() -> str | None:
    """The commit of the checkout this code runs from; None if it is installed."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    try:
        done = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def _summary(
    record: TrainingRecord, validation: SideResult, test: SideResult, history: tuple[EpochRow, ...]
) -> dict[str, Any]:
    """Nothing here depends on time or folder: identical runs give identical bytes."""
    training = record.training
    return {
        "notice": RESEARCH_USE_NOTICE,
        "data_sha256": training.data_sha256,
        "split_method": training.split_method,
        "splits": {side: counts.model_dump() for side, counts in training.splits.items()},
        "seed": training.seed,
        "best_epoch": training.best_epoch,
        "epochs": training.epochs,
        "threshold_rule": training.threshold_rule,
        "threshold": record.threshold,
        "temperature": record.temperature,
        "operating_point": None if record.operating_point is None else record.operating_point.model_dump(),
        "interval": f"95%, percentile bootstrap of {evaluation.BOOTSTRAP_DRAWS} draws over biopsies",
        "test": {name: interval.model_dump() for name, interval in test.metrics.items()},
        "validation": {name: interval.model_dump() for name, interval in validation.metrics.items()},
        "test_cases": [asdict(figures) for figures in test.per_case],
        "history": [{k: v for k, v in asdict(row).items() if k != "seconds"} for row in history],
    }


def _write_history(path: Path, history: tuple[EpochRow, ...]) -> None:
    buffer = io.StringIO(newline="")
    writer = csv.DictWriter(buffer, list(asdict(history[0])), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in history)
    write_atomically(path, buffer.getvalue().encode())
