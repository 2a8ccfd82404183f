"""A node that does not see the crops ends the run; it does not answer it with rows that say that they are gone."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glomedge.cluster.cohort import infer_cohort
from glomedge.cluster.options import CohortOptions
from glomedge.errors import OutputError
from glomedge.files import storage
from glomedge.files.addresses import Address
from glomedge.pipeline.inputs import Found
from glomedge.pipeline.witnesses import evenly
from helpers.cohort_kit import Here, plainly, published, require_same
from helpers.s3_server import Objects, reachable

pytest.importorskip("pyarrow", reason="a run on Ray writes Parquet (extra ray)")


def elsewhere(root: Path) -> Callable[..., bool]:
    """Workers on a node where the crops' folder is another one."""

    def answered(job: Any, *given: Any) -> bool:
        return Here()(replace(job, root=os.fsencode(root)), *given)

    return answered


def require_nothing_published(cohort: CohortOptions) -> None:
    assert published(cohort.output) == []
    assert not Path(cohort.output, "run.json").exists()


def test_a_node_without_the_folder_is_named(cohort: CohortOptions, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"does not see the folder /.*gone\. Mount it on every node, then .*--resume"):
        infer_cohort(cohort, elsewhere(tmp_path / "gone"))
    require_nothing_published(cohort)


def test_a_mount_point_without_its_mount_is_no_folder_of_crops(cohort: CohortOptions, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(
        OutputError, match=r"could read none of 16 crops in a row in /.*empty, .*mend it, then run again"
    ):
        infer_cohort(cohort, elsewhere(tmp_path / "empty"))
    require_nothing_published(cohort)
    infer_cohort(replace(cohort, run=replace(cohort.run, resume=True)), Here())
    require_same(published(cohort.output), plainly(cohort, tmp_path / "plain"))


def test_crops_that_are_gone_where_others_are_seen_have_their_rows(cohort: CohortOptions) -> None:
    paths = sorted(cohort.run.folder.rglob("*.png"))
    for path in paths[16:32]:  # the second part
        path.unlink()
    outcome = infer_cohort(cohort, Here())
    assert outcome.complete
    assert outcome.errors["vanished"] == 16
    assert len(published(cohort.output)) == 90


def test_storage_that_goes_away_ends_the_run(
    cohort: CohortOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip("obstore", reason="obstore (extra storage) is not installed")
    monkeypatch.setattr(storage, "_MAX_RETRIES", 1)
    monkeypatch.setattr(storage, "_FIRST_BACKOFF_S", 0.001)
    folder = cohort.run.folder
    objects = Objects({f"night/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*.png")})
    run = replace(cohort.run, folder=Path(), address=Address.parse("s3://crops/night"))
    with reachable(objects, monkeypatch):
        objects.fault = lambda method, key, before: "403" if len(objects.requests) > 20 else None
        with pytest.raises(
            OutputError, match=r"could read none of \d+ crops .* Access to s3://crops/night/.* is denied"
        ):
            infer_cohort(replace(cohort, run=run), Here())
        assert not Path(cohort.output, "run.json").exists()
        objects.fault = lambda method, key, before: None
        outcome = infer_cohort(replace(cohort, run=replace(run, resume=True)), Here())
    assert outcome.complete
    assert len(published(cohort.output)) == 90


@pytest.mark.parametrize(("count", "chosen"), [(1, 1), (3, 3), (16, 16), (1000, 16)])
def test_witnesses_are_from_all_over_a_run(count: int, chosen: int) -> None:
    names = [b"%04d" % each for each in range(count)]
    found = evenly([Found(name) for name in names])
    assert len(set(found)) == chosen
    assert found[0] == names[0]
    assert found[-1] == names[-1]
