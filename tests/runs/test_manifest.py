"""Manifests: a table in place of a search gives the same results, with the biopsies that it names."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from glomedge.errors import OutputError, UsageError
from glomedge.files.addresses import Address, Place
from glomedge.runs.folder import Options, infer_folder
from glomedge.runs.manifest import Manifest, address_in, read_manifest, write_manifest
from glomedge.runs.merge import MergeOptions, merge_shards
from glomedge.runs.shard_of import Shard
from helpers.run_kit import outputs, table

ODD = (b"\xff\xfe-1.png", b"n\nl.png", b"=1+1.png", b"back\\slash.png", b"a;b,c.png", b"'q.png", "ü.png".encode())


def add_odd_names(options: Options) -> None:
    data = next(options.folder.rglob("case2*.png")).read_bytes()
    for name in ODD:
        Path(os.fsdecode(bytes(options.folder) + b"/" + name)).write_bytes(data)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest_gives_the_results_of_the_search(options: Options, tmp_path: Path, suffix: str) -> None:
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="needs pyarrow")
    add_odd_names(options)
    infer_folder(options)
    path = tmp_path / f"manifest{suffix}"
    written = write_manifest(options.folder, path)
    assert (written.rows, written.notes, written.unlisted) == (30 + len(ODD), [], [])
    assert set(read_manifest(path, options.folder).paths) >= set(ODD)
    listed = replace(options, output=tmp_path / "listed", inputs=path)
    outcome = infer_folder(listed)
    assert outputs(listed.output) == outputs(options.output)
    assert outcome.biopsies_found["counts"] == {"manifest": 30 + len(ODD)}
    assert json.loads((listed.output / "run.json").read_bytes())["arguments"]["inputs"] == str(path)
    assert "inputs" not in json.loads((options.output / "run.json").read_bytes())["arguments"]


def test_predictions_csv_is_a_manifest(options: Options, tmp_path: Path) -> None:
    add_odd_names(options)
    infer_folder(options)
    again = replace(options, output=tmp_path / "again", inputs=options.output / "predictions.csv")
    infer_folder(again)
    assert outputs(again.output) == outputs(options.output)


def test_only_what_it_lists_is_read_and_its_biopsies_count(options: Options, tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    # As Excel in another country saves it: a mark, semicolons, other columns, other letters.
    path.write_text(
        "label;Case;PATH\r\n1;Biopsy 7;a/case2-20.png\r\n0;;b/case0-3.png\r\n;'12-3;gone.png\r\n", "utf-8-sig"
    )
    outcome = infer_folder(replace(options, inputs=path))
    found = {row["path"]: (row["case"], row["slide"], row["status"].partition(":")[0]) for row in table(options.output)}
    assert found == {
        "a/case2-20.png": ("Biopsy 7", "Biopsy 7", "flagged"),
        "b/case0-3.png": ("case0", "case0", "flagged"),
        "gone.png": ("'12-3", "'12-3", "error"),  # as a cell that a spreadsheet keeps
    }
    assert outcome.biopsies_found["counts"]["manifest"] == 2
    assert "The manifest gives the biopsies of 2 inputs. Others:" in outcome.biopsies_found["summary"]


def test_slides_may_be_listed(tmp_path: Path, tiny_model: Path) -> None:
    pytest.importorskip("openslide", reason="needs openslide")
    from helpers.slide_runs import SLIDES, write_outlined

    write_outlined(tmp_path / "slides")
    options = Options(tmp_path / "slides", tiny_model, tmp_path / "out")
    infer_folder(options)
    path = tmp_path / "manifest.csv"
    assert write_manifest(options.folder, path).rows == len(SLIDES)
    infer_folder(replace(options, output=tmp_path / "listed", inputs=path))
    assert outputs(tmp_path / "listed") == outputs(options.output)
    path.write_text(f"path,case\n{SLIDES[0]},Mine\n")
    infer_folder(replace(options, output=tmp_path / "one", inputs=path))
    assert {row["case"] for row in table(tmp_path / "one")} == {"Mine"}
    assert len(table(tmp_path / "one")) == 7


def test_shards_of_a_manifest_are_merged_with_its_biopsies(options: Options, tmp_path: Path) -> None:
    path = tmp_path / "manifest.csv"
    write_manifest(options.folder, path)
    path.write_text(path.read_text().replace(",case1,", ",Another,"))
    listed = replace(options, inputs=path)
    infer_folder(replace(listed, output=tmp_path / "whole"))
    for number in (1, 2, 3):
        infer_folder(replace(listed, shard=Shard(number, 3, "case")))
    merge_shards(MergeOptions((options.output,), tmp_path / "merged"))
    assert outputs(tmp_path / "merged") == outputs(tmp_path / "whole")
    assert "Another" in {row["case"] for row in table(tmp_path / "merged")}
    path.write_text(path.read_text().replace("Another", "Other"))
    with pytest.raises(Exception, match="is not the one that the shards read"):
        merge_shards(MergeOptions((options.output,), tmp_path / "merged-again"))
    path.unlink()
    with pytest.raises(OutputError, match="cannot be read: No such file or directory"):
        merge_shards(MergeOptions((options.output,), tmp_path / "merged-again"))


@pytest.mark.parametrize("shard", [None, Shard(1, 1)])
def test_a_manifest_that_is_replaced_meanwhile_counts_as_it_was_read(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shard: Shard | None
) -> None:
    path = tmp_path / "manifest.csv"
    write_manifest(options.folder, path)
    path.write_text(path.read_text().replace(",case1,", ",First,"))
    before = path.read_bytes()

    def replaced(each: Path, place: Place) -> Manifest:
        manifest = read_manifest(each, place)
        path.write_text(path.read_text().replace(",First,", ",Second,"))
        return manifest

    monkeypatch.setattr("glomedge.runs.manifest.read_manifest", replaced)
    infer_folder(replace(options, inputs=path, shard=shard, report=False))
    if shard is None:
        assert {row["case"] for row in table(options.output)} == {"case0", "First", "case2"}
    else:
        described = json.loads((shard.folder(options.output) / ".glomedge" / "shard.json").read_bytes())
        assert described["manifest_sha256"] == hashlib.sha256(before).hexdigest()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name\na.png\n", "has no column 'path', but name"),
        ("path\n", "has no rows"),
        ("", "has no column 'path'"),
        ("path\n/etc/a.png\n", "row 1 '/etc/a.png' is not below the folder"),
        ("path\na.png\n../a.png\n", "row 2 '../a.png' is not below the folder"),
        ("path\nb//a.png\n", "is not written as short as it can be"),
        ("path\na.txt\n", "is neither an image nor a slide"),
        ("path\na.png\nb.png\na.png\n", "'a.png' is there twice"),
    ],
)
def test_what_is_wrong_with_a_manifest_is_said(options: Options, tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "manifest.csv"
    path.write_text(text, "utf-8")
    with pytest.raises(UsageError) as error:
        infer_folder(replace(options, inputs=path))
    assert said in str(error.value)
    assert len(str(error.value)) < 500
    assert not options.output.exists()


def test_other_files_are_refused(options: Options, tmp_path: Path) -> None:
    def refused(path: Path, **changes: object) -> str:
        with pytest.raises(UsageError) as error:
            infer_folder(replace(options, inputs=path, **changes))  # type: ignore[arg-type]
        return str(error.value)

    assert "cannot be read: No such file" in refused(tmp_path / "none.csv")
    (tmp_path / "latin.csv").write_bytes(b"path\n\xe4.png\n")
    assert "is no CSV in UTF-8" in refused(tmp_path / "latin.csv")
    (tmp_path / "list.txt").write_text("path\na.png\n")
    assert "neither .csv nor .parquet" in refused(tmp_path / "list.txt")
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    (tmp_path / "no.parquet").write_bytes(b"PAR1 and nothing else")
    assert "is no Parquet file" in refused(tmp_path / "no.parquet")
    write_manifest(options.folder, tmp_path / "good.csv")
    assert "--case-pattern has another rule" in refused(tmp_path / "good.csv", case_pattern="(?P<case>case.)")
    assert "is not a folder" in refused(tmp_path / "good.csv", folder=options.model)


def test_a_manifest_says_what_it_leaves_out(options: Options, tmp_path: Path) -> None:
    (options.folder / "link.png").symlink_to(next(options.folder.rglob("*.png")))
    path = tmp_path / "manifest.csv"
    assert write_manifest(options.folder, path).notes == [
        "1 symbolic links were not followed (--follow-symlinks follows them)."
    ]
    with path.open(encoding="utf-8", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert list(rows[0]) == ["path", "case", "slide"]
    assert len(rows) == 30
    assert write_manifest(options.folder, path, follow_symlinks=True).rows == 31
    with pytest.raises(UsageError, match=r"neither \.csv nor \.parquet"):
        write_manifest(options.folder, tmp_path / "manifest.txt")
    shutil.rmtree(options.folder)
    options.folder.mkdir()
    with pytest.raises(UsageError, match="There is no image"):
        write_manifest(options.folder, path)


def test_folders_that_cannot_be_listed_are_named(not_root: Path) -> None:
    (not_root / "shut").mkdir()
    (not_root / "a-1.png").write_bytes(b"")
    (not_root / "shut").chmod(0)
    written = write_manifest(not_root, not_root / "manifest.csv")
    assert (written.rows, written.unlisted) == (1, ["shut/"])


@pytest.mark.parametrize("place", [Path("crops"), Address.parse("s3://crops")])
@pytest.mark.parametrize("path", ["s3://AKIA:geheim@crops/x.png", "https://AKIA:geheim@host/x.png"])
def test_a_key_in_an_address_is_not_shown(tmp_path: Path, place: Place, path: str) -> None:
    (tmp_path / "crops.csv").write_text(f"path\n{path}\n")
    with pytest.raises(UsageError, match=r"row 1 '\w+://\.\.\.' has an account or a key in it") as caught:
        read_manifest(tmp_path / "crops.csv", place)
    assert "geheim" not in str(caught.value)
    (tmp_path / "crops.csv").write_text(f"path\n {path}\n")
    with pytest.raises(UsageError) as caught:
        address_in(tmp_path / "crops.csv")
    assert "geheim" not in str(caught.value)
