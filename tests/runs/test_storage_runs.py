"""A run whose crops are objects in storage gives what a folder gives, whatever fails on the way."""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from glomedge.cli import app
from glomedge.errors import OutputError, StorageError, UsageError
from glomedge.files import storage as module
from glomedge.files.addresses import Address
from glomedge.results import sink
from glomedge.runs.folder import Options, infer_folder
from glomedge.runs.manifest import read_manifest, write_manifest
from glomedge.runs.merge import MergeOptions, merge_shards
from glomedge.runs.shard_of import Shard
from glomedge.system import cpu
from helpers.run_kit import outputs, table
from helpers.s3_server import Objects, reachable

pytest.importorskip("obstore", reason="obstore (extra storage) is not installed")

NIGHT = Address.parse("s3://crops/night")


@pytest.fixture
def objects(options: Options, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Objects]:
    """The crops of ``options``, in storage, in their places."""
    monkeypatch.setattr(module, "_FIRST_BACKOFF_S", 0.001)
    monkeypatch.setattr(module, "_LONGEST_BACKOFF_S", 0.01)
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    bodies = {f"night/{path.relative_to(options.folder)}": path.read_bytes() for path in options.folder.rglob("*.png")}
    with reachable(Objects(bodies), monkeypatch) as served:
        yield served


def stored(options: Options, output: str = "stored") -> Options:
    return replace(options, folder=Path(), address=NIGHT, output=options.output.parent / output)


@pytest.mark.parametrize("decode_in", ["auto", "processes"])
def test_storage_with_faults_gives_what_a_folder_gives(options: Options, objects: Objects, decode_in: str) -> None:
    assert infer_folder(options).complete
    objects.bodies |= {"night/": b"", "night/a/.hidden.png": b"x", "night/S-1.svs": b"x", "night/@eaDir/t.png": b"x"}
    objects.page = 7

    def fault(method: str, key: str, before: int) -> str | None:
        return ("503", "truncate", "slow", "reset", None)[zlib.crc32(key.encode()) % 5] if before == 0 else None

    objects.fault = fault
    outcome = infer_folder(replace(stored(options), decode_in=decode_in, heatmaps=options.output.parent / "heat"))
    assert outcome.complete
    assert outputs(stored(options).output) == outputs(options.output)
    assert any("1 slides were left out" in note for note in outcome.notes)
    assert outcome.record["arguments"]["folder"] == "s3://crops/night"
    assert "address" not in outcome.record["arguments"]
    assert outcome.record["decoding"]["in"] == decode_in.replace("auto", "threads")
    assert (outcome.record["decoding"]["workers"] > cpu.usable_cpus()) is (decode_in == "auto")
    assert "obstore" in outcome.record["versions"]
    assert list((options.output.parent / "heat").rglob("*.heatmap.jpg"))
    # No crop was put on the disk on its way.
    assert list(Path(os.environ["TMPDIR"]).iterdir()) == []


def test_shards_of_a_manifest_of_addresses_are_merged(options: Options, objects: Objects, tmp_path: Path) -> None:
    whole = stored(options)
    assert infer_folder(whole).complete
    manifest = tmp_path / "night.csv"
    assert write_manifest(NIGHT, manifest).rows == 30
    assert "s3://crops/night/a/case0-0.png,case0," in manifest.read_text("utf-8")
    assert read_manifest(manifest, NIGHT).paths[0] == b"a/case0-0.png"
    shards = replace(whole, inputs=manifest, output=tmp_path / "run", heatmaps=tmp_path / "heat")
    objects.requests.clear()
    for number in (1, 2, 3):
        assert infer_folder(replace(shards, shard=Shard(number, 3))).complete
    # Each object is asked for once; and one before each shard, whether it can be read at all. Nothing is listed.
    assert len(objects.requests) == 30 + 3
    merge_shards(MergeOptions((tmp_path / "run",), tmp_path / "merged"))
    assert len(list((tmp_path / "heat").rglob("*.heatmap.jpg"))) > 3  # drawn over what is read from storage again
    assert outputs(tmp_path / "merged") == outputs(whole.output)
    assert json.loads((tmp_path / "merged" / "run.json").read_text("utf-8"))["arguments"]["folder"] == str(NIGHT)


def test_a_resumed_run_reads_what_was_replaced_and_nothing_else(options: Options, objects: Objects) -> None:
    run = stored(options)
    assert infer_folder(run).complete
    before = {row["path"]: row["sha256"] for row in table(run.output)}
    one, other = "a/case2-8.png", "b/case1-7.png"
    objects.bodies[f"night/{one}"] = objects.bodies[f"night/{one}"] + b"\0"
    swapped = bytearray(objects.bodies[f"night/{other}"])
    swapped[-1] ^= 1
    objects.bodies[f"night/{other}"] = bytes(swapped)  # of the same size, within the same second
    objects.requests.clear()
    outcome = infer_folder(replace(run, resume=True))
    assert outcome.predicted == 2
    after = {row["path"]: row["sha256"] for row in table(run.output)}
    assert {path for path in after if after[path] != before[path]} == {one, other}
    gets = {key for method, key in objects.requests if method == "GET" and key}
    assert gets == {f"night/{one}", f"night/{other}"}


def test_storage_that_goes_away_ends_the_run_and_loses_nothing(
    options: Options, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "MOST_UNREAD", 8)
    monkeypatch.setattr(module, "_MAX_RETRIES", 1)
    module.forget()
    assert infer_folder(options).complete
    run = stored(options)
    # However the readers' threads take turns, the other 28 cannot stand around two without 8 of them in a row.
    read = sorted(objects.bodies)[:2]

    def fault(method: str, key: str, before: int) -> str | None:
        return None if method == "GET" and key in ("", *read) else "503"  # whether it has come back is asked by HEAD

    objects.fault = fault
    with pytest.raises(StorageError, match=r"8 inputs in a row could not be read.*--resume"):
        infer_folder(run)
    objects.fault = lambda method, key, before: None
    with pytest.raises(OutputError, match="--resume"):
        infer_folder(run)
    assert infer_folder(replace(run, resume=True)).complete
    assert outputs(run.output) == outputs(options.output)


def test_many_neighbours_that_stay_unreadable_do_not_end_the_run(
    options: Options, objects: Objects, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sink, "MOST_UNREAD", 8)
    denied = sorted(objects.bodies)[5:25]
    objects.fault = lambda method, key, before: "403" if key in denied else None
    run = stored(options)
    for each in (run, replace(run, resume=True)):  # what may pass is asked for again, in a row
        outcome = infer_folder(each)
        assert outcome.complete
        assert outcome.errors["permission"] == 20


def test_what_cannot_be_read_at_all_is_said_before_anything_is_done(
    options: Options, objects: Objects, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tmp_path / "night.csv"
    write_manifest(NIGHT, manifest)

    def said(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["infer", *arguments, "-m", str(options.model), "-o", str(tmp_path / "none")])
        assert result.exit_code == 1
        assert isinstance(result.exception, StorageError | UsageError)
        return str(result.exception)

    assert "There is no bucket s3://other" in said("s3://other/night")
    assert "There is nothing below s3://crops/day" in said("s3://crops/day")
    assert "in the manifest" not in said("--inputs", str(tmp_path / "gone.csv"))
    assert "infer needs a folder" in said()
    local = tmp_path / "local.csv"
    local.write_text("path\na/case0-0.png\n", "utf-8")
    assert "which is no address" in said("--inputs", str(local))
    (tmp_path / "two.csv").write_text("path\ns3://crops/night/a/case0-0.png\ns3://b/x.png\n", "utf-8")
    assert "is not below the folder" in said("--inputs", str(tmp_path / "two.csv"))
    objects.fault = lambda method, key, before: "403"
    assert "Access to s3://crops/night is denied" in said("s3://crops/night")
    assert "Access to s3://crops/night/b/case2-5.png is denied" in said("--inputs", str(manifest))
    monkeypatch.setattr(module, "_MAX_RETRIES", 1)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    module.forget()
    for where in (["s3://crops/night"], ["--inputs", str(manifest)]):
        assert "Check the network, the endpoint and the credentials" in said(*where)
    assert not (tmp_path / "none").exists()


def test_a_manifest_of_addresses_needs_no_folder(options: Options, objects: Objects, tmp_path: Path) -> None:
    manifest = tmp_path / "night.parquet"
    for arguments in (
        ["manifest", "s3://crops/night/", "-o", str(manifest)],
        ["infer", "--inputs", str(manifest), "-m", str(options.model), "--provider", "cpu", "-o", str(tmp_path / "a")],
        ["infer", "s3://crops/night", "-m", str(options.model), "--provider", "cpu", "-o", str(tmp_path / "b")],
    ):
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code in (0, 2), result.output + str(result.exception)
    # Names are relative to the bucket where no folder is given.
    named = {f"night/{row['path']}": row["probability"] for row in table(tmp_path / "b")}
    assert {row["path"]: row["probability"] for row in table(tmp_path / "a")} == named
