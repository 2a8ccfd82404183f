"""``training-report.html`` of an invented result: sound markup, figures in place, hostile names stay names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.cases.biopsy_metrics import CaseFigures
from glomedge.model.spec import Interval, Recipe, SplitCounts, TrainingProvenance
from glomedge_export.data.dataset import Dataset, Item
from glomedge_export.data.split import Split
from glomedge_export.training import page
from glomedge_export.training.checkpoint import EpochRow
from glomedge_export.training.options import TrainOptions
from glomedge_export.training.result import SideResult, TrainResult
from glomedge_export.training_record import TrainingRecord
from helpers.page_checks import HOSTILE, check_page, text_of

LABELS = np.array([0, 0, 1, 1], np.int64)


def _side(probabilities: npt.NDArray[np.float64]) -> SideResult:
    logits = np.log(probabilities / (1 - probabilities))
    return SideResult(
        indices=np.arange(4),
        labels=LABELS,
        cases=np.array(["a", "a", "b", "b"]),
        logits=logits,
        activations=np.broadcast_to(logits[:, None, None], (4, 7, 7)).astype(np.float32),
        probabilities=probabilities,
        metrics={"auroc": Interval(value=0.75, low=0.5, high=1.0), "f1": Interval(value=0.5)},
        per_case=[CaseFigures(HOSTILE, 2, 0.0, 50.0, 0, 2), CaseFigures("b", 2, 100.0, 50.0, 3, 2)],
    )


def _result(folder: Path, probabilities: list[float], name: str = HOSTILE) -> TrainResult:
    import cv2

    folder.mkdir(exist_ok=True)
    items = []
    for index, label in enumerate(LABELS):
        path = folder / f"{index}.png"
        pixels = np.random.default_rng(index).integers(0, 256, (64, 48, 3)).astype(np.uint8)
        path.write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
        items.append(Item(f"{index}{name}", path, int(label), name, "s", "0" * 64))
    training = TrainingProvenance(
        data_sha256="c" * 64, data_name=name, split_method="case", seed=42,
        splits={"test": SplitCounts(crops=4, positive=2, cases=2)}, weights="none", optimizer="sgd",
        learning_rate=0.001, batch_size=32, epochs=2, best_epoch=1, metrics={}, package_versions={"numpy": "2"},
    )  # fmt: skip
    record = TrainingRecord(
        model_sha256="d" * 64, recipe=Recipe(), input_scaling="resnet", threshold=0.5, temperature=1.0,
        training=training, data_directory=str(folder), split={},
    )  # fmt: skip
    side = _side(np.array(probabilities))
    return TrainResult(
        options=TrainOptions(folder),
        dataset=Dataset(folder, tuple(items)),
        split=Split({}, "case", (name,)),
        history=(EpochRow(1, 0.7, 0.5, 0.6, 0.75, 1.0), EpochRow(2, 0.6, 0.6, 0.65, 0.5, 1.0)),
        best_epoch=1,
        validation=side,
        test=side,
        record=record,
        summary={},
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> str:
    pytest.importorskip("matplotlib", reason="draws the plots")
    return page.render(_result(tmp_path_factory.mktemp("training"), [0.2, 0.9999, 0.0001, 0.8]))


def test_report_is_sound_and_hostile_names_stay_text(report: str) -> None:
    check_page(report)
    text = text_of(report)
    # Title twice, one warning, one biopsy of the table, name and biopsy of each of two wrong crops.
    assert text.count(HOSTILE) == 8


def test_figures_and_wrong_crops_are_shown(report: str) -> None:
    text = text_of(report)
    for expected in (
        "Kept: epoch 1 of 2",
        "0.750 (0.500 to 1.000)",
        "undefined",  # a figure that is not there
        "The test crops come from 2 biopsies",
        "2 of 4 test crops were misclassified; the 2 furthest from the threshold.",
        "labelled globally sclerotic, probability below 0.001",
        "labelled not globally sclerotic, probability above 0.999",
    ):
        assert expected in text, expected
    assert report.count("data:image/png;base64,") == 4 + 2 * 2
    confusion = report.split("Confusion matrix")[1].split("</table>")[0]
    assert [int(part.split("<")[0]) for part in confusion.split('<td class="n whole">')[1:]] == [1, 1, 1, 1]


def test_nothing_wrong_is_said(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="draws the plots")
    report = page.render(_result(tmp_path, [0.1, 0.2, 0.8, 0.9], "crop"))
    assert "None: every test crop was classified as labelled." in report
    assert 'class="pairs"' not in report


def test_names_that_are_not_utf8_do_not_stop_the_report(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="draws the plots")
    report = page.render(_result(tmp_path, [0.1, 0.9, 0.8, 0.9], "caf\udce9"))
    report.encode("utf-8")
    assert "caf\\udce9" in report


def test_a_model_without_a_fit_says_what_was_trained(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="draws the plots")
    result = _result(tmp_path, [0.1, 0.2, 0.8, 0.9], "crop")
    changed = {"epochs": 0, "best_epoch": 0, "pretrain_epochs": 8, "pretrain_window_px": 80}
    training = result.record.training.model_copy(update=changed)
    record = result.record.model_copy(update={"training": training})
    text = text_of(page.render(replace(result, record=record, history=(EpochRow(0, 0.3, 0.9, 0.2, 0.95, 1.0),))))
    assert "All layers were trained and no fit followed." in text
    assert "8, on windows of 80 pixels" in text
    assert "Kept: epoch" not in text
    assert "learning rate" not in text
