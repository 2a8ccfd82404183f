"""Slides and the labelling page at ``/``: answers and files are those of ``glomedge infer`` over the same folder."""

from __future__ import annotations

import csv
import io
import json
import shutil
import threading
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from glomedge.engine.options import EngineOptions
from glomedge.runs.folder import Options, infer_folder
from glomedge.runs.label import LabelOptions, prepare_labelling
from helpers.page_checks import text_of
from helpers.run_kit import table, write_crops
from helpers.server import Server, refused, serving, until

pytest.importorskip("openslide", reason="needs openslide")
from helpers.drawn_slides import picture, write
from helpers.mrxs_slides import write_mrxs
from helpers.slide_runs import outline, square, write_outlined

TOKEN = "5f2d8c1be0a94737"


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Slides with outlines (one of them MRXS), one without, one with an outline outside; and crops."""
    folder = tmp_path_factory.mktemp("night") / "scans"
    write_outlined(folder, ("S-1234-000001_PAS_1of2.svs",), 11)
    write_outlined(folder / "b", ("S-5678-000002_PAS_1of1.svs",), 11)
    write(folder / "S-8.svs")
    outline(write(folder / "S-9.svs"), square(1, 37, 91), square(2, 5000, 5000))
    outline(write_mrxs(folder / "b" / "S-7.mrxs", picture(768, 1024), {(0, 0)}), square(1, 37, 91), square(2, 300, 300))
    write_crops(folder / "crops", 3, side_px=150)
    return folder


@pytest.fixture(scope="module")
def published(night: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``glomedge infer`` makes of them."""
    output = tmp_path_factory.mktemp("infer")
    infer_folder(Options(night, tiny_model, output, EngineOptions("cpu"), formats=("csv", "geojson", "dsa")))
    return output


def begin(server: Server) -> str:
    reply = server.request("POST", "/v1/runs")
    assert reply.status == 201
    return f"/v1/runs/{reply.json()['id']}"


def same_rows(found: str, published: Path, night: Path) -> None:
    """The same but for the last digits of a probability; messages name no folder of the server."""
    for row, other in zip(csv.DictReader(io.StringIO(found)), table(published), strict=True):
        probability, wanted = row.pop("probability"), other.pop("probability")
        other["message"] = other["message"].replace(f"{night}/", "")
        assert row == other
        assert probability == wanted or abs(float(probability) - float(wanted)) <= 1e-6


def alike(one: Any, other: Any) -> bool:
    """Whether two JSON documents are the same but for the last digits of numbers."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(alike(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(alike, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return abs(one - other) <= 1e-6
    return bool(one == other)


def test_a_folder_of_slides_and_crops_gives_the_files_of_infer(server: Server, night: Path, published: Path) -> None:
    run = begin(server)
    paths = sorted(path for path in night.rglob("*") if path.is_file())
    for path in paths:
        kind, name = ("crops" if path.suffix == ".png" else "slides"), path.relative_to(night)
        for _ in range(2 if "S-9" in path.name else 1):  # sent again after a lost answer
            assert server.request("PUT", f"{run}/{kind}?name={name}", path.read_bytes()).status == 200
    assert server.request("POST", f"{run}/outlines?from=0").status == 400, "not read yet"
    read = server.request("POST", f"{run}/slides/read").json()
    assert read["outlines"] == 11 + 11 + 1 + 2 + 2
    assert list(read["problems"]) == ["S-8.svs"]
    assert server.request("POST", f"{run}/slides/read").json() == read, "asked again after a lost answer"
    late = server.request("PUT", f"{run}/slides?name=S-late.svs", b"x")
    assert late.status == 409, "it would be missing from the result"
    assert server.request("POST", f"{run}/finish").status == 409, "some have no answer yet"
    errors = 0
    for first in range(0, 27, 8):
        done = server.request("POST", f"{run}/outlines?from={first}")
        assert done.json()["answered"] == min(8, 27 - first)
        assert server.request("POST", f"{run}/outlines?from={first}").json() == done.json(), "after a lost answer"
        errors += done.json()["errors"]
    assert errors == 2, "the slide without outlines, and one outside"
    for wrong in ("27", "-1", "", "x", "9" * 30):
        assert server.request("POST", f"{run}/outlines?from={wrong}").status == 400
    assert "annotations.zip" in server.request("POST", f"{run}/finish").json()["files"]
    assert server.get(f"{run}/cases.csv").body == (published / "cases.csv").read_bytes()
    same_rows(server.get(f"{run}/predictions.csv").body.decode(), published, night)
    with zipfile.ZipFile(io.BytesIO(server.get(f"{run}/annotations.zip").body)) as archive:
        names = archive.namelist()
        wanted = sorted(
            str(path.relative_to(published / "annotations"))
            for path in (published / "annotations").rglob("*")
            if path.is_file()
        )
        assert names == wanted
        for each in names:
            data, wanted_data = archive.read(each), (published / "annotations" / each).read_bytes()
            if each.endswith("json"):
                assert alike(json.loads(data), json.loads(wanted_data)), each
            else:
                assert data == wanted_data
    report = server.get(f"{run}/report.html").body.decode()
    assert report.count("<svg") > 3
    assert "S-9: 1 of 2 marked" in text_of(report), "beside its biopsy"
    assert server.request("PUT", f"{run}/slides?name=S-1.svs", b"x").status == 409
    assert server.request("DELETE", run).status == 200


def test_what_is_no_slide_is_named_and_what_cannot_be_is_refused(server: Server, night: Path) -> None:
    run = begin(server)
    for name in (
        "../S-1.svs",
        "a/../../S-1.svs",
        "/S-1.svs",
        "a//b.svs",
        ".",
        "x" * 1001,
        "a" * 300 + ".svs",
        "a/" * 8 + "b.svs",
    ):
        reply = server.request("PUT", f"{run}/slides?name={name}", b"x")
        assert reply.status == 400, name
    # OpenSlide would follow them to any picture on this machine.
    for index in (
        b"[DATAFILE]\r\nFILE_0 = ../../b/Data0000.dat\r\n",
        b"[Virtual Microscope Specimen]\nImageFile=..\\a.jpg\n",
        b"[DATAFILE]\nFILE_0 = \r../../b/Data0000.dat\n",
        b"[DATAFILE]\nFILE_0 = a\r/../../b/Data0000.dat\n",
        b"\xef\xbb\xbf\t[DATAFILE]\nFILE_0=\t\f../../b/Data0000.dat",
        b"\r\f[Virtual Microscope Specimen]\nImageFile=\r/b/a.jpg\n",
        b"[Virtual Microscope Specimen]\nImageFile(1,0)= C:\\b\\a.jpg\n",
    ):
        for name in ("S-1/Slidedat.ini", "S-1.vms", "S-1.svs"):
            assert server.request("PUT", f"{run}/slides?name={name}", index).status == 400
    assert server.request("POST", f"{run}/slides/read").json()["outlines"] == 0
    assert server.request("DELETE", run).status == 200
    run = begin(server)
    for name, data in {"photo.tif": next(night.rglob("*.png")).read_bytes(), "photo.json": b"{}"}.items():
        assert server.request("PUT", f"{run}/slides?name={name}", data).status == 200
    read = server.request("POST", f"{run}/slides/read").json()
    assert (read["outlines"], read["no_slides"]) == (0, ["photo.tif"])
    crop = next(night.rglob("*.png")).read_bytes()
    assert server.request("PUT", f"{run}/crops?name=S-1_1.png", crop).status == 200
    assert "annotations.zip" not in server.request("POST", f"{run}/finish").json()["files"]
    assert server.get(f"{run}/annotations.zip").status == 404
    assert server.request("DELETE", run).status == 200


def test_slides_have_a_limit_and_leave_nothing_behind(
    tiny_model: Path, night: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    slide = night / "S-9.svs"
    with serving(tiny_model, "--max-slides", "1", "--body-timeout", "1") as server:
        first, second = begin(server), begin(server)
        assert server.request("PUT", f"{first}/slides?name=S-1.svs", slide.read_bytes()).status == 200
        rest = bytes(1_000_000 - slide.stat().st_size + 1)

        def parts() -> Iterator[bytes]:
            for begin_ in range(0, len(rest), 50_000):
                yield rest[begin_ : begin_ + 50_000]

        assert server.request("PUT", f"{second}/slides?name=S-2.svs", rest).status == 413
        assert "--max-slides" in server.request("PUT", f"{second}/slides?name=S-2.svs", parts()).json()["error"]
        assert server.request("PUT", f"{second}/slides?name=S-2.svs", b"x", {"Content-Encoding": "gzip"}).status == 415
        with server.connect() as stalled:
            stalled.sendall(
                f"PUT {second}/slides?name=S-3.svs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\nab".encode()
            )
            assert b" 408 " in stalled.recv(1000)
        refused_twice = server.request("PUT", f"{second}/slides?name=a/b/S-2.svs", b"x" * 1_000_001)
        assert refused_twice.status == 413
        index = server.request("PUT", f"{second}/slides?name=c/d/Slidedat.ini", b"[DATAFILE]\nFILE_0=../x\n")
        assert index.status == 400
        kept = [path.name for path in tmp_path.glob("glomedge-page-*/slides/**/*")]
        assert kept == ["S-1.svs"], "nothing of what was refused, folders included"
        assert server.request("DELETE", first).status == 200
        assert server.request("PUT", f"{second}/slides?name=S-2.svs", rest).status == 200
        assert server.stop() == 0
    assert list(tmp_path.glob("glomedge-page-*")) == []
    with serving(tiny_model, "--max-slides", "0") as server:
        assert "S-1.geojson" not in server.get("/").body.decode()
        assert server.request("PUT", f"{begin(server)}/slides?name=S-1.svs", b"x").status == 400


def test_slides_on_their_way_count(tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    with serving(tiny_model, "--max-slides", "1") as server, ThreadPoolExecutor(4) as clients:
        runs = [begin(server) for _ in range(4)]
        all_under_way = threading.Barrier(4)

        def parts() -> Iterator[bytes]:
            yield bytes(200_000)
            all_under_way.wait(30)
            for _ in range(4):
                yield bytes(100_000)

        sent = [clients.submit(server.request, "PUT", f"{run}/slides?name=S.svs", parts()) for run in runs]
        statuses = sorted(each.result().status for each in sent)
        stored = sum(path.stat().st_size for path in tmp_path.rglob("*.svs"))
        assert set(statuses) <= {200, 413}
        assert statuses.count(413) >= 3, "two of them are larger than all that is kept"
        assert stored == 600_000 * statuses.count(200) <= 1_000_000
        for run in runs:
            server.request("DELETE", run)
        assert server.request("PUT", f"{begin(server)}/slides?name=S.svs", bytes(1_000_000)).status == 200, (
            "all is free"
        )


@pytest.fixture(scope="module")
def label_page(night: Path, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    done = prepare_labelling(LabelOptions(night / "crops", tiny_model, tmp_path_factory.mktemp("label"), count=2))
    assert done is not None
    return done.page


@pytest.fixture(scope="module")
def chrome(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if shutil.which("chromedriver") is None:
        pytest.skip("Chromium and ChromeDriver are not installed (Debian: chromium chromium-driver)")
    pytest.importorskip("selenium", reason="selenium is not installed: pip install 'glomedge[dev]'")
    from benchmarks.speed.report_browser import browser

    with browser((1280, 900), tmp_path_factory.mktemp("profile")) as driver:
        yield driver


def test_a_dropped_folder_of_slides_in_a_browser(
    chrome: Any, server: Server, night: Path, published: Path, tmp_path: Path
) -> None:
    chrome.get(f"http://127.0.0.1:{server.port}/")
    chrome.find_element("id", "folder").send_keys(str(night))

    def text(identity: str) -> str:
        return str(chrome.find_element("id", identity).text)

    until(lambda: chrome.find_element("id", "results").is_displayed() or bool(text("wrong")), 120)
    assert text("wrong") == ""
    assert text("said") == "30 of 30 glomeruli classified, 3 without an answer."
    chrome.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    for name in ("cases.csv", "predictions.csv", "annotations.zip"):
        chrome.find_element("css selector", f"button[data-file='{name}']").click()
        until((tmp_path / name).is_file)
    assert (tmp_path / "cases.csv").read_bytes() == (published / "cases.csv").read_bytes()
    same_rows((tmp_path / "predictions.csv").read_text("utf-8"), published, night)
    assert [entry for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"] == []
    # Crops alone: there are no outlines to download.
    chrome.find_element("id", "files").send_keys(str(next(night.rglob("*.png"))))
    until(lambda: text("said").startswith("1 of 1 crops") and chrome.find_element("id", "results").is_displayed())
    assert not chrome.find_element("css selector", "button[data-file='annotations.zip']").is_displayed()


def test_a_picture_beside_other_text_is_a_crop(chrome: Any, server: Server, tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "crops"
    write_crops(folder, 2, side_px=150)
    _, one = sorted(folder.rglob("*.png"))
    photo = one.with_name("S-1_1.tif")
    Image.open(one).save(photo)
    photo.with_suffix(".json").write_text("{}")
    one.unlink()
    infer_folder(Options(folder, tiny_model, tmp_path / "out", EngineOptions("cpu")))
    chrome.get(f"http://127.0.0.1:{server.port}/")
    chrome.find_element("id", "folder").send_keys(str(folder))
    until(lambda: chrome.find_element("id", "results").is_displayed(), 60)
    assert str(chrome.find_element("id", "said").text) == "2 of 2 crops classified, 1 without an answer."
    chrome.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
    chrome.find_element("css selector", "button[data-file='predictions.csv']").click()
    until((tmp_path / "predictions.csv").is_file)
    same_rows((tmp_path / "predictions.csv").read_text("utf-8"), tmp_path / "out", folder)


def test_crops_and_outlines_count_together(chrome: Any, server: Server, night: Path, tmp_path: Path) -> None:
    outline(write(tmp_path / "S-1.svs"), *[square(number, 37, 91) for number in range(1999)])
    crop = next(night.rglob("*.png"))
    paths = [shutil.copy(crop, tmp_path / f"S-1_{number}.png") for number in range(2)]
    paths += [tmp_path / "S-1.svs", tmp_path / "S-1.geojson"]
    chrome.get(f"http://127.0.0.1:{server.port}/")
    chrome.find_element("id", "files").send_keys("\n".join(map(str, paths)))
    until(lambda: "2 images and 1999 outlines are more" in str(chrome.find_element("id", "wrong").text), 60)


def test_slides_that_are_too_large_are_not_sent(chrome: Any, tiny_model: Path, tmp_path: Path) -> None:
    for name in ("S-1.svs", "S-1.geojson"):
        (tmp_path / name).write_bytes(bytes(600_000))
    with serving(tiny_model, "--max-slides", "1") as server:
        chrome.get(f"http://127.0.0.1:{server.port}/")
        chrome.find_element("id", "files").send_keys(f"{tmp_path / 'S-1.svs'}\n{tmp_path / 'S-1.geojson'}")
        until(lambda: "1.2 MB" in str(chrome.find_element("id", "wrong").text))
        assert not [line for line in server.lines if line.get("path", "").startswith("/v1/")]


def test_the_labelling_page_is_one_click_away(chrome: Any, tiny_model: Path, label_page: Path, tmp_path: Path) -> None:
    with serving(tiny_model, "--label-page", str(label_page)) as server:
        chrome.get(f"http://127.0.0.1:{server.port}/")
        chrome.find_element("link text", "Label crops").click()
        until(lambda: chrome.title == "Label 2 glomeruli")
        assert chrome.find_element("id", "start").is_displayed()
        assert [entry for entry in chrome.get_log("browser") if entry["level"] == "SEVERE"] == []
        assert server.get("/label.html").body == label_page.read_bytes()
        assert "frame-ancestors 'none'" in server.get("/label.html").headers["content-security-policy"]
    tokens = tmp_path / "tokens"
    tokens.write_text(TOKEN)
    tokens.chmod(0o600)
    # Pictures of patients: only for those with a token, whom a link cannot carry.
    with serving(tiny_model, "--label-page", str(label_page), "--token-file", str(tokens)) as server:
        assert server.get("/label.html").status == 401
        chrome.get(f"http://127.0.0.1:{server.port}/")
        chrome.find_element("id", "token").send_keys(TOKEN)
        chrome.execute_cdp_cmd("Page.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(tmp_path)})
        chrome.find_element("id", "label").click()
        until((tmp_path / "label.html").is_file)
        assert (tmp_path / "label.html").read_bytes() == label_page.read_bytes()


def test_only_a_page_of_glomedge_label_is_offered(
    server: Server, tiny_model: Path, published: Path, tmp_path: Path
) -> None:
    assert "is no page of glomedge label" in refused(tiny_model, "--label-page", str(published / "report.html"))
    assert "cannot be read" in refused(tiny_model, "--label-page", str(tmp_path / "none.html"))
    assert server.get("/label.html").status == 404
    assert b"label.html" not in server.get("/").body
