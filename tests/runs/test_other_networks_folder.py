"""Folders classified by networks of other sides and maps: results, resuming, heatmaps, report, evaluation."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest

from glomedge.engine.options import EngineOptions
from glomedge.errors import UsageError
from glomedge.imaging import images
from glomedge.pipeline.prepare import default_decoder
from glomedge.runs.evaluate import evaluate_folder
from glomedge.runs.folder import Options, infer_folder
from glomedge.runs.options import EvaluateOptions
from helpers.other_networks import NETWORKS, SOURCE, Network
from helpers.run_kit import outputs, table, write_crops

WITHOUT_MAP = [name for name, network in NETWORKS.items() if not network.with_map]
WITH_MAP = [name for name, network in NETWORKS.items() if network.with_map]


def options_for(tmp_path: Path, network: Network) -> Options:
    write_crops(tmp_path / "crops", 14, broken=1)
    network.build(tmp_path / "model.onnx")
    return Options(tmp_path / "crops", tmp_path / "model.onnx", tmp_path / "out", engine=EngineOptions("cpu"))


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> Network:
    return NETWORKS[request.param]


@pytest.fixture
def options(tmp_path: Path, network: Network) -> Options:
    return options_for(tmp_path, network)


def test_threads_and_processes_give_the_right_answers(options: Options, network: Network) -> None:
    infer_folder(options)
    rows = table(options.output)
    assert len(rows) == 14
    for row in rows:
        if row["status"].startswith("error"):
            continue
        crop = images.decode((options.folder / row["path"]).read_bytes()).pixels_hwc
        assert float(row["probability"]) == pytest.approx(network.probability(crop), abs=1e-5)
    others = replace(options, output=options.output.with_name("others"), decode_in="processes", workers=2)
    infer_folder(others)
    assert outputs(others.output) == outputs(options.output)


def test_a_stopped_run_is_resumed(options: Options) -> None:
    small = replace(options, engine=EngineOptions("cpu", batch_size=2), workers=1)
    plain, decoded, enough, stopped = default_decoder(), list[int](), threading.Event(), threading.Event()

    def decode(data: bytes) -> Any:
        decoded.append(len(data))
        if len(decoded) > 6:
            assert stopped.wait(30)
        return plain.decode(data)

    def progress(done: int, total: int) -> None:
        assert total == 14
        if done >= 4:
            enough.set()

    def stop() -> bool:
        if enough.is_set():
            stopped.set()
        return stopped.is_set()

    first = infer_folder(small, stop=stop, progress=progress, decoder=plain._replace(decode=decode))
    assert not first.complete
    assert 0 < first.answered < 14
    again = infer_folder(replace(small, resume=True))
    assert again.complete
    assert again.predicted == 14 - first.answered
    whole = replace(small, output=options.output.with_name("whole"))
    infer_folder(whole)
    assert outputs(small.output) == outputs(whole.output)
    assert (small.output / "report.html").read_text().count("<figure") >= 13


def test_the_mean_over_eight_views(options: Options, network: Network) -> None:
    infer_folder(replace(options, tta=8))
    answered = [row for row in table(options.output) if row["probability"]]
    assert len(answered) == 13
    assert max(float(row["tta_disagreement"]) for row in answered) < 1e-4
    assert ("--map-start:" in (options.output / "report.html").read_text()) == network.with_map


def test_evaluate(options: Options) -> None:
    names = sorted(path.name for path in options.folder.rglob("*.png"))
    lines = [f"{name},{index % 2}" for index, name in enumerate(names)]
    (options.folder / "public.csv").write_text("name,ground truth\n" + "\n".join(lines) + "\n", "utf-8")
    found = evaluate_folder(EvaluateOptions(options.folder, options.model, EngineOptions("cpu")))
    assert found is not None
    assert found.answered == 13
    infer_folder(options)
    positive = sum(row["label"] == "1" for row in table(options.output))
    assert found.confusion.true_positive + found.confusion.false_positive == positive


def test_record_and_report_say_what_network_it_is(options: Options, network: Network) -> None:
    infer_folder(options)
    record = json.loads((options.output / "run.json").read_text("utf-8"))
    model, page = record["model"], (options.output / "report.html").read_text("utf-8")
    assert (model["backbone"], model["input_side_px"]) == ("other", network.side_px)
    assert model["map"] == ("exact" if network.with_map else "none")
    assert model["source"] is None
    assert f"{network.side_px} x {network.side_px} px" in page
    assert ("This network has no exact activation map" in page) == (not network.with_map)
    assert page.count('class="map"') == (page.count("<figure") if network.with_map else 0)
    assert page.count('alt="case') == page.count("<figure") >= 13  # the crops themselves are shown in either case


@pytest.mark.parametrize("name", WITH_MAP)
@pytest.mark.parametrize("grey", [True, False], ids=["kept in grey", "read again"])
def test_heatmaps(tmp_path: Path, name: str, grey: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not grey:
        monkeypatch.setattr("glomedge.runs.folder.MAX_GREY_PX", 0)
    options = options_for(tmp_path, NETWORKS[name])
    outcome = infer_folder(replace(options, heatmaps=tmp_path / "heat", heatmaps_for="all"))
    assert any(note.startswith("13 heatmaps were written") for note in outcome.notes)
    for path in (tmp_path / "heat").rglob("*.heatmap.jpg"):
        picture = cv2.imread(str(path))
        assert picture is not None
        assert picture.shape[0] == 40


@pytest.mark.parametrize("name", WITHOUT_MAP)
def test_heatmaps_without_a_map_are_refused_before_the_run(tmp_path: Path, name: str) -> None:
    options = replace(options_for(tmp_path, NETWORKS[name]), heatmaps=tmp_path / "heat")
    with pytest.raises(UsageError, match="no exact activation map") as caught:
        infer_folder(options)
    assert "Omit --heatmaps" in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not list((tmp_path / "heat").rglob("*.*"))
    assert not (options.output / "predictions.csv").exists()


def test_a_foreign_model_says_what_is_not_known_of_it(tmp_path: Path) -> None:
    options = options_for(tmp_path, NETWORKS["299 px"])
    NETWORKS["299 px"].build(options.model, source=SOURCE, backbone="inceptionv3")
    outcome = infer_folder(options)
    assert any(
        note.startswith("The threshold of this model is not known, and 0.5 was assumed") for note in outcome.notes
    )
    page = (options.output / "report.html").read_text("utf-8")
    record = json.loads((options.output / "run.json").read_text("utf-8"))
    assert record["model"]["source"]["framework"] == "tf_keras 2.21.0"
    unknown = record["model"]["unknown"]
    for words in ("decision threshold (0.5 is assumed)", "not calibrated", "sensitivity and specificity"):
        assert words in unknown
    assert unknown in page
    assert "Not trained by glomedge: exported from a Keras 2 file, read by tf_keras 2.21.0" in page
    assert "InceptionV3, 299 x 299 px, exact activation map of 13 x 13 cells" in page
    # No sensitivity and specificity, no corrected percentage.
    header, *rows = (options.output / "cases.csv").read_text("utf-8").splitlines()
    corrected = [index for index, column in enumerate(header.split(",")) if column.startswith("corrected")]
    assert corrected
    assert all(not row.split(",")[index] for row in rows for index in corrected)
    told = infer_folder(replace(options, threshold=0.4, overwrite=True))
    assert not any("was assumed" in note for note in told.notes)
