"""The whole way on files: crops chosen, labelled, the model recalibrated, a night classified, intervals in cases.csv.

``tests/cases/test_recalibration.py`` counts coverage over many drawn sites in memory; here the same sites are pictures,
and what ``infer`` prints is held against the truth and against what the functions give.
"""

from __future__ import annotations

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.lib.drawn_sites import DrawnSite, draw_site
from glomedge.cases.prevalence import rogan_gladen
from glomedge.cases.recalibration import of_crops, recalibrate
from glomedge.engine.options import EngineOptions
from glomedge.model.file import read_model_file
from glomedge.runs.folder import Options, infer_folder
from glomedge.runs.label import LabelOptions, prepare_labelling
from glomedge.runs.recalibrate import RecalibrateOptions, recalibrate_models
from helpers.builders import build_tiny_model
from helpers.sites import write_drawn

CPU = EngineOptions(provider="cpu")


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


@pytest.mark.parametrize(("seed", "labels"), [(3, 30), (8, 50)])
def test_intervals_of_cases_csv_hold_the_truth_and_are_those_of_the_functions(
    tmp_path: Path, seed: int, labels: int
) -> None:
    site = draw_site(seed)
    crops, model = tmp_path / "crops", tmp_path / "model.onnx"
    names = write_drawn(crops, site)
    build_tiny_model(model, recipe="plain", bias=0.0)
    point_of = dict(zip(names, range(len(names)), strict=True))

    made = prepare_labelling(LabelOptions(crops, model, tmp_path / "labelling", labels, seed, CPU))
    assert made is not None
    chosen = rows_of(made.table)
    table = tmp_path / "labels.csv"
    lines = [f"{row['name']},{site.labels[point_of[row['name']]]},{row['weight']}" for row in chosen]
    table.write_text("name,ground truth,weight\n" + "\n".join(lines) + "\n", "utf-8")
    new = tmp_path / "new.onnx"
    assert recalibrate_models(RecalibrateOptions((model,), table, crops, "North Lab", new, engine=CPU)) is not None
    night = Options(folder=crops, model=new, output=tmp_path / "out", engine=CPU, site="North Lab", report=False)
    assert infer_folder(night).complete

    places = [point_of[row["name"]] for row in chosen]
    found = recalibrate(
        of_crops(
            site.logits[places].tolist(), site.labels[places].tolist(), [float(row["weight"]) for row in chosen],
            [site.cases[place] for place in places],
        )
    )  # fmt: skip
    assert read_model_file(new).spec.operating_point == found.operating_point
    cases, held = np.array(site.cases), []
    printed = rows_of(tmp_path / "out" / "cases.csv")
    assert len(printed) == 12
    for row, case in zip(printed, sorted(set(site.cases)), strict=True):
        inside = cases == case
        called = int((found.line.probabilities(site.logits[inside]) >= found.threshold).sum())
        assert abs(int(row["globally_sclerotic"]) - called) <= 1  # a picture's colours round the logit
        corrected = rogan_gladen(int(row["globally_sclerotic"]), int(inside.sum()), found.operating_point)
        assert corrected is not None
        low, high = float(row["corrected_low"]), float(row["corrected_high"])
        assert (low, high) == pytest.approx((100 * corrected.low, 100 * corrected.high), abs=0.006)
        held.append(low - 0.005 <= 100 * site.labels[inside].mean() <= high + 0.005)
    assert np.mean(held) >= 0.93, held


def test_the_pictures_give_the_drawn_logits(tmp_path: Path) -> None:
    logits = np.array([-14.0, -3.3, 0.0, 0.4, 9.9])
    names = write_drawn(tmp_path, DrawnSite(logits, np.zeros(5, np.int64), ("b00",) * 5, {"b00": 0.0}))
    for name, logit in zip(names, logits, strict=True):
        pixels = cv2.imread(str(tmp_path / name))
        assert pixels is not None
        blue, green, red = (pixels[5:, 5:].mean(axis=(0, 1)) - 127.5).tolist()
        assert 0.05 * red - 0.04 * green + 0.03 * blue == pytest.approx(logit, abs=0.06)
