"""Slides of a folder with the outlines that lie beside them, and all of them cut in one go."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from glomedge.cli import build
from glomedge.errors import ImageError, UsageError
from glomedge.slides import pairs
from glomedge.slides.pairs import find_pairs
from helpers.drawn_slides import damage_tile, write

BOXES = "x,y,width,height\n10,20,60,60\n300,300,80,90\n"


def place(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(BOXES)
    return folder


def paired(folder: Path) -> dict[str, str]:
    return {
        pair.slide.relative_to(folder).as_posix(): pair.annotations.name if pair.annotations else pair.problem
        for pair in find_pairs(folder)
    }


@pytest.mark.parametrize(
    "outlines", ["S-1.geojson", "S-1.json", "S-1.XML", "S-1.csv", "S-1.svs.geojson", "S-1.geojson.gz", "S-1.json.zip"]
)
def test_outlines_belong_to_the_slide_of_their_name(outlines: str, tmp_path: Path) -> None:
    assert paired(place(tmp_path, "S-1.svs", outlines, "S-10.json", ".S-1.json")) == {"S-1.svs": outlines}


def test_files_that_may_be_crops_are_slides_where_outlines_lie_beside_them(tmp_path: Path) -> None:
    place(
        tmp_path, "a.tif", "b.tiff", "b.xml", "level3.dcm", "c.dcm", "c.json", "d.ome.tif", "d.csv", "e.png", "e.json"
    )
    assert paired(tmp_path) == {"b.tiff": "b.xml", "c.dcm": "c.json", "d.ome.tif": "d.csv"}


def test_slides_without_outlines_or_with_two_files_of_them_are_told(tmp_path: Path) -> None:
    found = paired(place(tmp_path, "sub/a.svs", "b.svs", "b.json", "b.xml", "c.mrxs", "c.csv"))
    assert found["c.mrxs"] == "c.csv"
    assert "no file of outlines lies beside it, such as a.geojson" in found["sub/a.svs"]
    assert "b.json, b.xml" in found["b.svs"]


def test_two_slides_of_one_name_are_not_mixed(tmp_path: Path) -> None:
    found = paired(place(tmp_path, "x/a.svs", "x/a.json", "y/A.ndpi", "y/A.json", "b.svs", "b.json"))
    assert found["b.svs"] == "b.json"
    assert all("same name" in found[name] for name in ("x/a.svs", "y/A.ndpi"))


def test_one_slide_finds_its_outlines(tmp_path: Path) -> None:
    place(tmp_path, "a.tif", "a.json", "b.tif")
    (pair,) = find_pairs(tmp_path / "a.tif")
    assert pair.annotations == tmp_path / "a.json"
    (alone,) = find_pairs(tmp_path / "b.tif")
    assert "no file of outlines" in alone.problem


def test_nothing_to_cut(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no slide in"):
        find_pairs(place(tmp_path, "a.png", "a.tif"))
    with pytest.raises(UsageError, match="no such slide or folder"):
        find_pairs(tmp_path / "nothing")


def test_folders_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests may run as an administrator, for whom nothing is denied: so the system's answer is replaced."""
    place(tmp_path / "slides", "a.svs", "a.json")
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    allowed = Path.stat

    def asked(path: Path, **options: Any) -> os.stat_result:
        if path == tmp_path / "slides":
            raise denied
        return allowed(path, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "stat", asked)
        with pytest.raises(UsageError, match=r"cannot be searched for slides: Permission denied\. Check"):
            find_pairs(tmp_path / "slides")

    def listed(folder: Path) -> None:
        raise denied

    monkeypatch.setattr(pairs, "_outlines_by_stem", listed)
    for path in (tmp_path / "slides", tmp_path / "slides" / "a.svs"):
        with pytest.raises(UsageError, match=r"cannot be searched for slides: Permission denied\. Check"):
            find_pairs(path)


def test_a_path_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be searched for slides: File name too long"):
        find_pairs(tmp_path / ("a" * 300))
    arguments = ["crop", str(tmp_path / ("a" * 300)), "-a", str(tmp_path / "a.json"), "-o", str(tmp_path / "crops")]
    done = CliRunner().invoke(build(["crop"]), arguments)
    assert isinstance(done.exception, ImageError)
    assert "File name too long" in str(done.exception)


def test_linked_slides_are_found(tmp_path: Path) -> None:
    place(tmp_path / "store", "a.svs", "a.json")
    (tmp_path / "links").mkdir()
    for name in ("a.svs", "a.json"):
        (tmp_path / "links" / name).symlink_to(tmp_path / "store" / name)
    assert paired(tmp_path / "links") == {"a.svs": "a.json"}


def test_a_folder_is_cut_whole_and_a_bad_slide_does_not_end_it(tmp_path: Path) -> None:
    slides = tmp_path / "slides"
    slides.mkdir()
    for name in ("a", "b", "d"):
        write(slides / f"{name}.svs", mpp_text=None if name == "d" else "0.25")
    damage_tile(slides / "b.svs", 8)
    (slides / "c.svs").write_bytes(b"no slide")
    place(slides, "a.csv", "b.csv", "c.csv", "d.csv")
    write(slides / "e.svs")
    # Inside the folder of slides, where a second run finds it.
    arguments = ["crop", str(slides), "--output", str(slides / "crops"), "--json"]
    for _ in range(2):
        done = CliRunner().invoke(build(["crop"]), arguments)
        assert done.exit_code == 2
        results = {Path(each["slide"]).name: each for each in json.loads(done.stdout)["slides"]}
        assert [results[name]["crops"] for name in sorted(results)] == [2, 1, 0, 0, 0]
        assert results["b.svs"]["errors"] == {"corrupt": 1}
        assert "no slide that OpenSlide reads" in results["c.svs"]["message"]
        assert "--mpp" in results["d.svs"]["message"]
        assert "no file of outlines" in results["e.svs"]["message"]
    assert len(list((slides / "crops").rglob("*.png"))) == 3


def test_when_no_slide_is_cut_the_exit_code_is_1(tmp_path: Path) -> None:
    place(tmp_path / "slides", "a.svs")
    done = CliRunner().invoke(build(["crop"]), ["crop", str(tmp_path / "slides"), "-o", str(tmp_path / "crops")])
    assert done.exit_code == 1
    assert "no crops: no file of outlines" in done.stdout


def test_when_every_outline_fails_the_exit_code_is_1_too(tmp_path: Path) -> None:
    write(tmp_path / "a.svs")
    (tmp_path / "a.csv").write_text("x,y,width,height\n90000,90000,60,60\n")
    done = CliRunner().invoke(build(["crop"]), ["crop", str(tmp_path / "a.svs"), "-o", str(tmp_path / "crops")])
    assert done.exit_code == 1
    (tmp_path / "a.csv").write_text("x,y,width,height\n90000,90000,60,60\n10,20,60,60\n")
    done = CliRunner().invoke(build(["crop"]), ["crop", str(tmp_path / "a.svs"), "-o", str(tmp_path / "crops")])
    assert done.exit_code == 2


def test_a_folder_has_no_annotations_of_its_own(tmp_path: Path) -> None:
    arguments = ["crop", str(tmp_path), "-a", str(tmp_path / "a.json"), "-o", str(tmp_path / "crops")]
    done = CliRunner().invoke(build(["crop"]), arguments)
    assert isinstance(done.exception, UsageError)
    assert "belongs to one slide" in str(done.exception)
