"""``glomedge infer`` on slides: each outlined glomerulus is a row, with the answer that its crop would get."""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import pytest

from glomedge.engine.options import EngineOptions
from glomedge.errors import GlomedgeError, OutputError, UsageError
from glomedge.pipeline import settings
from glomedge.runs import slide_parts
from glomedge.runs.folder import Options, infer_folder
from glomedge.runs.options import SlideOptions
from glomedge.runs.shard_of import Shard
from glomedge.slides.crop_slides import cut_slides
from glomedge.slides.pairs import find_pairs
from helpers.annotation_files import dsa, encoded, polyline
from helpers.builders import build_tiny_model
from helpers.drawn_slides import write
from helpers.run_kit import outputs, table, write_crops
from helpers.slide_runs import CLASSES, SLIDES, outline, square, write_outlined


@pytest.fixture
def options(tmp_path: Path, tiny_model: Path) -> Options:
    """A run over a folder of three slides, not begun."""
    write_outlined(tmp_path / "slides")
    return Options(
        tmp_path / "slides", tiny_model, tmp_path / "out", engine=EngineOptions("cpu"), formats=("csv", "jsonl")
    )


def with_slides(options: Options, **changes: Any) -> Options:
    return replace(options, slides=SlideOptions(**changes))


def by_place(rows: list[dict[str, str]]) -> dict[tuple[str, ...], tuple[str, str]]:
    """Probability and status of each box."""
    return {
        (row["slide"], row["x"], row["y"], row["width"], row["height"]): (row["probability"], row["status"])
        for row in rows
    }


def test_the_same_boxes_through_a_slide_and_as_png_get_the_same_probabilities(options: Options) -> None:
    assert infer_folder(options).exit_code == 0
    crops = options.folder.parent / "crops"
    cut_slides(find_pairs(options.folder), crops)
    infer_folder(replace(options, folder=crops, output=options.output / "of crops"))
    of_crops = {row["path"]: row for row in table(options.output / "of crops")}
    with (crops / "crops.csv").open(encoding="utf-8", newline="") as handle:
        boxes = list(csv.DictReader(handle))
    expected = {
        (box["slide"], box["x"], box["y"], box["width"], box["height"]): (
            of_crops[box["name"]]["probability"],
            of_crops[box["name"]]["status"],
        )
        for box in boxes
    }
    assert len(expected) == 21
    found = by_place(table(options.output))
    # What the crop of a box at the slide's edge cannot know.
    assert {
        place: (probability, status.replace("flagged:at_edge", "ok")) for place, (probability, status) in found.items()
    } == expected
    assert len({probability for probability, _ in expected.values()}) > 10
    cases = [(options.output / place / "cases.csv").read_bytes() for place in ("", "of crops")]
    assert cases[0] == cases[1]


def test_a_row_for_each_outline_in_the_order_of_the_file(options: Options) -> None:
    outcome = infer_folder(options)
    rows = table(options.output)
    assert [row["slide"] for row in rows] == [name.removesuffix(".svs") for name in SLIDES for _ in range(7)]
    assert [row["annotation_class"] for row in rows] == [CLASSES[number % 3] for number in range(7)] * 3
    assert [row["case"] for row in rows] == ["S-1234-000001"] * 14 + ["S-5678-000002"] * 7
    first = rows[1]
    assert first["path"] == f"{SLIDES[0]}#0000002_{first['annotation_id']}"
    assert first["annotation_id"] == "0d6a2c1e-9d0f-4f5e-8a53-6b1f1f0a7c01"
    assert [first[key] for key in ("x", "y", "width", "height", "mpp")] == ["37", "91", "79", "79", "0.25"]
    assert list(first)[:10] == [
        "path", "case", "slide", "annotation_id", "annotation_class", "x", "y", "width", "height", "mpp",
    ]  # fmt: skip
    lines = [json.loads(line) for line in (options.output / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert [str(line["x"]) for line in lines] == [row["x"] for row in rows]
    assert (lines[1]["mpp"], lines[1]["annotation_id"]) == (0.25, first["annotation_id"])
    (note,) = [note for note in outcome.notes if note.startswith("Taken as glomeruli")]
    assert "Left out by class: tissue (3)" in note
    record = outcome.record["slides"]
    assert [(each["outlines"], each["mpp"], each["classes_left_out"]) for each in record] == [
        (7, 0.25, {"tissue": 1})
    ] * 3
    assert outcome.biopsies_found["counts"] == {"slide": 21}


def test_one_slide_with_a_file_of_outlines_from_elsewhere(options: Options, tmp_path: Path) -> None:
    slide = write(tmp_path / "S-7.svs")
    marks = tmp_path / "marks.txt"
    points = [[20, 30, 0], [120, 30, 0], [120, 130, 0], [20, 130, 0]]
    element = polyline(1, points=points, group="Glomerulus")
    marks.write_bytes(encoded(dsa(element, polyline(2, points=points, group="vessel"))))
    run = with_slides(replace(options, folder=slide), annotations=marks)
    assert infer_folder(run).exit_code == 0
    (row,) = table(options.output)
    assert (row["case"], row["annotation_id"], row["annotation_class"]) == ("S-7", element["id"], "Glomerulus")
    assert [row[key] for key in ("x", "y", "width", "height")] == ["20", "30", "100", "100"]
    vessels = with_slides(replace(options, folder=slide), annotations=marks, classes=("vessel", "glomerulus"))
    assert infer_folder(vessels).answered == 2
    with pytest.raises(UsageError, match=r"has no class tubule; it has Glomerulus \(1\), vessel \(1\)"):
        infer_folder(with_slides(replace(options, folder=slide), annotations=marks, classes=("tubule",)))
    with pytest.raises(UsageError, match="--annotations belongs to one slide"):
        infer_folder(with_slides(options, annotations=marks))


def test_a_folder_of_crops_and_slides(options: Options) -> None:
    write_crops(options.folder, 6, broken=1)
    write(options.folder / "tiff.tif", aperio=False, tags_mpp=0.25)
    outline(options.folder / "tiff.tif", square(1, 10, 10))
    outcome = infer_folder(options)
    rows = table(options.output)
    assert outcome.answered == len(rows) == 6 + 21 + 1
    assert [row["path"] for row in rows] == sorted((row["path"] for row in rows), key=os.fsencode)
    crops = [row for row in rows if row["path"].endswith(".png")]
    assert {row[key] for row in crops for key in ("annotation_id", "annotation_class", "x", "mpp")} == {""}
    lines = [json.loads(line) for line in (options.output / "predictions.jsonl").read_text("utf-8").splitlines()]
    assert [line["x"] for line in lines if line["path"].endswith(".png")] == [None] * 6
    assert rows[-1]["path"].startswith("tiff.tif#0000001_")
    in_processes = replace(options, output=options.output / "processes", decode_in="processes")
    infer_folder(in_processes)
    assert outputs(in_processes.output) == outputs(options.output)


def test_tiff_crops_with_files_beside_them_stay_crops(options: Options, tmp_path: Path) -> None:
    write_crops(tmp_path / "crops", 2, broken=0)
    for path in list((tmp_path / "crops").rglob("*.png")):
        cv2.imwrite(str(path.with_suffix(".tif")), cv2.imread(str(path)))
        path.with_suffix(".json").write_text('{"scanner": 1}')
        path.unlink()
    outcome = infer_folder(replace(options, folder=tmp_path / "crops"))
    assert (outcome.exit_code, outcome.answered) == (0, 2)
    assert "annotation_id" not in table(options.output)[0]


def test_the_bytes_do_not_depend_on_workers_or_on_where_slides_are_read(options: Options) -> None:
    infer_folder(replace(options, workers=1))
    three, processes = replace(options, workers=3), replace(options, decode_in="processes")
    for name, changed in {"three": three, "processes": processes}.items():
        run = replace(changed, output=options.output / name)
        infer_folder(run)
        assert outputs(run.output) == outputs(options.output)


def test_more_slides_than_are_held_open(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    infer_folder(options)
    monkeypatch.setattr(slide_parts, "_MAX_OPEN", 1)
    infer_folder(replace(options, output=options.output / "one", workers=4))
    assert outputs(options.output / "one") == outputs(options.output)


def test_heatmaps_and_report_of_outlines(options: Options) -> None:
    run = replace(options, heatmaps=options.output / "heat", heatmaps_for="all")
    infer_folder(run)
    drawn = {path.name: path.read_bytes() for path in (options.output / "heat").iterdir()}
    assert sorted(drawn) == [f"{row['path']}.heatmap.jpg" for row in table(options.output)]
    # The pictures in grey are gone: the crops are cut again.
    again = replace(run, heatmaps=options.output / "again", resume=True)
    assert infer_folder(again).predicted == 0
    assert {path.name: path.read_bytes() for path in (options.output / "again").iterdir()} == drawn


def test_resuming_refuses_other_outlines_and_takes_new_slides(options: Options) -> None:
    infer_folder(options)
    before = outputs(options.output)
    assert infer_folder(replace(options, resume=True)).predicted == 0
    assert outputs(options.output) == before
    write(options.folder / "S-9.svs")
    outline(options.folder / "S-9.svs", square(1, 10, 10))
    assert infer_folder(replace(options, resume=True)).predicted == 1
    marks = options.folder / SLIDES[1].replace(".svs", ".geojson")
    kept = marks.read_bytes()
    for path, data in ((marks, kept.replace(b"182.25", b"183.25")), (options.folder / "S-9.geojson", None)):
        original = path.read_bytes()
        assert data != original
        outline(path.with_suffix(".svs"), square(1, 11, 11)) if data is None else path.write_bytes(data)
        with pytest.raises(OutputError, match=rf"the outlines of {path.stem}\.svs are not those.*Put the file"):
            infer_folder(replace(options, resume=True))
        path.write_bytes(original)
    others: list[dict[str, Any]] = [{"classes": ("Glomerulus",)}, {"mpp": 0.3}]
    for changes in others:
        with pytest.raises(OutputError, match=f"{next(iter(changes))}: .* in the unfinished run, .* now"):
            infer_folder(with_slides(replace(options, resume=True), **changes))
    assert infer_folder(replace(options, resume=True)).predicted == 0
    assert len(table(options.output)) == 22


def _gone(slide: Path) -> None:
    slide.unlink()


def _damaged(slide: Path) -> None:
    slide.write_bytes(slide.read_bytes()[:3000])


def _two_files(slide: Path) -> None:
    slide.with_suffix(".xml").write_text("<ASAP_Annotations/>")


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (_gone, r"resumed: S-5678\S*\.svs is no longer there\. Put it back, then run again with --resume"),
        (
            _damaged,
            r"S-5678\S*\.svs cannot be used now: .*only the beginning of one.* Mend it, then run again with --resume",
        ),
        (_two_files, r"S-5678\S*\.svs cannot be used now: .*several files of outlines.* Mend it, then run again"),
    ],
)
def test_resuming_says_what_is_wrong_with_a_slide(fault: Callable[[Path], None], words: str, options: Options) -> None:
    infer_folder(options)
    before = outputs(options.output)
    fault(options.folder / SLIDES[2])
    with pytest.raises(OutputError, match=words) as refusal:
        infer_folder(replace(options, resume=True))
    assert len(str(refusal.value)) < 500
    assert "are not those" not in str(refusal.value)
    assert outputs(options.output) == before


def test_a_slide_that_gets_its_outlines_later_loses_its_row_of_none(options: Options) -> None:
    write(options.folder / "S-9.svs")
    outcome = infer_folder(options)
    assert (outcome.exit_code, outcome.errors) == (2, {"no_outlines": 1})
    (row,) = [row for row in table(options.output) if row["status"].startswith("error")]
    assert (row["path"], row["case"], row["slide"]) == ("S-9.svs#", "S-9", "S-9")
    assert "no file of outlines lies beside it, such as S-9.geojson" in row["message"]
    outline(options.folder / "S-9.svs", square(1, 10, 10))
    outcome = infer_folder(replace(options, resume=True))
    assert (outcome.exit_code, outcome.predicted, outcome.answered) == (0, 1, 22)


def test_a_crop_that_becomes_a_slide_loses_its_row(options: Options) -> None:
    slide = write(options.folder / "S-9.tif", aperio=False, tags_mpp=0.25)
    infer_folder(options)
    assert [row["path"] for row in table(options.output) if row["path"].startswith("S-9")] == ["S-9.tif"]
    outline(slide, square(1, 10, 10))
    assert infer_folder(replace(options, resume=True)).answered == 22
    (row,) = [row for row in table(options.output) if row["path"].startswith("S-9")]
    assert row["path"].startswith("S-9.tif#0000001_")


def test_a_slide_that_is_replaced_is_read_again(options: Options) -> None:
    infer_folder(options)
    slide = options.folder / SLIDES[2]
    os.utime(slide, ns=(1, 1))
    assert infer_folder(replace(options, resume=True)).predicted == 7


def test_options_of_slides_are_refused_where_there_are_none(options: Options, tmp_path: Path) -> None:
    write_crops(tmp_path / "crops", 2, broken=0)
    run = replace(options, folder=tmp_path / "crops")
    for refused in (with_slides(run, mpp=0.25), with_slides(run, classes=("a",)), replace(run, formats=("geojson",))):
        with pytest.raises(UsageError, match=r"There is no slide in .* belong to slides\."):
            infer_folder(refused)


def test_one_slide_that_cannot_be_used_is_refused(options: Options, tmp_path: Path) -> None:
    slide = write(tmp_path / "S-8.svs", mpp_text=None)
    run = replace(options, folder=slide)
    with pytest.raises(GlomedgeError, match=r"no file of outlines lies beside it.*--annotations"):
        infer_folder(run)
    outline(slide, square(1, 10, 10))
    with pytest.raises(GlomedgeError, match=r"--mpp 0\.25"):
        infer_folder(run)
    assert infer_folder(with_slides(run, mpp=0.5)).exit_code == 0
    assert table(options.output)[0]["mpp"] == "0.5"
    slide.with_suffix(".xml").write_text("<ASAP_Annotations/>")
    with pytest.raises(GlomedgeError, match=r"S-8\.geojson, S-8\.xml"):
        infer_folder(run)


def test_slides_of_another_scale_than_the_training_crops_are_flagged(options: Options, tmp_path: Path) -> None:
    build_tiny_model(tmp_path / "model.onnx", mpp=0.25)
    for name, mpp in {"S-1.svs": "0.301", "S-2.svs": "0.299", "S-3.svs": "0.199", "S-4.svs": "0.201"}.items():
        outline(write(options.folder / name, mpp_text=mpp), square(1, 37, 91))
    outcome = infer_folder(replace(options, model=tmp_path / "model.onnx"))
    flagged = [row["slide"] for row in table(options.output) if "other_mpp" in row["status"]]
    assert flagged == ["S-1", "S-3"]
    (note,) = [note for note in outcome.notes if "microns per pixel" in note]
    assert note.startswith("The model was trained on crops of 0.25 microns per pixel. These slides differ")
    assert "S-1.svs (0.301), S-3.svs (0.199)" in note
    # Without the number of the model nothing is known to differ.
    outcome = infer_folder(options)
    assert not any("other_mpp" in row["status"] for row in table(options.output))


def test_a_slide_with_a_name_beyond_ascii_and_outlines_without_ids(options: Options) -> None:
    slide = write(options.folder / "\u00dc-1.svs")
    slide.with_suffix(".csv").write_text("x,y,width,height\n10,10,90,90\n300,200,80,80\n")
    outcome = infer_folder(options)
    rows = [row for row in table(options.output) if row["slide"] == "\u00dc-1"]
    assert [(row["annotation_id"], row["x"]) for row in rows] == [("", "10"), ("", "300")]
    assert outcome.answered == 23


def test_a_shard_of_slides_alone_is_read_in_threads(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settings, "processes_pay", lambda count, *, gpu: True)
    shards = [infer_folder(replace(options, shard=Shard(number, 2), report=False)) for number in (1, 2)]
    assert sum(shard.inputs for shard in shards) == 21
    assert {shard.decoding["in"] for shard in shards if shard.inputs} == {"threads"}
