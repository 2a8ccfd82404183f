"""Expected performance on a new biopsy: every slide is classified by a model that has seen none of its crops.

    python -m benchmarks.accuracy.cross_validation --data DIR [--folds 5] [--epochs 4]
        [--optimizer adam] [--threshold youden]

One held-out side of a small data set holds a handful of biopsies, and its figures depend on which ones. Here the
biopsies are divided into folds with similar shares of either label. For each fold ``glomedge train`` trains on the
others (the next fold is validation: it chooses epoch, temperature and threshold), and the held-out answers are pooled.
Each fold is trained in its own process, so each could be repeated by ``glomedge train --split-file``.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.lib.common import log, markdown_table, parser, results_directory, set_results_directory, write_result
from glomedge.model.spec import Interval
from glomedge.system.cpu import has_native_bf16
from glomedge.system.telemetry import import_matplotlib

DRAWS = 4096


def main() -> None:
    """Parse, train every fold, pool, write."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, required=True, help="labelled folder (public.csv and two folders)")
    options.add_argument("--folds", type=int, default=5)
    options.add_argument("--epochs", type=int, default=4)
    options.add_argument("--pretrain-epochs", type=int, default=0, help="first train all layers for this many epochs")
    options.add_argument("--augment", choices=["standard", "stain"], help="default: as glomedge train")
    options.add_argument("--optimizer", default="adam", choices=["sgd", "adam"])
    options.add_argument("--learning-rate", type=float, default=1e-4)
    options.add_argument("--weights", default="none")
    options.add_argument(
        "--compute-dtype",
        default="bfloat16" if has_native_bf16() else "float32",
        choices=["float32", "bfloat16"],
        help="default: bfloat16 where this processor has it",
    )
    options.add_argument("--threshold", default="0.5")
    options.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.one is not None:
        train_one(arguments, arguments.one)
        return
    set_results_directory(arguments.results)
    from glomedge_export.data.dataset import read_dataset

    dataset = read_dataset(arguments.data, min_cases=arguments.folds)
    fold_of_case = deal(dataset.cases, dataset.labels, arguments.folds)
    folds = []
    with tempfile.TemporaryDirectory() as scratch:
        for fold in range(arguments.folds):
            folder = Path(scratch) / f"fold-{fold}"
            folder.mkdir()
            _write_split(folder / "split.csv", dataset.items, fold_of_case, fold, arguments.folds)
            command = [
                sys.executable,
                "-m",
                "benchmarks.accuracy.cross_validation",
                *sys.argv[1:],
                "--one",
                str(folder),
            ]
            done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
            if done.returncode != 0:
                raise SystemExit(f"fold {fold} failed:\n{done.stderr[-2000:]}")
            folds.append(json.loads((folder / "answers.json").read_text(encoding="utf-8")))
            log(f"  fold {fold}: AUROC {folds[-1]['auroc']:.3f}, {folds[-1]['best_epoch']} epochs kept")
    _write(arguments, folds)


def deal(cases: npt.NDArray[np.str_], labels: npt.NDArray[np.int64], folds: int, seed: int = 42) -> dict[str, int]:
    """Biopsy -> fold: of ``DRAWS`` random deals the one whose folds are nearest to equal shares of either label.

    Raises:
        SystemExit: no deal gives every fold crops of both labels.
    """
    names, index = np.unique(cases, return_inverse=True)
    counts = np.zeros((len(names), 2))
    np.add.at(counts, (index, labels), 1)
    rng = np.random.default_rng(seed)
    best_cost, best = np.inf, None
    for _ in range(DRAWS):
        dealt = rng.permutation(np.arange(len(names)) % folds)
        shares = np.stack([counts[dealt == fold].sum(0) for fold in range(folds)]) / counts.sum(0)
        cost = float(((shares * folds - 1) ** 2).sum())
        if shares.min() > 0 and cost < best_cost:
            best_cost, best = cost, dealt
    if best is None:
        raise SystemExit(f"no deal gives each of {folds} folds crops of both labels: use fewer folds")
    return {str(name): int(fold) for name, fold in zip(names, best, strict=True)}


def _write_split(path: Path, items: Any, fold_of_case: dict[str, int], test: int, folds: int) -> None:
    sides = {test: "test", (test + 1) % folds: "validation"}
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["name", "split"])
        writer.writerows([item.name, sides.get(fold_of_case[item.case], "train")] for item in items)


def train_one(arguments: argparse.Namespace, folder: Path) -> None:
    """In a child: train on the split.csv of a folder, write the answers to its test crops to answers.json there."""
    from glomedge.cli.progress import TrainingProgress
    from glomedge_export.training.options import FitOptions, TrainOptions
    from glomedge_export.training.run import train

    fit = FitOptions(
        weights=arguments.weights,
        optimizer=arguments.optimizer,
        learning_rate=arguments.learning_rate,
        epochs=arguments.epochs,
        compute_dtype=arguments.compute_dtype,
        pretrain_epochs=arguments.pretrain_epochs,
        augment=arguments.augment,
        seed=getattr(arguments, "seed", FitOptions.seed),
    )
    run = TrainOptions(
        data=arguments.data,
        output=folder / "artifacts",
        fit=fit,
        split_file=folder / "split.csv",
        threshold=arguments.threshold,
        cache_dir=folder.parent / "cache",
    )
    with TrainingProgress(arguments.epochs) as progress:
        result = train(run, progress)
    answers = {
        "best_epoch": result.best_epoch,
        "threshold": result.record.threshold,
        "temperature": result.record.temperature,
        "auroc": result.test.metrics["auroc"].value,
        "labels": result.test.labels.tolist(),
        "cases": result.test.cases.tolist(),
        "probabilities": result.test.probabilities.tolist(),
        "called": (result.test.probabilities >= result.record.threshold).tolist(),
    }
    (folder / "answers.json").write_text(json.dumps(answers), encoding="utf-8")


def _write(arguments: argparse.Namespace, folds: list[dict[str, Any]]) -> None:
    from glomedge.cases import biopsy_metrics as metrics

    labels = np.concatenate([np.array(fold["labels"], np.int64) for fold in folds])
    cases = np.concatenate([np.array(fold["cases"], str) for fold in folds])
    probabilities = np.concatenate([np.array(fold["probabilities"]) for fold in folds])
    called = np.concatenate([np.array(fold["called"], bool) for fold in folds])
    threshold = float(arguments.threshold) if arguments.threshold[0].isdigit() else 0.5
    figures: dict[str, Interval] = metrics.metrics_with_intervals(labels, probabilities, cases, threshold)
    per_case = metrics.per_case(labels, called, cases)
    figures |= metrics.case_metrics(per_case)
    rows = [
        [name, f"{value.value:.3f}", "" if value.low is None else f"{value.low:.3f} to {value.high:.3f}"]
        for name, value in figures.items()
    ]
    plot_cases(per_case, results_directory() / "cross_validation.png")
    spread = ", ".join(f"{fold['auroc']:.3f}" for fold in folds)
    write_result(
        "cross_validation",
        {
            "folds": folds,
            "figures": {name: value.model_dump() for name, value in figures.items()},
            "crops": len(labels),
            "positive": int(labels.sum()),
            "cases": len(set(cases)),
        },
        f"{markdown_table(['figure', 'held-out', '95% interval, bootstrap over biopsies'], rows)}\n"
        f"{len(labels)} crops ({int(labels.sum())} positive) of {len(set(cases))} biopsies, each answered by a model "
        f"that saw no crop of its biopsy; {arguments.folds} folds, up to {arguments.epochs} epochs. AUROC by fold: "
        f"{spread}. Crops are called at {threshold:g}, %GS of a biopsy at its fold's own threshold "
        f"(`--threshold {arguments.threshold}`).\n",
        title="Cross-validation over biopsies",
    )


def plot_cases(per_case: Any, path: Path) -> None:
    """%GS of every biopsy, true against predicted; the area of a dot is its number of crops."""
    import_matplotlib().use("Agg")
    plt = import_matplotlib("pyplot")

    figure, axes = plt.subplots(figsize=(5, 5), layout="constrained")
    axes.plot([0, 100], [0, 100], color="#999999", linewidth=1)
    axes.scatter(
        [case.true_percent_gs for case in per_case],
        [case.predicted_percent_gs for case in per_case],
        s=[4 + 2 * case.crops for case in per_case],
        color="#0072B2",
        alpha=0.6,
    )
    axes.set(xlim=(-3, 103), ylim=(-3, 103), xlabel="labelled %GS", ylabel="predicted %GS, held out", aspect="equal")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=130, metadata={"Software": None})
    plt.close(figure)


if __name__ == "__main__":
    main()
