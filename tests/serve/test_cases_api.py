"""``POST /v1/cases``: the numbers are those of ``glomedge infer`` on the same crops."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path
from typing import Any

import pytest

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cases.summary import CaseSummary, to_row
from glomedge.engine.options import EngineOptions
from glomedge.model.spec import OperatingPoint
from glomedge.runs.folder import Options, infer_folder
from helpers.builders import build_tiny_model
from helpers.run_kit import table, write_crops
from helpers.server import Server, serving
from helpers.sites import training_provenance


def post(server: Server, document: Any) -> Any:
    """The reply to a document."""
    return server.request("POST", "/v1/cases", json.dumps(document).encode())


def crops_of(folder: Path, names: list[str]) -> list[dict[str, str]]:
    """Crops as the request has them."""
    return [{"name": name, "data": base64.b64encode((folder / name).read_bytes()).decode()} for name in names]


def rows_of(folder: Path) -> list[dict[str, str]]:
    """The rows of ``cases.csv``."""
    with (folder / "cases.csv").open(encoding="utf-8", newline="") as handle:
        return list(csv.DictReader(handle))


def test_the_rows_are_those_of_cases_csv(server: Server, tiny_model: Path, tmp_path: Path) -> None:
    names = write_crops(tmp_path / "crops", 40, broken=2)
    infer_folder(Options(tmp_path / "crops", tiny_model, tmp_path / "out", EngineOptions("cpu")))
    document = post(server, {"crops": crops_of(tmp_path / "crops", names)}).json()
    assert document["notice"] == RESEARCH_USE_NOTICE
    assert [to_row(CaseSummary(**case)) for case in document["cases"]] == rows_of(tmp_path / "out")
    assert len(document["cases"]) == 3
    rows = table(tmp_path / "out")
    assert [crop["name"] for crop in document["crops"]] == [row["path"] for row in rows]
    for crop, row in zip(document["crops"], rows, strict=True):
        assert (crop["sha256"], crop["status"]) == (row["sha256"], row["status"])
        assert str("" if crop["label"] is None else crop["label"]) == row["label"]
        if row["probability"]:
            assert crop["probability"] == pytest.approx(float(row["probability"]), abs=1e-6)
        else:
            assert crop["probability"] is None
    assert "Not calibrated" in document["notes"][0]


def test_a_case_that_is_named_holds_all_crops(server: Server, tmp_path: Path) -> None:
    names = write_crops(tmp_path, 6, broken=0)
    document = post(server, {"crops": crops_of(tmp_path, names), "case": "S-21", "exclude_flagged": True}).json()
    (case,) = document["cases"]
    flagged = sum(crop["status"].startswith("flagged") for crop in document["crops"])
    assert (case["case"], case["crops"], case["classified"]) == ("S-21", 6, 6 - flagged)


def test_at_its_site_percentages_are_corrected_as_by_infer(tmp_path: Path) -> None:
    point = OperatingPoint(true_positive=45, false_negative=5, true_negative=90, false_positive=10)
    model = tmp_path / "model.onnx"
    build_tiny_model(model, operating_point=point, training=training_provenance(site="Here"))
    names = write_crops(tmp_path / "crops", 12, broken=0)
    infer_folder(Options(tmp_path / "crops", model, tmp_path / "out", EngineOptions("cpu"), site="Here"))
    with serving(model, "--site", "Here") as server:
        document = post(server, {"crops": crops_of(tmp_path / "crops", names)}).json()
    assert document["notes"] == []
    assert [to_row(CaseSummary(**case)) for case in document["cases"]] == rows_of(tmp_path / "out")
    assert all(case["corrected_percent_gs"] is not None for case in document["cases"])


@pytest.mark.parametrize(
    "document",
    [
        {}, {"crops": []}, {"crops": ["a"]}, {"crops": [{"name": "a"}]}, {"crops": [{"data": "AAAA"}]},
        {"crops": [{"name": "", "data": "AAAA"}]}, {"crops": [{"name": "a\0", "data": "AAAA"}]},
        {"crops": [{"name": "\ud800", "data": "AAAA"}]}, {"crops": [{"name": "a", "data": "ä"}]},
        {"crops": [{"name": "a", "data": "AAAA"}] * 2}, {"crops": [{"name": "a" * 1001, "data": "AAAA"}]},
        {"crops": [{"name": str(index), "data": ""} for index in range(2001)]},
        {"crops": [{"name": "a", "data": "AAAA"}], "case": 3},
        {"crops": [{"name": "a", "data": "AAAA"}], "exclude_flagged": "no"},
    ],
)  # fmt: skip
def test_what_cannot_be_understood_is_400(server: Server, document: Any) -> None:
    reply = post(server, document)
    assert reply.status == 400
    assert len(reply.json()["error"]) > 20


def test_names_never_reach_the_log(server: Server, tmp_path: Path) -> None:
    # A name that no other test gives to this server: an unknown model's name stands in the path, which is logged.
    (tmp_path / "Mustermann-S21.png").write_bytes(b"no picture")
    document = post(server, {"crops": crops_of(tmp_path, ["Mustermann-S21.png"])}).json()
    assert document["cases"][0]["errors"] == 1
    assert b"Mustermann" not in bytes(server.raw)
