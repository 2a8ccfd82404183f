"""``glomedge merge``: the files of shards are those of one run, byte for byte; others are refused by name."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from glomedge.engine.options import EngineOptions
from glomedge.errors import GlomedgeError, OutputError, UsageError
from glomedge.results.thumbnails import JoinedThumbnails, ThumbnailFile
from glomedge.runs.folder import Options, infer_folder
from glomedge.runs.merge import MergeOptions, merge_shards
from glomedge.runs.shard_of import Shard
from helpers.builders import build_tiny_model
from helpers.run_kit import table, write_crops

EVERY = ("csv", "jsonl", *(["parquet"] if importlib.util.find_spec("pyarrow") else []))

OF_TIME_AND_SHARDS = {
    "started_utc", "times", "rows_of_this_run", "engine", "decoding", "machine", "inputs_sha256", "shards",
    "files_sha256", "arguments",
}  # fmt: skip
"""Fields of run.json that may differ; docs/cluster.md lists them."""


def shards(options: Options, of: int, by: str = "path") -> list[Path]:
    """Run every shard; their folders."""
    for number in range(1, of + 1):
        assert infer_folder(replace(options, shard=Shard(number, of, by))).complete
    return [Shard(number, of, by).folder(options.output) for number in range(1, of + 1)]


def files(folder: Path) -> dict[str, bytes]:
    """What a run wrote, but for run.json; the report without its own time and duration."""
    found = {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and ".glomedge" not in path.parts and path.name != "run.json"
    }
    if "report.html" in found:
        report = re.sub(rb"20\d\d-\d\d-\d\d \d\d:\d\d( UTC)?", b"WHEN", found["report.html"])
        report = re.sub(rb"[0-9.]+ s(, [0-9.]+ files/s)?", b"TIME", report)
        found["report.html"] = report.replace(os.fsencode(folder), b"OUTPUT")
    return found


def record(folder: Path) -> dict[str, Any]:
    """run.json without what tells of time and shards."""
    said = json.loads((folder / "run.json").read_bytes())
    said["notes"] = [note.replace(str(folder), "OUTPUT") for note in said["notes"]]
    return {name: value for name, value in said.items() if name not in OF_TIME_AND_SHARDS}


def same(options: Options, of: int, by: str = "path") -> None:
    """Shards, merged, are the run that was not shared."""
    whole, parts, merged = (options.output.with_name(f"{name}-{of}-{by}") for name in ("whole", "parts", "merged"))

    def to(output: Path) -> Options:
        return replace(options, output=output, heatmaps=None if options.heatmaps is None else output / "heatmaps")

    infer_folder(to(whole))
    shards(to(parts), of, by)
    merge_shards(MergeOptions((parts,), merged))
    one, other = files(whole), files(merged)
    assert sorted(one) == sorted(other)
    for name, data in one.items():
        assert data == other[name], name
    assert record(whole) == record(merged)


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output folder of a run in two shards; a test puts back what it changes."""
    folder = tmp_path_factory.mktemp("two")
    write_crops(folder / "crops", 4)
    build_tiny_model(folder / "model.onnx")
    options = Options(folder / "crops", folder / "model.onnx", folder / "out", EngineOptions("cpu"), report=False)
    shards(options, 2)
    return options.output


@pytest.mark.parametrize("of", [1, 3, 7])
def test_merged_shards_are_the_run_byte_for_byte(options: Options, of: int) -> None:
    same(replace(options, formats=EVERY, heatmaps=options.output / "heatmaps"), of)


def test_shards_by_case_are_the_run_byte_for_byte(options: Options) -> None:
    same(replace(options, formats=EVERY, tta=8, engine=replace(options.engine, batch_size=4)), 3, "case")


def test_odd_names_are_merged(options: Options) -> None:
    for name in (b"\xff\xfe-1.png", b"n\nl.png", b"=1+1.png", b"back\\slash.png", b"a#b.png", "ü.png".encode()):
        shutil.copy(next(options.folder.rglob("case2*.png")), Path(os.fsdecode(bytes(options.folder) + b"/" + name)))
    (options.folder / "gone.png").symlink_to("nowhere")
    same(replace(options, exclude_flagged=True, case_pattern="(?P<case>case[0-9])", follow_symlinks=True), 4)


def test_the_slides_of_a_run_are_merged(tmp_path: Path) -> None:
    pytest.importorskip("openslide", reason="needs openslide")
    from helpers.slide_runs import write_outlined

    write_outlined(tmp_path / "crops")
    write_crops(tmp_path / "crops" / "crops", 9)
    (tmp_path / "crops" / "S-9.svs").write_bytes(b"no slide")
    build_tiny_model(tmp_path / "model.onnx")
    options = Options(
        tmp_path / "crops",
        tmp_path / "model.onnx",
        tmp_path / "out",
        EngineOptions("cpu"),
        formats=(*EVERY, "geojson", "dsa"),
    )
    same(options, 3)
    for folder in (tmp_path / "parts-3-path").iterdir():
        names = (folder / ".glomedge" / "inputs").read_bytes().split(b"\0")
        by_slide = {name.partition(b"#")[0] for name in names if b"#" in name}
        others = b"".join(
            (other / ".glomedge" / "inputs").read_bytes() for other in folder.parent.iterdir() if other != folder
        )
        assert not any(slide in others for slide in by_slide)  # outlines of a slide stay together


def test_answers_in_dicom_say_when_the_first_shard_began(tmp_path: Path) -> None:
    pytest.importorskip("openslide", reason="needs openslide")
    pytest.importorskip("highdicom", reason="pip install 'glomedge[dicom]'")
    from helpers.dicom_slides import write_dicom
    from helpers.slide_runs import outline, squares

    for number in (1, 2):
        outline(write_dicom(tmp_path / "crops" / f"S-{number}", series=number), *squares(3))
    build_tiny_model(tmp_path / "model.onnx")
    options = Options(
        tmp_path / "crops", tmp_path / "model.onnx", tmp_path / "parts", EngineOptions("cpu"),
        formats=("dicom-sr", "dicom-ann"), report=False,
    )  # fmt: skip
    first, second = shards(options, 2)
    begun = [(folder / ".glomedge" / "started").read_text("ascii") for folder in (first, second)]
    assert begun[0] < begun[1]
    merge_shards(MergeOptions((second, first), tmp_path / "merged"))
    # A run that began at the same time.
    whole = replace(options, output=tmp_path / "whole")
    infer_folder(whole)
    (whole.output / ".glomedge" / "started").write_text(begun[0], "ascii")
    assert infer_folder(replace(whole, resume=True)).predicted == 0
    assert files(tmp_path / "merged") == files(whole.output)
    assert len([name for name in files(whole.output) if name.endswith(".dcm")]) == 4


def test_a_crop_whose_bits_depend_on_its_place_is_the_same_in_a_shard(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real networks' last bits depend on place and size of the batch: an engine in which the third digit does."""
    from glomedge.engine.views import predict_views

    def by_place(engine: Any, images: Any, views: int) -> tuple[Any, Any, Any]:
        probability, disagreement, activation = predict_views(engine, images, views)
        count = len(probability)
        shift = (np.arange(count) / 1000 + count / 100).astype(np.float32)
        return probability * np.float32(0.5) + shift, disagreement, activation

    monkeypatch.setattr("glomedge.pipeline.pipeline.predict_views", by_place)
    same(replace(options, engine=replace(options.engine, batch_size=4)), 3)


def test_what_is_not_one_run_is_refused_by_name(options: Options, tmp_path: Path) -> None:
    first, second, third = shards(options, 3)

    def refused(*folders: Path, error: type[GlomedgeError] = OutputError) -> str:
        with pytest.raises(error) as raised:
            merge_shards(MergeOptions(folders, tmp_path / "merged"))
        assert not (tmp_path / "merged" / "predictions.csv").exists()
        assert len(str(raised.value)) < 500
        return str(raised.value)

    assert "Of 3 shards 1 is missing: 2." in refused(first, third)
    twin = shutil.copytree(second, tmp_path / "twin")
    said = refused(first, second, twin, third)
    assert "Shard 2 of 3" in said
    assert "is there twice" in said
    assert "is not the folder of a shard" in refused(first, second, tmp_path, error=UsageError)

    unfinished = shutil.copytree(third, tmp_path / "unfinished")
    lines = (unfinished / ".glomedge" / "journal").read_bytes().splitlines(keepends=True)
    (unfinished / ".glomedge" / "journal").write_bytes(b"".join(lines[:-2]))
    said = refused(first, second, unfinished)
    assert f"shard 3 of 3 ({unfinished}) is not finished" in said
    assert "--shard 3/3 --resume" in said
    (unfinished / "run.json").unlink()
    assert f"Shard 3 of 3 ({unfinished}) is not finished" in refused(first, second, unfinished)

    other = replace(options, output=tmp_path / "other")
    for changes, word in (
        ({"threshold": 0.3}, "threshold 0.5 and 0.3"),
        ({"tta": 8}, "tta 1 and 8"),
        ({"exclude_flagged": True}, "exclude_flagged False and True"),
        ({"formats": ("csv", "jsonl")}, "formats"),
    ):
        infer_folder(replace(other, shard=Shard(3, 3), overwrite=True, **changes))
        assert word in refused(first, second, Shard(3, 3).folder(other.output))
    infer_folder(replace(other, shard=Shard(3, 4)))
    assert "1/3 by path and 3/4 by path" in refused(first, second, third, Shard(3, 4).folder(other.output))
    build_tiny_model(tmp_path / "other.onnx", bias=-3.0)
    infer_folder(replace(other, shard=Shard(3, 3), overwrite=True, model=tmp_path / "other.onnx"))
    assert "model" in refused(first, second, Shard(3, 3).folder(other.output))
    write_crops(options.folder / "new", 4, seed=9)
    infer_folder(replace(other, shard=Shard(3, 3), overwrite=True))
    said = refused(first, second, Shard(3, 3).folder(other.output))
    assert re.search("list of inputs [0-9a-f]{12}... \\(30\\) and [0-9a-f]{12}... \\(34\\)", said)
    # The way out: the others, again; what they have answered stays.
    for number in (1, 2, 3):
        assert infer_folder(replace(options, shard=Shard(number, 3), resume=True)).complete
    assert merge_shards(MergeOptions((options.output,), tmp_path / "merged")).answered == 34


def test_results_that_are_there_are_kept(options: Options) -> None:
    shards(options, 2)
    merged = options.output.with_name("merged")
    merge_shards(MergeOptions((options.output,), merged))
    before = files(merged)
    with pytest.raises(OutputError, match="or replace what is there with --overwrite"):
        merge_shards(MergeOptions((options.output,), merged))
    merge_shards(MergeOptions((options.output,), merged, overwrite=True))
    assert files(merged) == before
    with pytest.raises(OutputError, match="holds a run of its own"):
        merge_shards(MergeOptions((options.output,), options.output / "shard-1-of-2", overwrite=True))
    # Crops are not asked for: a cohort may be merged where they are not.
    shutil.rmtree(options.folder)
    merge_shards(MergeOptions((options.output,), merged, overwrite=True))
    assert files(merged) == before
    build_tiny_model(options.model, bias=-2.0)
    with pytest.raises(OutputError, match="is not the model of the shards"):
        merge_shards(MergeOptions((options.output,), merged, overwrite=True))


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("run.json", "[1]", "run.json is damaged"),
        ("run.json", "{}", "run.json is damaged"),
        ("run.json", '{"notes": ', "run.json is damaged"),
        ("run.json", None, "run.json cannot be read: Is a directory"),
        (".glomedge/shard.json", '{"schema": 1}', "shard.json is damaged"),
        (".glomedge/shard.json", "[1]", "shard.json is damaged"),
        (".glomedge/shard.json", "\xff", "shard.json is damaged"),
        (".glomedge/shard.json", None, "shard.json cannot be read: Is a directory"),
        (".glomedge/journal", "", "has no journal, or a damaged one"),
        (".glomedge/journal", None, "journal cannot be read: Is a directory"),
    ],
)
def test_what_a_shard_lacks_is_said_with_its_cause(two: Path, name: str, text: str | None, said: str) -> None:
    path = two / Shard(2, 2).folder_name / name
    before = path.read_bytes()
    path.unlink()
    if text is None:
        path.mkdir()
    else:
        path.write_bytes(text.encode("latin-1"))
    try:
        with pytest.raises(OutputError) as raised:
            merge_shards(MergeOptions((two,), two / "merged"))
    finally:
        path.rmdir() if text is None else path.unlink()
        path.write_bytes(before)
    assert f"shard-2-of-2/{name}".removesuffix("/.glomedge/journal" if text == "" else "") in str(raised.value)
    assert said in str(raised.value)
    assert "is not finished" not in str(raised.value)


@pytest.mark.parametrize("field", ["shard", "arguments", "slides", "root", "working_folder", "inputs_of_all_shards"])
def test_a_shard_that_does_not_say_all_is_damaged(two: Path, field: str) -> None:
    path = two / Shard(1, 2).folder_name / ".glomedge" / "shard.json"
    before = path.read_bytes()
    said = json.loads(before)
    try:
        for wrong in ({name: value for name, value in said.items() if name != field}, said | {"shard": [1]}):
            path.write_text(json.dumps(wrong))
            with pytest.raises(OutputError, match=r"shard\.json is damaged"):
                merge_shards(MergeOptions((two,), two / "merged"))
    finally:
        path.write_bytes(before)


def test_a_shard_that_cannot_be_looked_into_is_not_missing(two: Path) -> None:
    shard, aside = two / Shard(2, 2).folder_name, two / "aside"
    shard.rename(aside)
    shard.symlink_to(shard.name)
    try:
        with pytest.raises(OutputError, match=r"shard\.json cannot be read: Too many levels"):
            merge_shards(MergeOptions((two,), two / "merged"))
    finally:
        shard.unlink()
        aside.rename(shard)


@pytest.mark.parametrize("left", [None, -1])
def test_lost_pictures_of_a_shard_are_no_smaller_report(options: Options, left: int | None) -> None:
    shards(options, 3)
    merged = options.output.with_name("merged")
    pictures = Shard(2, 3).folder(options.output) / ".glomedge" / "thumbnails"
    data = pictures.read_bytes()
    pictures.unlink()
    if left is not None:
        pictures.write_bytes(data[:left])
    with pytest.raises(OutputError, match="The pictures of shard 2 of 3") as raised:
        merge_shards(MergeOptions((options.output,), merged))
    assert str(pictures) in str(raised.value)
    assert f"tells of {len(data)}." in str(raised.value)
    assert not (merged / "report.html").exists()


def test_pictures_that_cannot_be_read_are_an_error_with_its_cause(tmp_path: Path) -> None:
    kept = ThumbnailFile(tmp_path / "thumbnails", fresh=True, map_shape=None)
    place = kept.append(None, b"jpeg")
    with pytest.raises(OutputError, match="cannot be read: Invalid argument"):
        kept.read(place._replace(offset=-1))
    kept.close()
    joined = JoinedThumbnails([tmp_path / "none", tmp_path / "thumbnails"], None)
    assert joined.read(place) == (None, b"jpeg")
    (tmp_path / "thumbnails").unlink()
    with pytest.raises(OutputError, match="thumbnails cannot be read: No such file"):
        joined.read(place)
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OutputError, match="loop cannot be read: Too many levels"):
        JoinedThumbnails([tmp_path / "loop"], None)


def test_answers_of_files_that_are_gone_are_left_out(options: Options) -> None:
    folders = shards(options, 2)
    gone = next(path for path in options.folder.rglob("case1*.png"))
    gone.unlink()
    for number in (1, 2):
        infer_folder(replace(options, shard=Shard(number, 2), resume=True))
    merged = options.output.with_name("merged")
    assert merge_shards(MergeOptions(tuple(folders), merged)).answered == 29
    assert gone.name not in {row["path"].rpartition("/")[2] for row in table(merged)}


@pytest.mark.slow
@pytest.mark.parametrize(("of", "by"), [(1, "path"), (3, "path"), (7, "path"), (3, "case")])
def test_real_crops_are_the_same_in_shards(real_data: Path, tiny_model: Path, tmp_path: Path, of: int, by: str) -> None:
    same(Options(real_data, tiny_model, tmp_path / "out", EngineOptions("cpu"), formats=EVERY), of, by)
