"""Which augmentation travels: trained on the slides of one laboratory, judged on those of another.

    python -m benchmarks.accuracy.augmentation --data DIR --site-pattern '^([A-Z]+)_' [--pretrain-epochs 33]

The data hold slides of two or more laboratories, told apart by the first group of ``--site-pattern`` in a crop's name.
For each laboratory and each augmentation ``glomedge train`` trains on its slides alone (a fifth of them, drawn, are
validation: they choose epoch and temperature) and answers all crops of the others. Each training runs in a process of
its own; the same split for all, and for either augmentation the same seeds.
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
    options.add_argument("--seeds", type=int, nargs="+", default=[42], help="a training of each kind with each of them")
    options.add_argument(
        "--scratch", type=Path, help="folder for the trainings; what is there already is not trained again"
    )
    options.add_argument("--at-once", type=int, default=1, help="trainings at the same time")
    options.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    options.add_argument("--augment", help=argparse.SUPPRESS)
    options.add_argument("--seed", type=int, help=argparse.SUPPRESS)
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
    with tempfile.TemporaryDirectory() as temporary:
        scratch = arguments.scratch or Path(temporary)
        trainings = [(seed, site, augment) for seed in arguments.seeds for site in sites for augment in AUGMENTATIONS]
        folders = [scratch / f"{site}-{augment}-{seed}" for seed, site, augment in trainings]
        for (_, site, _), folder in zip(trainings, folders, strict=True):
            folder.mkdir(parents=True, exist_ok=True)
            _write_split(folder / "split.csv", dataset, {name for name, its in site_of.items() if its == site})
        with ThreadPoolExecutor(arguments.at_once) as pool:
            answered = list(pool.map(_train, folders, trainings))
    rows, record = [], []
    for (seed, site, augment), answers in sorted(zip(trainings, answered, strict=True), key=lambda each: each[0][1:]):
        found = _figures(answers)
        record.append({"trained_on": site, "augment": augment, "seed": seed, **found})
        rows.append(
            (site, augment, seed, len(answers["labels"]), *(f"{found[name]:.3f}" for name in FIGURES),
             f"{found['percent_gs_error']:.1f}")
        )  # fmt: skip
    header = ("trained on", "augmentation", "seed", "crops of others", "AUROC", "accuracy", "sensitivity",
              "specificity", "mean error of %GS per biopsy, points")  # fmt: skip
    write_result(
        "augmentation",
        {"runs": record, "pretrain_epochs": arguments.pretrain_epochs, "epochs": arguments.epochs},
        f"{markdown_table(header, rows)}\n{markdown_table(SUMMARY, _summary(record))}\n{arguments.pretrain_epochs} "
        f"epochs of all layers, then up to {arguments.epochs}; threshold {arguments.threshold} of the model itself.",
        title="Augmentation: trained on one laboratory, judged on another",
    )


FIGURES = ("auroc", "accuracy", "sensitivity", "specificity")
SUMMARY = ("trained on", "figure", *AUGMENTATIONS, "stain better with")


def _summary(record: list[dict[str, Any]]) -> list[tuple[str, ...]]:
    """Median over the seeds, and with how many of them each figure is better with ``stain``."""
    rows = []
    for site in dict.fromkeys(run["trained_on"] for run in record):
        for name, better in (("auroc", 1), ("accuracy", 1), ("percent_gs_error", -1)):
            of = {kind: [run[name] for run in record if (run["trained_on"], run["augment"]) == (site, kind)]
                  for kind in AUGMENTATIONS}  # fmt: skip
            won = sum(better * (b - a) > 0 for a, b in zip(of["standard"], of["stain"], strict=True))
            medians = (f"{np.median(of[kind]):.3f}" if better > 0 else f"{np.median(of[kind]):.1f}" for kind in of)
            rows.append((site, name.replace("_", " "), *medians, f"{won} of {len(of['stain'])} seeds"))
    return rows


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


def _train(folder: Path, training: tuple[int, str, str]) -> dict[str, Any]:
    seed, _, augment = training
    command = [sys.executable, "-m", "benchmarks.accuracy.augmentation", *sys.argv[1:]]
    command += ["--one", str(folder), "--augment", augment, "--seed", str(seed)]
    if not (folder / "answers.json").is_file():
        _run(command, folder.name)
    answers: dict[str, Any] = json.loads((folder / "answers.json").read_text(encoding="utf-8"))
    log(f"  {folder.name}: AUROC {answers['auroc']:.3f}")
    return answers


def _run(command: list[str], name: str) -> None:
    done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{name} failed:\n{done.stderr[-2000:]}")


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
