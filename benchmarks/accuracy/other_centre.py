"""A finished model at a centre that it has never seen: as it is, and after 30 crops of it were labelled.

    python -m benchmarks.accuracy.other_centre --model MODEL.onnx --data ../shared/data/other-centre

The data are looked at once, by a finished model: nothing is trained or chosen on them. First all crops as they are:
AUROC, sensitivity and specificity at the model's threshold, %GS of every biopsy. Then the protocol of a new site, once
for each of 20 seeds: ``glomedge label`` picks 30 crops, the known labels stand for a reader, ``glomedge recalibrate``
fits, and the other crops are called by the model before and after. The choice and the fit are the functions of these
commands, on scores that are computed once; the first seed also goes through the commands, files and all, and its calls
must be the same.
"""

from __future__ import annotations

import argparse
import csv
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.lib.common import log, markdown_table, parser, set_results_directory, write_result
from glomedge.cases.decision import sigmoid
from glomedge.cases.labels import LABELS_NAME, read_labels
from glomedge.cases.metrics import auroc
from glomedge.cases.names import CaseFinder
from glomedge.cases.prevalence import rogan_gladen
from glomedge.cases.recalibration import Labelled, recalibrate
from glomedge.cases.sampling import choose
from glomedge.engine.options import EngineOptions
from glomedge.errors import DatasetError
from glomedge.files.names import neutralise
from glomedge.imaging.images import ALLOWED_SUFFIXES
from glomedge.model.crop_digests import among
from glomedge.model.file import ModelFile, read_model_file
from glomedge.model.spec import OperatingPoint
from glomedge.pipeline.inputs import Found, scan
from glomedge.runs.evaluate import evaluate_folder, find_crops
from glomedge.runs.label import LabelOptions, prepare_labelling
from glomedge.runs.options import EvaluateOptions
from glomedge.runs.recalibrate import RecalibrateOptions, recalibrate_models
from glomedge.runs.scores import Crops, logit_of, score

SOURCE = "G. Bueno et al., Data in Brief 29 (2020) 105314"
ACCURACY_GOAL, ERROR_GOAL_POINTS, LOSS_ALLOWED_POINTS = 0.92, 8.0, 2.0

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Centre:
    """Attributes:
    file: the model.
    found: the crops, in the order of their paths.
    logits: after the model's temperature, ``[N]``.
    labels: ``[N]``, 0 or 1.
    cases: ``[N]``.
    """

    file: ModelFile
    found: list[Found]
    logits: npt.NDArray[np.float64]
    labels: npt.NDArray[np.int64]
    cases: npt.NDArray[np.str_]

    @property
    def called(self) -> Bools:
        """By the model as it is."""
        return np.asarray(sigmoid(self.logits) >= self.file.spec.threshold)


def main() -> None:
    """Score once, count, recalibrate for every seed, write."""
    options = parser(__doc__)
    options.add_argument("--model", type=Path, required=True, help="a finished .onnx model")
    options.add_argument("--data", type=Path, required=True, help="labelled folder of another centre (public.csv)")
    options.add_argument("--seeds", type=int, default=20)
    options.add_argument("--labels", type=int, default=30, help="crops to label")
    options.add_argument("--provider", default="cpu")
    options.add_argument("--case-pattern")
    options.add_argument("--source", default=SOURCE, help="of the data, named below the table")
    options.add_argument("--name", default="other_centre", help="of the results")
    arguments = options.parse_args()
    set_results_directory(arguments.results)
    centre = scored(arguments)
    as_it_is = figures(centre, np.ones(len(centre.labels), np.bool_), centre.called)
    as_it_is["auroc"] = auroc(centre.labels, centre.logits)
    seeds = range(3 if arguments.quick else arguments.seeds)
    rounds = [one_seed(centre, arguments.labels, seed) for seed in seeds]
    check_by_commands(arguments, centre, rounds[0])
    done = [one for one in rounds if one["refused"] is None]
    write_result(
        arguments.name,
        {
            "model_sha256": centre.file.sha256,
            "crops": len(centre.labels),
            "positive": int(centre.labels.sum()),
            "threshold": centre.file.spec.threshold,
            "as_it_is": as_it_is,
            "labelled_crops": arguments.labels,
            "seeds": [{key: value for key, value in one.items() if key != "called"} for one in rounds],
        },
        f"{_table_as_it_is(centre, as_it_is)}\n{_table_of_seeds(done)}\n{_words(arguments, centre, rounds)}",
        title="At a centre that the model has never seen",
    )


def scored(arguments: argparse.Namespace) -> Centre:
    """Every labelled crop, classified. Raises SystemExit where the model was trained on one of them."""
    file = read_model_file(arguments.model)
    inputs = scan(arguments.data, ALLOWED_SUFFIXES).inputs
    crops, _ = find_crops(inputs, read_labels(arguments.data / LABELS_NAME))
    if len(crops) < len(inputs):
        raise SystemExit(f"{len(inputs) - len(crops)} of the {len(inputs)} images have no label: leave them out")
    answered = score(file, Crops(arguments.data, [found for found, _ in crops]), EngineOptions(arguments.provider))
    assert answered is not None
    answers = [answered.answers[found] for found, _ in crops]
    failed = [answer.found.key for answer in answers if answer.probability is None]
    training = file.spec.training
    if training is not None and training.crop_digests is not None:
        seen = among(training.crop_digests, [answer.sha256 for answer in answers if answer.sha256 is not None])
        if seen:
            raise SystemExit(f"the model was trained on {len(seen)} of these crops: this says nothing of a new centre")
    if failed:
        raise SystemExit(f"{len(failed)} crops cannot be classified, such as {failed[0]}: mend the data")
    finder = CaseFinder([found.key for found in inputs], arguments.case_pattern)
    return Centre(
        file,
        [found for found, _ in crops],
        np.array([logit_of(file.spec, answer) for answer in answers]),
        np.array([label for _, label in crops], np.int64),
        np.array([finder.case_of(found.key).case for found, _ in crops]),
    )


def figures(centre: Centre, part: Bools, called: Bools, point: OperatingPoint | None = None) -> dict[str, Any]:
    """Accuracy, sensitivity, specificity, and %GS errors in percentage points over the biopsies of a part.

    Args:
        centre: the crops.
        part: bool ``[N]``, which of them count.
        called: bool ``[N]``, which are called globally sclerotic.
        point: counts of sensitivity and specificity: then also how many of the 95% intervals hold.
    """
    truth = centre.labels == 1
    biopsies, printed, held = {}, 0, 0
    for case in sorted(set(centre.cases[part].tolist())):
        inside = part & (centre.cases == case)
        true_share, share = float(truth[inside].mean()), float(called[inside].mean())
        biopsies[case] = {"crops": int(inside.sum()), "percent_gs": 100 * true_share, "called": 100 * share}
        corrected = None if point is None else rogan_gladen(int(called[inside].sum()), int(inside.sum()), point)
        if corrected is not None:
            printed += 1
            held += corrected.low - 1e-9 <= true_share <= corrected.high + 1e-9
    errors = [abs(one["called"] - one["percent_gs"]) for one in biopsies.values()]
    return {
        "crops": int(part.sum()),
        "accuracy": float((called == truth)[part].mean()),
        "sensitivity": _share(called[part & truth]),
        "specificity": _share(~called[part & ~truth]),
        "percent_gs_mean_error": float(np.mean(errors)),
        "percent_gs_worst_error": float(np.max(errors)),
        "intervals_printed": printed,
        "intervals_held": held,
        "biopsies": biopsies,
    }


def _share(right: Bools) -> float | None:
    return float(right.mean()) if len(right) else None


def one_seed(centre: Centre, count: int, seed: int) -> dict[str, Any]:
    """Choose, label with the truth, recalibrate, and count over the crops that were not labelled."""
    chosen = choose(centre.logits.tolist(), centre.cases.tolist(), count, seed)
    places = np.array([one.index for one in chosen])
    rest = np.ones(len(centre.labels), np.bool_)
    rest[places] = False
    labelled = Labelled(
        centre.logits[places],
        centre.labels[places],
        np.array([one.weight for one in chosen]),
        tuple(centre.cases[places].tolist()),
    )
    before = figures(centre, rest, centre.called, centre.file.spec.operating_point)
    try:
        found = recalibrate(labelled)
    except DatasetError as error:
        log(f"  seed {seed}: {error}")
        return {"seed": seed, "refused": str(error), "before": before, "after": None, "called": centre.called}
    called = np.asarray(found.line.probabilities(centre.logits) >= found.threshold)
    return {
        "seed": seed,
        "refused": None,
        "slope": found.line.slope,
        "offset": found.line.offset,
        "before": before,
        "after": figures(centre, rest, called, found.operating_point),
        "called": called,
    }


def check_by_commands(arguments: argparse.Namespace, centre: Centre, first: dict[str, Any]) -> None:
    """Take the first seed through ``label``, ``recalibrate`` and ``evaluate``. Raises SystemExit where they differ."""
    if first["refused"] is not None:
        return
    engine = EngineOptions(arguments.provider)
    label_of = {neutralise(one.key): int(label) for one, label in zip(centre.found, centre.labels, strict=True)}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        made = prepare_labelling(
            LabelOptions(
                arguments.data, arguments.model, folder, arguments.labels, first["seed"], engine,
                case_pattern=arguments.case_pattern,
            )
        )  # fmt: skip
        assert made is not None
        with made.table.open(encoding="utf-8", newline="") as handle:
            rows = list(csv.DictReader(handle))
        chosen = {row["name"] for row in rows}
        labels, rest = folder / "labels.csv", folder / "rest.csv"
        _write_table(labels, [(row["name"], label_of[row["name"]], row["weight"]) for row in rows])
        _write_table(rest, [(name, label, "1") for name, label in label_of.items() if name not in chosen])
        new = recalibrate_models(
            RecalibrateOptions(
                (arguments.model,), labels, arguments.data, "another centre", folder / "new.onnx", engine=engine,
                case_pattern=arguments.case_pattern,
            )
        )  # fmt: skip
        assert new is not None
        checked = evaluate_folder(
            EvaluateOptions(
                arguments.data, new[0].path, engine, labels_file=rest, case_pattern=arguments.case_pattern
            )
        )  # fmt: skip
        assert checked is not None
    by_commands = checked.confusion.accuracy.value
    # One crop may stand so near the threshold that rounding calls it either way.
    if by_commands is None or abs(by_commands - first["after"]["accuracy"]) > 1.5 / first["after"]["crops"]:
        raise SystemExit(
            f"seed {first['seed']}: the commands call {by_commands} of the rest right, this script "
            f"{first['after']['accuracy']}: its figures are not those of the product"
        )
    log(f"  seed {first['seed']}: accuracy {first['after']['accuracy']:.4f}, by the commands {by_commands:.4f}")


def _write_table(path: Path, rows: list[tuple[str, int, str]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["name", "ground truth", "weight"])
        writer.writerows(rows)


# --- words and tables -----------------------------------------------------------------------------------------------


def _table_as_it_is(centre: Centre, found: dict[str, Any]) -> str:
    def number(value: float | None) -> str:
        return "undefined" if value is None else f"{value:.3f}"

    rows = [
        [
            f"{len(centre.labels)} ({int(centre.labels.sum())})",
            number(found["auroc"]),
            f"{number(found['sensitivity'])} / {number(found['specificity'])}",
            number(found["accuracy"]),
            f"{found['percent_gs_mean_error']:.1f} ({found['percent_gs_worst_error']:.1f})",
        ]
    ]
    header = ["crops (globally sclerotic)", "AUROC", "sensitivity / specificity", "accuracy", "%GS: mean error (worst)"]
    biopsies = [
        [case, str(one["crops"]), f"{one['percent_gs']:.1f}", f"{one['called']:.1f}"]
        for case, one in found["biopsies"].items()
    ]
    return (
        f"As it is, at its own threshold {centre.file.spec.threshold:g}:\n\n{markdown_table(header, rows)}\n"
        f"{markdown_table(['biopsy', 'crops', '%GS by labels', '%GS by calls'], biopsies)}"
    )


def _table_of_seeds(done: list[dict[str, Any]]) -> str:
    if not done:
        return "No seed gave labels that carry a recalibration.\n"
    rows = []
    for name, key, worst, scale in (
        ("accuracy, %", "accuracy", min, 100.0),
        ("%GS: mean error, points", "percent_gs_mean_error", max, 1.0),
        ("%GS: worst biopsy, points", "percent_gs_worst_error", max, 1.0),
    ):
        pairs = scale * np.array([[one[when][key] for when in ("before", "after")] for one in done])
        change = pairs[:, 1] - pairs[:, 0]
        rows.append(
            [
                name,
                *(f"{value:.1f}" for value in np.median(pairs, axis=0)),
                *(f"{worst(column):.1f}" for column in pairs.T.tolist()),
                f"{worst(change.tolist()):+.1f}",
            ]
        )
    return markdown_table(
        ["over the seeds", "before: median", "after: median", "before: worst", "after: worst", "worst change"], rows
    )


def _words(arguments: argparse.Namespace, centre: Centre, rounds: list[dict[str, Any]]) -> str:
    done = [one for one in rounds if one["refused"] is None]
    printed, held = (sum(one["after"][f"intervals_{what}"] for one in done) for what in ("printed", "held"))
    verdicts = _verdicts(done) if done else "Nothing to judge."
    return (
        f"{len(rounds)} seeds, {len(rounds) - len(done)} of them refused for too few labels of a class. Each: "
        f"{arguments.labels} of {len(centre.labels)} crops chosen by `label` and labelled with the truth, the others "
        f"called before and after. Of {printed} corrected 95% intervals of these others' biopsies {held} hold their "
        f"labels' share. {verdicts}\n\nData: {arguments.source}.\n"
    )


def _verdicts(done: list[dict[str, Any]]) -> str:
    accuracy = float(np.median([one["after"]["accuracy"] for one in done]))
    error = float(np.median([one["after"]["percent_gs_mean_error"] for one in done]))
    worse = max(100 * (one["before"]["accuracy"] - one["after"]["accuracy"]) for one in done)
    more_error = max(one["after"]["percent_gs_mean_error"] - one["before"]["percent_gs_mean_error"] for one in done)
    lines = (
        (f"median accuracy at least {ACCURACY_GOAL:g}", accuracy >= ACCURACY_GOAL),
        (f"median of the mean %GS error at most {ERROR_GOAL_POINTS:g} points", error <= ERROR_GOAL_POINTS),
        (f"no seed's accuracy lower by more than {LOSS_ALLOWED_POINTS:g} points", worse <= LOSS_ALLOWED_POINTS),
        (f"no seed's %GS error greater by more than {LOSS_ALLOWED_POINTS:g} points", more_error <= LOSS_ALLOWED_POINTS),
    )
    return "Wanted: " + "; ".join(f"{what}: {'met' if met else 'MISSED'}" for what, met in lines) + "."


if __name__ == "__main__":
    main()
