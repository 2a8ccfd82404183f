"""Slides in several files: which ones belong to a slide, and that a resumed run sees when one of them is replaced."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from glomedge.engine.options import EngineOptions
from glomedge.runs.folder import Options, infer_folder
from glomedge.slides.companions import Companions
from helpers.drawn_slides import picture, write
from helpers.run_kit import outputs, table
from helpers.slide_runs import outline, squares


def _mrxs(folder: Path) -> tuple[Path, str]:
    for name in ("S-1/Slidedat.ini", "S-1/Data0000.dat", "S-1/Data0001.dat", "S-2/Data0000.dat"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "S-1.mrxs").write_bytes(b"a picture")
    return folder / "S-1.mrxs", "mirax"


def _vms(folder: Path) -> tuple[Path, str]:
    for name in ("S-1.jpg", "S-1(1,0).jpg", "S-1_map.jpg", "S-2.jpg"):
        (folder / name).write_bytes(b"x")
    (folder / "S-1.vms").write_bytes(
        b"[Virtual Microscope Specimen]\r\nNoLayers=1\r\nImageFile=S-1.jpg\r\nImageFile(1,0)=S-1(1,0).jpg\r\n"
        b"MapFile= S-1_map.jpg \r\nOptimisationFile=gone.opt\r\n"
    )
    return folder / "S-1.vms", "hamamatsu"


def _dicom(folder: Path) -> tuple[Path, str]:
    pytest.importorskip("pydicom", reason="pip install 'glomedge[dicom]'")
    from helpers.dicom_slides import write_dicom

    write_dicom(folder / "other", series=2)
    for path in (folder / "other").iterdir():
        path.rename(folder / f"other-{path.name}")
    (folder / "level0.geojson").write_text("{}")
    write_dicom(folder)
    return folder / "level1.dcm", "dicom"


@pytest.mark.parametrize(
    ("made", "names"),
    [
        (_mrxs, ["S-1/Data0000.dat", "S-1/Data0001.dat", "S-1/Slidedat.ini"]),
        (_vms, ["S-1(1,0).jpg", "S-1.jpg", "S-1_map.jpg"]),
        (_dicom, ["level0.dcm"]),
    ],
)
def test_the_files_of_a_slide(made: Callable[[Path], tuple[Path, str]], names: list[str], tmp_path: Path) -> None:
    slide, vendor = made(tmp_path)
    found = Companions().of(slide, vendor)
    assert [str(path.relative_to(tmp_path)) for path in found] == names
    stamps = {Companions().stamp(slide, vendor)}
    assert Companions().stamp(slide, vendor) in stamps, "the same files, the same number"
    os.utime(slide, ns=(1, 1))
    assert Companions().stamp(slide, vendor) in stamps, "its own time is asked elsewhere"
    os.utime(found[-1], ns=(5, 5))
    stamps.add(Companions().stamp(slide, vendor))
    with found[0].open("ab") as handle:
        handle.write(b"y")
    os.utime(found[0], ns=(6, 6))
    stamps.add(Companions().stamp(slide, vendor))
    found[0].unlink()
    stamps.add(Companions().stamp(slide, vendor))
    assert len(stamps) == 4
    assert all(0 <= stamp < 1 << 63 for stamp in stamps)


def test_most_slides_are_one_file(tmp_path: Path) -> None:
    slide = write(tmp_path / "S-1.svs")
    outline(slide)
    (tmp_path / "S-1").mkdir()
    for vendor in ("aperio", "hamamatsu", "generic-tiff"):
        assert Companions().stamp(slide, vendor) == 0
    # What cannot be read has no companions: the slide itself says what is wrong.
    for vendor in ("mirax", "hamamatsu", "dicom"):
        assert Companions().of(tmp_path / "gone" / "S-1.vms", vendor) == []


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFO")
def test_a_fifo_beside_a_dicom_slide_is_not_opened(tmp_path: Path) -> None:
    slide, vendor = _dicom(tmp_path)
    os.mkfifo(tmp_path / "fifo.dcm")
    found: list[Path] = []
    reader = threading.Thread(target=lambda: found.extend(Companions().of(slide, vendor)), daemon=True)
    reader.start()
    reader.join(20)
    assert not reader.is_alive(), "it waits for a writer"
    assert [path.name for path in found] == ["level0.dcm"]


def test_a_level_of_a_dicom_slide_is_replaced_after_its_rows_were_ok(tiny_model: Path, tmp_path: Path) -> None:
    pytest.importorskip("pydicom", reason="pip install 'glomedge[dicom]'")
    from helpers.dicom_slides import write_dicom

    folder = tmp_path / "slides"
    named = write_dicom(folder).with_name("level1.dcm")
    outline(named, *squares(5))
    outline(write(folder / "S-2.svs"), *squares(3))
    options = Options(folder, tiny_model, tmp_path / "out", engine=EngineOptions("cpu"), report=False)
    infer_folder(options)
    before = outputs(options.output)
    assert infer_folder(replace(options, resume=True)).predicted == 0
    # The pixels lie in the other file, which keeps its size.
    status = named.stat()
    write_dicom(folder, np.roll(picture(700, 900), 200, axis=1))
    os.utime(named, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert infer_folder(replace(options, resume=True)).predicted == 5
    fresh = replace(options, output=tmp_path / "fresh")
    infer_folder(fresh)
    assert outputs(options.output) == outputs(fresh.output) != before
    assert infer_folder(replace(options, resume=True)).predicted == 0
    # A file of another slide beside it changes nothing.
    write_dicom(tmp_path / "other", series=2)
    (tmp_path / "other" / "level0.dcm").rename(folder / "other.dcm")
    assert infer_folder(replace(options, resume=True)).predicted == 0
    assert [row["status"].partition(":")[0] for row in table(options.output)].count("error") == 0
