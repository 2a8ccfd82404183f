"""What a run says of how it found the biopsies, and names that must come through a spreadsheet."""

from __future__ import annotations

import csv
import html
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from glomedge.cli import app
from glomedge.engine.options import EngineOptions
from glomedge.errors import UsageError
from glomedge.files.names import restore
from glomedge.runs.folder import Options, infer_folder
from helpers.run_kit import table, write_crops


@pytest.fixture
def options(tmp_path: Path, tiny_model: Path) -> Options:
    write_crops(tmp_path / "crops", 30, broken=0)
    return Options(tmp_path / "crops", tiny_model, tmp_path / "out", engine=EngineOptions("cpu"))


def test_a_pattern_that_fits_no_name_is_refused_before_anything_is_predicted(options: Options) -> None:
    with pytest.raises(
        UsageError, match=r"matches none of the 30 names, such as a/case0-0\.png.*Correct --case-pattern"
    ):
        infer_folder(replace(options, case_pattern=r"(?P<case>nothing)_.*"))
    assert not (options.output / "predictions.csv").exists()


def test_how_biopsies_were_found_is_on_screen_in_the_record_and_atop_the_report(options: Options) -> None:
    donor = options.folder / "b" / "case2-5.png"
    for place in (
        "2026-11-25/S21-1234 [x=1,y=4,w=300,h=300].png", "2026-11-25/S21-1234 [d=2,x=9,y=4,w=300,h=300].png",
        "B7/crop.png", "@eaDir/case1-1.png/SYNOPHOTO_THUMB_M.png",
    ):  # fmt: skip
        (options.folder / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(donor, options.folder / place)
    shown = (
        CliRunner()
        .invoke(
            app,
            ["infer", str(options.folder), "-m", str(options.model), "-o", str(options.output), "--provider", "cpu"],
        )
        .output
    )
    summary = "32 crops: by name (QuPath or HistomicsTK: 2, running number: 30); 1 crop: from the folder 'B7'"
    warning = (
        "CHECK: the name of 1 crop does not identify a biopsy, unlike the others; it is assigned to the folder 'B7'."
    )
    record = json.loads((options.output / "run.json").read_text("utf-8"))
    report = html.unescape((options.output / "report.html").read_text("utf-8"))
    for text in (shown, record["biopsies_found"]["summary"], report[: report.index('id="cases"')]):
        assert summary in text
    for text in (shown, *record["biopsies_found"]["warnings"], report[: report.index('id="cases"')]):
        assert warning in text
    assert record["biopsies_found"]["counts"] == {"folder": 1, "region": 2, "running number": 30}
    assert {row["case"] for row in table(options.output)} == {"case0", "case1", "case2", "S21-1234", "B7"}
    assert any("@eaDir (1)" in note for note in record["notes"])


def test_ids_and_accents_survive_a_spreadsheet(options: Options) -> None:
    donor = (options.folder / "b" / "case2-5.png").read_bytes()
    cases = {"12-3": "'12-3", "1E5": "'1E5", "0012": "'0012", "=1+1": "'=1+1", "M\u00fcller": "M\u00fcller"}
    for case in cases:
        (options.folder / f"{case}_PAS_1of1_x.png").write_bytes(donor)
    infer_folder(replace(options, formats=("csv-bom", "jsonl")))
    expected = {*cases.values(), "case0", "case1", "case2"}
    for name in ("cases.csv", "predictions.csv"):
        data = (options.output / name).read_bytes()
        assert data.startswith(b"\xef\xbb\xbf" + (b"case," if name == "cases.csv" else b"path,"))
        assert {row["case"] for row in csv.DictReader(data.decode("utf-8-sig").splitlines())} == expected
    assert {restore(case) for case in expected} == {*cases, "case0", "case1", "case2"}
    records = [json.loads(line) for line in (options.output / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert {record["case"] for record in records} >= set(cases)
    plain = replace(options, output=options.output.with_name("plain"))
    infer_folder(plain)
    assert (plain.output / "cases.csv").read_bytes().startswith(b"case,")
    assert (plain.output / "predictions.csv").read_bytes().startswith(b"path,")
