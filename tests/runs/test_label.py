"""The choice of crops of a folder, the page and the tables that are written, and two readers made one."""

from __future__ import annotations

import base64
import csv
import json
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from glomedge.cases.labels import read_site_labels
from glomedge.cli import app
from glomedge.engine.options import EngineOptions
from glomedge.errors import DatasetError, UsageError
from glomedge.files.writing import sha256_of
from glomedge.model.crop_digests import pack
from glomedge.runs import label as label_run
from glomedge.runs.label import Labelling, LabelOptions, merge_readers, prepare_labelling
from glomedge.runs.recalibrate import RecalibrateOptions, recalibrate_models
from helpers.builders import build_tiny_model
from helpers.page_checks import check_markup
from helpers.sites import training_provenance, write_site

CPU = EngineOptions(provider="cpu")


@pytest.fixture
def work(tmp_path: Path) -> Path:
    write_site(tmp_path / "crops")
    build_tiny_model(tmp_path / "model.onnx", recipe="plain")
    return tmp_path


def options(work: Path, **changed: Any) -> LabelOptions:
    asked = LabelOptions(work / "crops", work / "model.onnx", work / "out", count=20, engine=CPU)
    return replace(asked, **changed)


def run(asked: LabelOptions) -> Labelling:
    made = prepare_labelling(asked)
    assert made is not None
    return made


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_page_and_the_table_hold_the_same_crops_at_their_own_size(work: Path) -> None:
    made = run(options(work))
    table = rows(made.table)
    assert [list(row) for row in table] == [["name", "weight", "case"]] * 20
    assert made.chosen == len({row["name"] for row in table}) == 20
    assert {row["case"] for row in table} <= {f"S-10{index:02d}" for index in range(6)}
    assert sum(float(row["weight"]) for row in table) == pytest.approx(60, rel=0.25)
    page = made.page.read_text("utf-8")
    check_markup(re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))
    found = re.findall(r'data-name="([^"]+)" data-weight="([^"]+)">data:image/jpeg;base64,([^<]+)<', page)
    assert [(name, weight) for name, weight, _ in found] == [(row["name"], row["weight"]) for row in table]
    for name, _, data in found:
        shown = cv2.imdecode(np.frombuffer(base64.b64decode(data), np.uint8), cv2.IMREAD_COLOR)
        there = cv2.imread(str(work / "crops" / name))
        assert shown is not None
        assert there is not None
        assert shown.shape == there.shape
        assert np.abs(shown.astype(int) - there).mean() < 3


def test_no_probability_and_no_model_is_on_the_page(work: Path) -> None:
    page = run(options(work)).page.read_text("utf-8")
    visible = re.sub(r"<script.*?</script>|<style.*?</style>", "", page, flags=re.DOTALL)
    assert "probab" not in page.lower()
    assert "S-10" not in visible  # nor the biopsy, which could say what to expect
    assert "://" not in page
    assert "Research use only" in visible


def test_the_same_seed_writes_the_same_bytes(work: Path) -> None:
    first = run(options(work))
    before = first.page.read_bytes(), first.table.read_bytes()
    again = run(options(work))
    assert (again.page.read_bytes(), again.table.read_bytes()) == before
    assert run(options(work, seed=1)).table.read_bytes() != before[1]


def test_crops_of_the_training_and_unreadable_ones_are_not_offered(work: Path) -> None:
    crops = sorted((work / "crops").glob("*.png"))
    seen = pack(sha256_of(path) for path in crops[:30])
    build_tiny_model(work / "model.onnx", recipe="plain", training=training_provenance(crop_digests=seen))
    crops[40].write_bytes(b"\x89PNG")
    made = run(options(work, count=60))
    names = {row["name"] for row in rows(made.table)}
    assert names == {path.name for path in crops[30:]} - {crops[40].name}
    assert any("30 crops were used to train the model" in note for note in made.notes)
    assert any("1 crops could not be classified" in note for note in made.notes)
    build_tiny_model(
        work / "model.onnx", recipe="plain",
        training=training_provenance(crop_digests=pack(sha256_of(path) for path in crops)),
    )  # fmt: skip
    with pytest.raises(DatasetError, match="trained on all of them"):
        run(options(work))


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"count": 0}, "-n must be"),
        ({"count": 1001}, "-n must be"),
        ({"seed": -1}, "--seed"),
        ({"workers": 0}, "--workers"),
    ],
)
def test_wrong_options_are_refused(work: Path, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        prepare_labelling(options(work, **changed))


def test_a_crop_that_vanishes_before_its_picture_is_drawn_is_named(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = label_run._write

    def vanish_first(*arguments: Any) -> None:
        for path in (work / "crops").glob("*.png"):
            path.unlink()
        real(*arguments)

    monkeypatch.setattr(label_run, "_write", vanish_first)
    with pytest.raises(DatasetError, match=r"S-10\S+\.png was classified but cannot be read again"):
        run(options(work))
    assert not (work / "out" / "label.html").exists()


def test_an_empty_folder_is_an_error(work: Path) -> None:
    (work / "empty").mkdir()
    with pytest.raises(DatasetError, match="no image"):
        prepare_labelling(options(work, folder=work / "empty"))


def test_a_stopped_run_writes_no_page(work: Path) -> None:
    assert prepare_labelling(options(work), stop=lambda: True) is None
    assert not (work / "out" / "label.html").exists()


def test_from_the_choice_to_the_recalibrated_model(work: Path) -> None:
    made = run(options(work, count=30))
    truth = dict(line.split(",") for line in (work / "crops" / "public.csv").read_text().splitlines()[1:])
    labels = work / "labels.csv"
    lines = [f"{row['name']},{truth[row['name']]},{row['weight']},Ada" for row in rows(made.table)]
    labels.write_text("name,ground truth,weight,reader\n" + "\n".join(lines) + "\n", "utf-8")
    new = work / "north.onnx"
    result = recalibrate_models(
        RecalibrateOptions((work / "model.onnx",), labels, work / "crops", "North Lab", new, engine=CPU)
    )
    assert result is not None
    assert result[0].site.crops == 30
    assert result[0].after.accuracy.k > result[0].before.accuracy.k


# --- two readers ----------------------------------------------------------------------------------------------------


def reader_table(path: Path, reader: str, labels: dict[str, str], weight: str = "2.5") -> Path:
    lines = [f"{name},{label},{weight},{reader}" for name, label in labels.items()]
    path.write_text("name,ground truth,weight,reader\n" + "\n".join(lines) + "\n", "utf-8")
    return path


def test_two_readers_are_merged_and_their_kappa_is_reported(tmp_path: Path) -> None:
    ada = {f"{index}.png": "1" if index < 8 else "0" for index in range(20)} | {"x.png": "unsure", "a.png": "1"}
    bo = {f"{index}.png": "1" if index < 10 else "0" for index in range(20)} | {"x.png": "1"}
    first, second = reader_table(tmp_path / "a.csv", "Ada", ada), reader_table(tmp_path / "b.csv", "Bo", bo)
    found = merge_readers(first, second, tmp_path / "out")
    assert found.disagreed == ("8.png", "9.png")
    assert found.alone == ("a.png", "x.png")
    assert (found.agreement.agreed, found.agreement.crops) == (18, 20)
    merged = read_site_labels(found.path)
    assert merged.labels == {f"{index}.png": int(index < 8) for index in range(20) if index not in (8, 9)}
    assert set(merged.weights.values()) == {2.5}
    assert merged.readers == ("Ada and Bo",)
    result = CliRunner().invoke(app, ["label", "--two-readers", str(first), str(second), "-o", str(tmp_path / "cli")])
    assert result.exit_code == 0, result.output
    # Observed 0.9, expected 0.4 * 0.5 + 0.6 * 0.5 = 0.5.
    assert "18 of 20 crops have the same label" in result.output
    assert "Cohen's kappa 0.80 (95% interval" in result.output
    assert "disagreed: 8.png" in result.output
    assert (tmp_path / "cli" / "merged-labels.csv").read_bytes() == found.path.read_bytes()


@pytest.mark.parametrize("named", [("labels.csv", "bo.csv"), ("ada.csv", "labels.csv"), ("merged-labels.csv", "b.csv")])
def test_merging_leaves_the_readers_tables_as_they_are(tmp_path: Path, named: tuple[str, str]) -> None:
    first, second = (reader_table(tmp_path / name, name, {"a.png": "1", "b.png": "0"}) for name in named)
    before = first.read_bytes(), second.read_bytes()
    asked = ["label", "--two-readers", str(first), str(second), "-o", str(tmp_path)]
    result = CliRunner().invoke(app, asked)
    if "merged-labels.csv" in named:
        assert isinstance(result.exception, UsageError)
        assert "would be overwritten" in str(result.exception)
    else:
        assert result.exit_code == 0, result.output
        assert read_site_labels(tmp_path / "merged-labels.csv").labels == {"a.png": 1, "b.png": 0}
    assert (first.read_bytes(), second.read_bytes()) == before


def test_tables_of_two_pages_are_not_merged(tmp_path: Path) -> None:
    first = reader_table(tmp_path / "a.csv", "Ada", {"a.png": "1"})
    with pytest.raises(DatasetError, match="no crop in common"):
        merge_readers(first, reader_table(tmp_path / "b.csv", "Bo", {"b.png": "1"}), tmp_path)
    with pytest.raises(DatasetError, match="different weights"):
        merge_readers(first, reader_table(tmp_path / "c.csv", "Bo", {"a.png": "1"}, weight="3"), tmp_path)


# --- the command ----------------------------------------------------------------------------------------------------


def test_the_command_says_what_comes_next(work: Path) -> None:
    asked = [
        "label",
        str(work / "crops"),
        "-m",
        str(work / "model.onnx"),
        "-n",
        "10",
        "-o",
        str(work / "out"),
        "-p",
        "cpu",
    ]
    result = CliRunner().invoke(app, asked)
    assert result.exit_code == 0, result.output
    assert "10 of 60 crops chosen" in result.output
    assert "glomedge recalibrate" in result.output
    assert "Research use only" in result.output
    document = json.loads(CliRunner().invoke(app, [*asked, "--json"]).output)
    assert (document["chosen"], document["crops"], document["all_cases"]) == (10, 60, 6)


def test_the_printed_command_can_be_pasted_into_a_shell(work: Path) -> None:
    odd, model = work / "o'neill's crops", work / "model (1).onnx"
    (work / "crops").rename(odd)
    (work / "model.onnx").rename(model)
    result = CliRunner().invoke(app, ["label", str(odd), "-m", str(model), "-n", "5", "-o", str(work), "-p", "cpu"])
    assert result.exit_code == 0, result.output
    (command,) = [line for line in result.output.splitlines() if line.startswith("  glomedge recalibrate")]
    words = shlex.split(command)
    assert words[2:6] == [str(model), "labels.csv", "--images", str(odd)]


@pytest.mark.parametrize("arguments", [[], ["crops", "--two-readers", "a.csv", "b.csv"]])
def test_a_folder_or_two_readers_but_not_both(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, ["label", *arguments])
    assert isinstance(result.exception, UsageError)
