"""``glomedge infer-ray`` but for Ray: parts, resuming, publication; a worker runs in this process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glomedge.about import RESEARCH_USE_NOTICE
from glomedge.cluster.cohort import infer_cohort
from glomedge.cluster.options import CohortOptions
from glomedge.cluster.plan import part_rows_for
from glomedge.cluster.worker import MOST_ATTEMPTS, Done, Job, Worker
from glomedge.errors import OutputError, UsageError
from glomedge.runs.options import Options
from helpers.cohort_kit import Here, plainly, poison, published, require_poisoned, require_same

pytest.importorskip("pyarrow", reason="a run on Ray writes Parquet (extra ray)")


def again(cohort: CohortOptions, **changes: Any) -> CohortOptions:
    return replace(cohort, run=replace(cohort.run, **changes))


def test_the_rows_are_those_of_infer(cohort: CohortOptions, tmp_path: Path) -> None:
    shown: list[tuple[int, int]] = []
    outcome = infer_cohort(cohort, Here(), progress=lambda done, total: shown.append((done, total)))
    expected = plainly(cohort, tmp_path / "plain")
    require_same(published(cohort.output), expected)
    assert published(cohort.output) == expected  # the same batches: to the last bit
    assert outcome.complete
    assert outcome.exit_code == 2
    assert outcome.errors == {"truncated": 2}
    assert shown[0] == (0, 90)
    assert shown[-1] == (90, 90)
    assert sorted(path.name for path in Path(cohort.output).iterdir()) == [
        ".glomedge", "cases.parquet", "predictions", "report.html", "run.json",
    ]  # fmt: skip


def test_a_worker_answers_parts_at_the_same_time(cohort: CohortOptions, tmp_path: Path) -> None:
    def two_at_once(
        job: Job, model: bytes, parts: Sequence[int], done: Callable[[Done], None], stop: Callable[[], bool]
    ) -> bool:
        worker = Worker(job, model)
        try:
            with ThreadPoolExecutor(2) as threads:
                for said in threads.map(worker.answer, parts):
                    done(said)
        finally:
            worker.close()
        return True

    assert infer_cohort(cohort, two_at_once).complete
    assert published(cohort.output) == plainly(cohort, tmp_path / "plain")  # to the last bit


def test_record_cases_and_report_are_those_of_infer(cohort: CohortOptions, tmp_path: Path) -> None:
    import pyarrow.parquet

    infer_cohort(cohort, Here())
    plainly(cohort, tmp_path / "plain")
    record, plain = (
        json.loads((folder / "run.json").read_text("utf-8")) for folder in (Path(cohort.output), tmp_path / "plain")
    )
    for name in (
        "notice",
        "model",
        "threshold",
        "provider",
        "batch_size",
        "inputs",
        "rows",
        "counts",
        "errors",
        "cases",
    ):
        assert record[name] == plain[name], name
    assert record["biopsies_found"] == plain["biopsies_found"]
    assert record["parts"] == 5
    assert record["engine"]["provider"] == "cpu"
    cases = pyarrow.parquet.read_table(Path(cohort.output) / "cases.parquet").to_pylist()
    text = (tmp_path / "plain" / "cases.csv").read_text("utf-8").splitlines()[1:]
    assert [f"{row['case']},{row['slides']},{row['crops']},{row['classified']}" for row in cases] == [
        ",".join(line.split(",")[:4]) for line in text
    ]
    assert {row["notice"] for row in cases} == {RESEARCH_USE_NOTICE}
    report, other = (
        (folder / "report.html").read_text("utf-8") for folder in (Path(cohort.output), tmp_path / "plain")
    )
    assert report.count("data:image/jpeg") == other.count("data:image/jpeg") >= 88


def test_a_run_that_was_stopped_goes_on_where_it_was(cohort: CohortOptions, tmp_path: Path) -> None:
    first = Here(most=2)
    assert not infer_cohort(cohort, first).complete
    with pytest.raises(OutputError, match=r"2 of 5 parts answered\. Run again with --resume"):
        infer_cohort(cohort, Here())
    second = Here()
    outcome = infer_cohort(again(cohort, resume=True), second)
    assert first.answered + second.answered == [0, 1, 2, 3, 4]
    assert outcome.predicted == 90 - 32
    require_same(published(cohort.output), plainly(cohort, tmp_path / "plain"))


def test_a_finished_run_is_published_again_without_workers(cohort: CohortOptions) -> None:
    infer_cohort(cohort, Here())
    before = {path.name: path.read_bytes() for path in Path(cohort.output, "predictions").iterdir()}
    Path(cohort.output, "run.json").unlink()
    here = Here()
    assert infer_cohort(again(cohort, resume=True), here).predicted == 0
    assert here.answered == []
    assert json.loads(Path(cohort.output, "run.json").read_text("utf-8"))["rows"] == 90
    assert {path.name: path.read_bytes() for path in Path(cohort.output, "predictions").iterdir()} == before


@pytest.mark.parametrize(
    "damage", ["cut", pytest.param("gone", marks=pytest.mark.slow), pytest.param("another", marks=pytest.mark.slow)]
)
def test_a_part_that_is_not_its_own_is_named_and_answered_again(
    cohort: CohortOptions, tmp_path: Path, damage: str
) -> None:
    infer_cohort(cohort, Here())
    parts = sorted(Path(cohort.output, "predictions").iterdir())
    data = {"gone": b"", "cut": parts[1].read_bytes()[:-9], "another": parts[2].read_bytes()}[damage]
    parts[1].write_bytes(data)
    with pytest.raises(OutputError, match=r"part-00001-of-5\.\w+\.parquet is not what its worker wrote"):
        infer_cohort(again(cohort, resume=True), Here())
    here = Here()
    infer_cohort(again(cohort, resume=True), here)
    assert here.answered == [1]
    require_same(published(cohort.output), plainly(cohort, tmp_path / "plain"))


def test_another_run_does_not_go_on_here(cohort: CohortOptions) -> None:
    infer_cohort(cohort, Here(most=1))
    with pytest.raises(OutputError, match=r"cannot be resumed with other settings: threshold 0\.5 and 0\.25"):
        infer_cohort(again(cohort, resume=True, threshold=0.25), Here())
    outcome = infer_cohort(again(cohort, overwrite=True, threshold=0.25), Here())
    assert outcome.record["threshold"] == 0.25
    assert len(published(cohort.output)) == 90


def test_errors_of_the_storage_are_asked_for_again(cohort: CohortOptions, tmp_path: Path) -> None:
    crop = cohort.run.folder / "a" / "case0-30.png"
    crop.rename(tmp_path / "away.png")
    outcome = infer_cohort(cohort, Here())
    assert outcome.errors == {"truncated": 2, "vanished": 1}
    assert "run again with --resume to ask for them once more" in outcome.notes[-1]
    (tmp_path / "away.png").rename(crop)
    # No finished run is there while one of its parts is not.
    assert not infer_cohort(again(cohort, resume=True), Here(most=0)).complete
    assert sorted(path.name for path in Path(cohort.output).iterdir()) == [".glomedge", "predictions"]
    here = Here()
    outcome = infer_cohort(again(cohort, resume=True), here)
    assert outcome.errors == {"truncated": 2}
    assert len(here.answered) == 1
    require_same(published(cohort.output), plainly(cohort, tmp_path / "plain"))


def test_crops_that_were_replaced_are_answered_again(cohort: CohortOptions, tmp_path: Path) -> None:
    infer_cohort(cohort, Here())
    names = [row["path"] for row in published(cohort.output)]
    shutil.copyfile(cohort.run.folder / names[5], cohort.run.folder / names[20])
    here = Here()
    outcome = infer_cohort(again(cohort, resume=True), here)
    assert here.answered == [1]
    assert "Parts with crops that were replaced since are answered again: 1." in outcome.notes
    rows = published(cohort.output)
    assert rows[20]["sha256"] == rows[5]["sha256"]
    require_same(rows, plainly(cohort, tmp_path / "plain"))
    # Of a part without that knowledge it cannot be told.
    next(Path(cohort.output, ".glomedge", "stamps").glob("3.*")).unlink()
    here = Here()
    infer_cohort(again(cohort, resume=True), here)
    assert here.answered == [3]


def test_a_crop_that_ends_its_decoder_costs_its_row(
    cohort: CohortOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, expected = "a/case0-30.png", plainly(cohort, tmp_path / "plain")
    monkeypatch.setenv("PYTHONPATH", poison(tmp_path / "poison", cohort.run.folder / name))
    outcome = infer_cohort(cohort, Here())
    assert outcome.errors == {"decoder": 1, "truncated": 2}
    require_poisoned(published(cohort.output), expected, name)


def test_a_part_that_ends_every_worker_is_named(cohort: CohortOptions) -> None:
    jobs = list[tuple[Job, bytes]]()

    def stopped(job: Job, model: bytes, *given: Any) -> bool:
        jobs.append((job, model))
        return False

    assert not infer_cohort(cohort, stopped).complete
    worker = Worker(*jobs[0])
    for _ in range(MOST_ATTEMPTS):  # what workers leave that are killed
        worker._begin(3, [])
    with pytest.raises(OutputError, match=r"10 workers have ended while they answered part 3, \w/case.*\.png to "):
        worker.answer(3)
    worker.close()
    # A new driver counts anew.
    assert infer_cohort(again(cohort, resume=True), Here()).complete


def test_files_of_others_are_not_replaced(cohort: CohortOptions) -> None:
    Path(cohort.output).mkdir()
    Path(cohort.output, "run.json").write_text("mine")
    with pytest.raises(OutputError, match=r"holds run\.json, and no plan"):
        infer_cohort(cohort, Here())


def test_two_runs_do_not_share_a_folder(cohort: CohortOptions) -> None:
    def nested(*given: Any) -> bool:
        with pytest.raises(OutputError, match="Another run"):
            infer_cohort(again(cohort, resume=True), Here())
        return False

    assert not infer_cohort(cohort, nested).complete


def test_late_writes_of_a_run_that_was_replaced_are_no_results(cohort: CohortOptions) -> None:
    infer_cohort(cohort, Here(most=1))
    folder = Path(cohort.output, "predictions")
    (late,) = folder.iterdir()
    stale = late.read_bytes()

    def written_late(*given: Any) -> bool:
        folder.mkdir(exist_ok=True)
        late.write_bytes(stale)
        return Here()(*given)

    assert infer_cohort(again(cohort, overwrite=True, threshold=0.25), written_late).complete
    assert not late.exists()
    assert {row["threshold"] for row in published(cohort.output)} == {0.25}
    # What glomedge did not write it does not remove.
    (folder / "part-7.parquet").write_bytes(stale)
    with pytest.raises(OutputError, match=r"predictions holds part-7\.parquet, which is not of glomedge infer-ray"):
        infer_cohort(again(cohort, resume=True, threshold=0.25), Here())
    assert (folder / "part-7.parquet").exists()


@pytest.mark.parametrize("gpu", [False, True])
def test_parts_depend_on_the_inputs_alone(gpu: bool) -> None:
    assert part_rows_for(90, 16, gpu=gpu) == 128
    assert part_rows_for(90, 64, gpu=gpu) == 256  # four batches, of which the last ones are smaller
    assert part_rows_for(10_000_000, 16, gpu=gpu) == 4096
    assert part_rows_for(1000, 16, gpu=gpu, wanted=100) == 112


def test_parts_that_no_one_sees_are_no_results(cohort: CohortOptions) -> None:
    with pytest.raises(OutputError, match=r"5 parts of 5 are not in .* Every node must see that folder"):
        infer_cohort(cohort, lambda *given: True)


def test_slides_are_refused(cohort: CohortOptions, tmp_path: Path) -> None:
    (tmp_path / "crops.csv").write_text("path\na/case0-0.png\nS-1.svs\n")
    with pytest.raises(UsageError, match=r"1 slide, such as S-1\.svs\. infer-ray answers crops"):
        infer_cohort(again(cohort, inputs=tmp_path / "crops.csv"), Here())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"workers": 0}, "--workers must be at least 1"),
        ({"cpus_per_worker": 0}, "--cpus-per-worker must be at least 1"),
        ({"part_rows": 0}, "--part-rows must be at least 1"),
        ({"workers": 10_001}, "--workers must be 1 to 10000"),
    ],
)
def test_numbers_out_of_range_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(CohortOptions(Options(Path("crops")), "out"), **change).checked()
