"""Which augmentation travels: trained on the slides of one laboratory, judged on those of another.

    python -m benchmarks.accuracy.augmentation --data DIR --site-pattern '^([A-Z]+)_' [--pretrain-epochs 33]

The data hold slides of two or more laboratories, told apart by the first group of ``--site-pattern`` in a crop's name.
For each laboratory and each augmentation ``glomedge train`` trains on its slides alone (a fifth of them, drawn, are
validation: they choose epoch and temperature) and answers all crops of the others. Each training runs in a process of
its own; the same split and seed for either augmentation.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.accuracy.cross_validation import deal, train_one
from benchmarks.lib.common import log, markdown_table, parser, set_results_directory, write_result
from glomedge.system.cpu import has_native_bf16

AUGMENTATIONS = ("standard", "stain")
FOLDS = 5
"""One of them is validation."""


def main() -> None:
    """Parse, train each side with each augmentation, write ``augmentation.json`` and ``.md``."""
    options = parser(__doc__)
    options.add_argument("--data", type=Path, required=True, help="labelled folder (public.csv and two folders)")
    options.add_argument("--site-pattern", required=True, help="its first group in a crop's name is the laboratory")
    options.add_argument("--epochs", type=int, default=7)
    options.add_argument("--pretrain-epochs", type=int, default=33)
    options.add_argument("--optimizer", default="sgd", choices=["sgd", "adam"])
    options.add_argument("--learning-rate", type=float, default=1e-3)
    options.add_argument("--weights", default="none")
    options.add_argument(
        "--compute-dtype",
        default="bfloat16" if has_native_bf16() else "float32",
        choices=["float32", "bfloat16"],
        help="default: bfloat16 where this processor has it",
    )
    options.add_argument("--threshold", default="0.5")
    options.add_argument("--at-once", type=int, default=1, help="trainings at the same time")
    options.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--augment", help=argparse.SUPPRESS)
    arguments = options.parse_args()
    if arguments.one is not None:
        train_one(arguments, arguments.one)
        return
    set_results_directory(arguments.results)
    from glomedge_export.data.dataset import read_dataset

    dataset = read_dataset(arguments.data)
    site_of = {item.name: _site(arguments.site_pattern, item.name) for item in dataset.items}
    sites = sorted(set(site_of.values()))
    if len(sites) < 2:
        raise SystemExit(f"--site-pattern finds one laboratory ({sites[0]}): it needs two")
    with tempfile.TemporaryDirectory() as scratch:
        trainings = [(site, augment) for site in sites for augment in AUGMENTATIONS]
        folders = [Path(scratch) / f"{site}-{augment}" for site, augment in trainings]
        for (site, _), folder in zip(trainings, folders, strict=True):
            folder.mkdir()
            _write_split(folder / "split.csv", dataset, {name for name, its in site_of.items() if its == site})
        with ThreadPoolExecutor(arguments.at_once) as pool:
            answered = list(pool.map(_train, folders, [augment for _, augment in trainings]))
    rows, record = [], []
    for (site, augment), answers in zip(trainings, answered, strict=True):
        found = _figures(answers)
        record.append({"trained_on": site, "augment": augment, **found})
        rows.append(
            (site, augment, len(answers["labels"]), *(f"{found[name]:.3f}" for name in FIGURES),
             f"{found['percent_gs_error']:.1f}")
        )  # fmt: skip
    header = ("trained on", "augmentation", "crops of others", "AUROC", "accuracy", "sensitivity", "specificity",
              "mean error of %GS per biopsy, points")  # fmt: skip
    write_result(
        "augmentation",
        {"runs": record, "pretrain_epochs": arguments.pretrain_epochs, "epochs": arguments.epochs},
        f"{markdown_table(header, rows)}\n{arguments.pretrain_epochs} epochs of all layers, then up to "
        f"{arguments.epochs}; threshold {arguments.threshold} of the model itself. One training each: differences of "
        "this size between two seeds were not measured.",
        title="Augmentation: trained on one laboratory, judged on another",
    )


FIGURES = ("auroc", "accuracy", "sensitivity", "specificity")


def _site(pattern: str, name: str) -> str:
    found = re.search(pattern, Path(name).name)
    if found is None:
        raise SystemExit(f"--site-pattern does not fit {name}")
    return found[1]


def _write_split(path: Path, dataset: Any, home: set[str]) -> None:
    """The crops of one laboratory to train on, a fifth of its slides as validation; those of the others as test."""
    at_home = np.array([item.name in home for item in dataset.items])
    fold_of_case = deal(dataset.cases[at_home], dataset.labels[at_home], FOLDS)
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["name", "split"])
        for item in dataset.items:
            inside = "validation" if fold_of_case.get(item.case) == 0 else "train"
            writer.writerow([item.name, inside if item.name in home else "test"])


def _train(folder: Path, augment: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.accuracy.augmentation", *sys.argv[1:]]
    command += ["--one", str(folder), "--augment", augment]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{folder.name} failed:\n{done.stderr[-2000:]}")
    answers: dict[str, Any] = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    log(f"  {folder.name}: AUROC {answers['auroc']:.3f}")
    return answers


def _figures(answers: dict[str, Any]) -> dict[str, float]:
    from glomedge.cases import biopsy_metrics as metrics

    labels, called = np.array(answers["labels"], np.int64), np.array(answers["called"], bool)
    per_case = metrics.per_case(labels, called, np.array(answers["cases"], str))
    errors = [abs(case.true_percent_gs - case.predicted_percent_gs) for case in per_case]
    return {
        "auroc": float(answers["auroc"]),
        "accuracy": float(np.mean(called == (labels == 1))),
        "sensitivity": float(called[labels == 1].mean()),
        "specificity": float((~called[labels == 0]).mean()),
        "percent_gs_error": float(np.mean(errors)),
    }


if __name__ == "__main__":
    main()
