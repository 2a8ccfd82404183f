"""``glomedge infer --shard``, ``merge`` and ``manifest`` on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cli import app
from helpers.run_kit import table, write_crops


def run(*arguments: object) -> tuple[int, str]:
    """Exit code and what was printed, or the message of the error that the entry point prints."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    return result.exit_code, " ".join((result.output or str(result.exception)).split())


def test_a_listed_folder_is_shared_and_merged(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_crops(tmp_path / "crops", 12, broken=0)
    monkeypatch.chdir(tmp_path)
    code, said = run("manifest", "crops", "-o", "list.csv")
    assert code == 0, said
    assert said == f"list.csv: 12 inputs. {RESEARCH_USE_NOTICE}"
    asked = ["infer", "crops", "--inputs", "list.csv", "-m", tiny_model, "--provider", "cpu", "-o", "run"]
    for shard in ("1/2", "2/2"):
        code, said = run(*asked, "--shard", shard, "--by", "case")
        assert code == 0, said
        assert f"Shard {shard} by case: " in said
        assert " of 12 inputs on cpu" in said or " of 12 inputs on none" in said
        assert "When all 2 are done: glomedge merge run -o RESULTS" in said
        assert RESEARCH_USE_NOTICE in said
        assert "%" not in said.replace("95%", "")  # no biopsy's percentage from a part
    # The merge asks from another folder: paths are those of the folder in which the shards ran.
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    code, said = run("merge", "../run", "-o", "results")
    assert code == 0, said
    assert "12 inputs on cpu" in said
    assert "Written to results: predictions.csv, cases.csv, report.html, run.json" in said
    assert len(table(Path("results"))) == 12
    code, said = run("merge", "../run", "-o", "results")
    assert code == 1
    assert "replace what is there with --overwrite" in said
    result = CliRunner().invoke(app, ["merge", "../run", "-o", "results", "--overwrite", "--json"])
    record = json.loads(result.stdout)
    assert [shard["shard"] for shard in record["shards"]] == ["1/2 by case", "2/2 by case"]
    assert record["arguments"]["folder"].endswith("crops")
    assert sum(shard["rows"] for shard in record["shards"]) == record["rows"] == 12


def test_broken_crops_give_the_exit_code_of_infer(tmp_path: Path, tiny_model: Path) -> None:
    write_crops(tmp_path / "crops", 6, broken=1)
    asked = ["infer", tmp_path / "crops", "-m", tiny_model, "--provider", "cpu", "-o", tmp_path / "run"]
    codes = {run(*asked, "--shard", f"{number}/2")[0] for number in (1, 2)}
    assert codes == {0, 2}
    assert run("merge", tmp_path / "run", "-o", tmp_path / "merged")[0] == 2


def test_what_cannot_be_merged_is_said_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    code, said = run("merge", tmp_path / "empty", "-o", tmp_path / "merged")
    assert code == 1
    assert "is not the folder of a shard, and has none in it" in said
    assert not (tmp_path / "merged").exists()
