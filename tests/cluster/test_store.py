"""Results and crops of ``glomedge infer-ray`` in object storage."""

from __future__ import annotations

import json
import os
import pickle
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from glomedge.cli.infer import print_summary
from glomedge.cluster import cohort as cohort_module
from glomedge.cluster import store as module
from glomedge.cluster.cohort import infer_cohort
from glomedge.cluster.options import CohortOptions
from glomedge.cluster.store import Store, parquet_bytes
from glomedge.cluster.worker import inputs_bytes, read_inputs
from glomedge.errors import OutputError, UsageError
from glomedge.files import storage
from glomedge.files.addresses import Address
from helpers.cohort_kit import Here, plainly, published, require_same
from helpers.s3_server import Objects, reachable

obstore = pytest.importorskip("obstore", reason="obstore (extra storage) is not installed")


@pytest.fixture
def remote(monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    """``s3://results/run``, whose objects obstore keeps in this process's memory."""
    from obstore.store import MemoryStore

    for name, value in Objects().environment().items():
        monkeypatch.setenv(name, value)
    module._opened.cache_clear()
    module._opened(Address.parse("s3://results/run"))._store = MemoryStore()
    yield Store("s3://results/run")
    module._opened.cache_clear()


@pytest.fixture(params=["folder", "address"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    if request.param == "folder":
        return Store(str(tmp_path / "run"))
    remote: Store = request.getfixturevalue("remote")
    return remote


def test_a_folder_and_an_address_are_alike(store: Store) -> None:
    assert store.read("a/one") is None
    assert not store.has("a/one")
    assert store.names("a") == []
    store.remove("a/one")
    store.write("a/one", b"first")
    store.write("a/two", b"0123456789")
    store.write("a/one", b"second")
    assert store.read("a/one") == b"second"
    assert store.has("a/one")
    assert not store.has("a/on")
    assert store.names("a") == ["one", "two"]
    with store.open("a/two") as handle:
        handle.seek(4)
        assert handle.read(3) == b"456"
        assert handle.read() == b"789"
    store.remove("a/one")
    assert store.names("a") == ["two"]
    assert store.create("a/new", b"1")
    assert not store.create("a/new", b"2")
    assert store.read("a/new") == b"1"
    with pytest.raises(OutputError, match="a/one"):
        store.open("a/one")
    assert pickle.loads(pickle.dumps(store)).where == store.where


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"")
    with pytest.raises(OutputError, match=r"run/a/one cannot be written: .*Check the disk"):
        Store(str(tmp_path / "run")).write("a/one", b"x")


def test_no_address_is_refused() -> None:
    with pytest.raises(UsageError, match="ftp://x is no address"):
        Store("ftp://x")


def test_results_go_to_an_address_and_a_run_goes_on_there(
    cohort: CohortOptions, remote: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    expected = plainly(cohort, tmp_path / "plain")
    there = replace(cohort, output=remote.where)
    assert not infer_cohort(there, Here(most=2)).complete
    outcome = infer_cohort(replace(there, run=replace(there.run, resume=True)), Here())
    assert outcome.complete
    print_summary(outcome, there.folder or there.output)
    assert "\nWritten to s3://results/run: cases.parquet, report.html, run.json\n" in capsys.readouterr().out
    assert remote.names("") == ["cases.parquet", "report.html", "run.json"]
    assert json.loads(remote.read("run.json") or b"")["arguments"]["output"] == "s3://results/run"
    require_same(rows_in(remote, tmp_path / "fetched"), expected)


def rows_in(store: Store, folder: Path) -> list[dict[str, Any]]:
    """All rows that a reader of ``predictions/`` finds."""
    for name in store.names("predictions"):
        path = folder / "predictions" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(store.read(f"predictions/{name}") or b"")
    return published(folder)


def second_driver(monkeypatch: pytest.MonkeyPatch, options: CohortOptions) -> None:
    """Let another driver begin and end while the next one makes its list of inputs."""
    begun = list[bool]()

    def made(*given: Any) -> bytes:
        if not begun:
            begun.append(True)
            assert infer_cohort(options, Here()).complete
        return inputs_bytes(*given)

    monkeypatch.setattr(cohort_module, "inputs_bytes", made)


def test_a_second_driver_does_not_double_the_rows(
    cohort: CohortOptions, remote: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = replace(cohort, output=remote.where)
    second_driver(monkeypatch, replace(there, part_rows=32))
    with pytest.raises(OutputError, match=r"contains a run with 2 of 2 parts answered\. Run again with --resume"):
        infer_cohort(there, Here())
    assert infer_cohort(replace(there, run=replace(there.run, resume=True)), Here()).complete
    require_same(rows_in(remote, tmp_path / "fetched"), plainly(cohort, tmp_path / "plain"))


def test_two_drivers_that_overwrite_do_not_mix(
    cohort: CohortOptions, remote: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = replace(cohort.run, overwrite=True)
    there = replace(cohort, output=remote.where, run=run)
    second_driver(monkeypatch, replace(there, run=replace(run, threshold=0.25)))
    with pytest.raises(OutputError, match=r"Another run began in s3://results/run at the same time"):
        infer_cohort(there, Here())
    assert {row["threshold"] for row in rows_in(remote, tmp_path / "fetched")} == {0.25}
    assert len(published(tmp_path / "fetched")) == 90


def test_a_driver_that_is_replaced_ends(cohort: CohortOptions, remote: Store, tmp_path: Path) -> None:
    there = replace(cohort, output=remote.where)

    def replaced(*given: Any) -> bool:
        assert infer_cohort(replace(there, run=replace(there.run, overwrite=True, threshold=0.25)), Here()).complete
        return Here()(*given)

    with pytest.raises(OutputError, match=r"This run in s3://results/run was replaced by another one"):
        infer_cohort(there, replaced)
    assert json.loads(remote.read("run.json") or b"")["threshold"] == 0.25
    assert {row["threshold"] for row in rows_in(remote, tmp_path / "fetched")} == {0.25}


def test_a_record_stands_beside_its_own_files(
    cohort: CohortOptions, remote: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, written = replace(cohort, output=remote.where), list[str]()
    write = Store.write

    def noted(store: Store, name: str, data: bytes) -> None:
        written.append(name)
        write(store, name, data)

    monkeypatch.setattr(Store, "write", noted)
    (cohort.run.folder / "a" / "case0-30.png").rename(tmp_path / "away.png")
    assert infer_cohort(there, Here()).complete
    # What --resume needs is there before the run counts as complete.
    assert written.index(".glomedge/again.json") < written.index("run.json") == len(written) - 1
    there = replace(there, run=replace(there.run, resume=True, report=False))
    assert infer_cohort(there, Here()).complete
    assert remote.names("") == ["cases.parquet", "run.json"]
    there = replace(there, run=replace(there.run, resume=False, overwrite=True, threshold=0.25))
    assert not infer_cohort(there, Here(most=1)).complete
    assert remote.names("") == []


def test_storage_without_conditions_is_written_all_the_same(remote: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put = obstore.put

    def refusing(*given: Any, mode: str = "overwrite", **also: Any) -> Any:
        if mode == "create":
            raise obstore.exceptions.GenericError("501 Not Implemented: <Code>NotImplemented</Code>")
        return put(*given, **also)

    monkeypatch.setattr(obstore, "put", refusing)
    assert remote.create("plan", b"1")
    assert remote.read("plan") == b"1"


def test_crops_in_storage_that_fails_now_and_then(
    cohort: CohortOptions, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    expected = plainly(cohort, tmp_path / "plain")
    folder = cohort.run.folder
    bodies = {f"night/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*.png")}
    objects = Objects(bodies)

    def fault(method: str, key: str, before: int) -> str | None:
        # Of 90 crops about a tenth: 1% would be one of them.
        kind = zlib.crc32(os.fsencode(key)) % 30
        return ("503", "truncate", "reset")[kind] if kind < 3 and before == 0 else None

    objects.fault = fault
    run = replace(cohort.run, folder=Path(), address=Address.parse("s3://crops/night"))
    with reachable(objects, monkeypatch):
        outcome = infer_cohort(replace(cohort, run=run), Here())
        assert outcome.errors == {"truncated": 2}
        require_same(published(cohort.output), expected)
        assert len(objects.requests) > 90
        # One is replaced.
        one, other = (f"night/{expected[place]['path']}" for place in (20, 5))
        objects.bodies[one] = objects.bodies[other]
        here = Here()
        infer_cohort(replace(cohort, run=replace(run, resume=True)), here)
    assert here.answered == [1]
    assert published(cohort.output)[20]["sha256"] == expected[5]["sha256"]


@pytest.mark.parametrize(("fault", "said"), [("503", "cannot be read"), ("403", "is denied")])
def test_a_fault_of_the_storage_is_no_damage(monkeypatch: pytest.MonkeyPatch, fault: str, said: str) -> None:
    import pyarrow

    for name, value in (("_MAX_RETRIES", 1), ("_FIRST_BACKOFF_S", 0.001), ("_LONGEST_BACKOFF_S", 0.01)):
        monkeypatch.setattr(storage, name, value)
    names = [f"a/{each:06}.png" for each in range(2000)]
    body = parquet_bytes(pyarrow.table({"path": names, "case": names, "slide": names}), [1000, 1000])
    objects = Objects({"run/inputs.parquet": body, "run/bad.parquet": b"PAR1 not so PAR1"})
    module._opened.cache_clear()
    with reachable(objects, monkeypatch):
        store = Store("s3://crops/run")
        assert read_inputs(store, "inputs.parquet", 0)[0] == names[:1000]
        for part in (0, 1):  # when a part is read of a file that is open, and when the file is opened
            objects.fault = lambda method, key, before: fault if method == "GET" else None
            with pytest.raises(OutputError, match=rf"{said}.* use --resume\.$") as caught:
                read_inputs(store, "inputs.parquet", 1 - part)
            assert "damaged" not in str(caught.value)
        objects.fault = lambda method, key, before: None
        assert read_inputs(store, "inputs.parquet", 1)[0] == names[1000:]
        with pytest.raises(OutputError, match=r"bad\.parquet is damaged: .*--overwrite"):
            read_inputs(store, "bad.parquet", 0)
    module._opened.cache_clear()


def test_a_fault_of_the_disk_is_no_damage(tmp_path: Path) -> None:
    (tmp_path / "inputs.parquet").mkdir()
    with pytest.raises(OutputError, match=r"inputs\.parquet cannot be read: .* --resume"):
        read_inputs(Store(str(tmp_path)), "inputs.parquet", 0)
