"""The runs of the page: one that ends while something is still on its way for it, and what a killed server left."""

from __future__ import annotations

import asyncio
import csv
import errno
import io
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from glomedge.engine.options import EngineOptions
from glomedge.errors import OutputError
from glomedge.pipeline.inputs import Found
from glomedge.pipeline.prepare import Answer
from glomedge.results.journal import Journal
from glomedge.results.thumbnails import ThumbnailFile
from glomedge.runs.publish import Publication
from glomedge.serve import page_slides
from glomedge.serve.audit import Log
from glomedge.serve.body import Bodies
from glomedge.serve.core import Core
from glomedge.serve.metrics import Metrics
from glomedge.serve.options import ServeOptions
from glomedge.serve.page import PageApi, _Open
from glomedge.serve.page_run import PageRun
from glomedge.serve.page_slides import SlidesRoom
from glomedge.serve.served import open_model
from glomedge.system.stopping import StoppedError
from helpers.server import Server, serving, until
from helpers.v2 import crop_png


def begin(server: Server) -> str:
    reply = server.request("POST", "/v1/runs")
    assert reply.status == 201
    return f"/v1/runs/{reply.json()['id']}"


def test_a_crop_whose_run_was_forgotten_is_refused_and_reaches_no_other_run(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run ends while a body is read, and the model was replaced before: nothing holds the old one but the crop."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    crop = crop_png(1)
    with serving(tiny_model) as server:
        first = begin(server)
        server.signal(signal.SIGHUP)
        server.wait_for("model_swapped")
        sent, forgotten = threading.Event(), threading.Event()

        def parts() -> Iterator[bytes]:
            yield crop[:100]
            sent.set()
            assert forgotten.wait(30)
            yield crop[100:]

        with ThreadPoolExecutor(1) as client:
            late = client.submit(server.request, "PUT", f"{first}/crops?name=PATIENT-A-1.png", parts())
            assert sent.wait(30)
            until(lambda: server.metric("glomedge_bodies_bytes") > 0)
            assert server.request("DELETE", first).status == 200
            second = begin(server)
            forgotten.set()
            assert late.result().status == 404
        assert server.request("PUT", f"{second}/crops?name=PATIENT-B-1.png", crop).status == 200
        assert server.request("POST", f"{second}/finish").status == 200
        table = server.get(f"{second}/predictions.csv").body.decode()
        assert [row["path"] for row in csv.DictReader(io.StringIO(table))] == ["PATIENT-B-1.png"]
        assert not [line for line in server.lines if line["event"] in ("defect", "page_failed", "network_failed")]


class Page(NamedTuple):
    """A page's handlers without the network, and one run of it."""

    api: PageApi
    run: PageRun
    identity: str


@pytest.fixture
def page(tiny_model: Path) -> Iterator[Page]:
    options = ServeOptions(model=tiny_model, engine=EngineOptions("cpu"))
    metrics = Metrics()
    core = Core(options, open_model(options), Log(None, metrics.audit_failures.inc), metrics)
    api = PageApi(core, Bodies(options.limits), token_needed=False)
    run = PageRun(options, core.model, SlidesRoom(options.limits.slides_bytes))
    answer = Answer(Found(b""), status="ok", sha256="0" * 64, probability=0.25)
    run.add("S-1_1.png", answer)
    yield Page(api, run, "one")
    run.close()
    core.close()


def test_a_run_is_not_idle_while_it_is_locked(page: Page) -> None:
    async def scenario() -> tuple[bool, bool]:
        timer = asyncio.get_running_loop().call_later(1000, print)
        opened = page.api._runs[page.identity] = _Open(page.run, timer)
        async with opened.lock:
            page.api._idle(page.identity)
            kept = page.identity in page.api._runs
        page.api._idle(page.identity)
        return kept, page.identity in page.api._runs

    assert asyncio.run(scenario()) == (True, False)


def test_the_end_of_the_server_waits_for_a_run_that_is_published(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, go_on = threading.Event(), threading.Event()
    write = Publication.write

    def slow(self: Publication, *args: Any) -> Any:
        begun.set()
        assert go_on.wait(30)
        return write(self, *args)

    monkeypatch.setattr(Publication, "write", slow)
    with ThreadPoolExecutor(2) as threads:
        published = threads.submit(page.run.publish)
        assert begun.wait(30)
        closed = threads.submit(page.run.close)
        assert not wait([closed], 0.2).done
        go_on.set()
        published.result()
        closed.result()
    with pytest.raises(OutputError):
        page.run.add("S-1_2.png", Answer(Found(b""), status="ok", sha256="0" * 64, probability=0.25))
    with pytest.raises(OutputError):
        page.run.publish()


def test_what_comes_after_the_end_is_written_into_no_other_file(tmp_path: Path) -> None:
    """The next file that is opened has the number of the one that was closed."""
    journal, thumbnails = Journal(tmp_path / "journal"), ThumbnailFile(tmp_path / "thumbnails", fresh=True)
    journal.close()
    thumbnails.close()
    descriptors = [os.open(tmp_path / f"other-{index}", os.O_RDWR | os.O_CREAT) for index in range(8)]
    with pytest.raises(OutputError):
        journal.engine("cpu")
    with pytest.raises(OutputError):
        thumbnails.append(np.zeros((7, 7), np.float32), b"PATIENT-A")
    assert [os.fstat(descriptor).st_size for descriptor in descriptors] == [0] * 8
    for descriptor in descriptors:
        os.close(descriptor)


def test_what_a_killed_server_left_is_deleted_at_the_next_start(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    (tmp_path / "glomedge-page-link").symlink_to(tmp_path)
    (tmp_path / "glomedge-page-young").mkdir()
    with serving(tiny_model) as alive:
        begin(alive)
        with serving(tiny_model) as killed:
            begin(killed)
            killed.process.kill()
            killed.process.wait(30)
        folders = [path for path in tmp_path.glob("glomedge-page-*") if (path / ".glomedge").is_dir()]
        assert len(folders) == 2
        with serving(tiny_model):
            left = [folder for folder in folders if folder.exists()]
            pid = (left[0] / ".glomedge" / "lock").read_text().strip()
            assert [pid] * len(left) == [str(alive.process.pid)]
    assert (tmp_path / "glomedge-page-link").is_symlink()
    assert (tmp_path / "glomedge-page-young").is_dir()


def test_a_folder_that_cannot_be_deleted_keeps_no_model(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(self: object) -> None:
        raise PermissionError

    held = page.run.model._holders
    with monkeypatch.context() as broken:
        broken.setattr(tempfile.TemporaryDirectory, "cleanup", fails)
        with pytest.raises(PermissionError):
            page.run.close()
    assert page.run.model._holders == held - 1
    page.run._temporary.cleanup()


def test_answers_for_viewers_that_cannot_be_packed_leave_no_archive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations" / "S-1.geojson").write_text("{}")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(shutil, "copyfileobj", full)
        with pytest.raises(OutputError, match="No space left"):
            page_slides.pack_answers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["annotations"]
    page_slides.pack_answers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["annotations", "annotations.zip"]


def test_crops_leave_room_for_outlines_without_an_answer(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    page.run.slides.inputs = [Found(b"S-1.svs#%d" % number, part=number) for number in range(3)]
    assert page.run.size == 4, "one crop, three outlines"
    page.run.add_outlines([Answer(page.run.slides.inputs[0], status="error:empty", sha256="0" * 64)])
    assert page.run.size == 4


def test_answers_that_come_again_are_not_written_again(page: Page) -> None:
    outline = Found(b"S-1.svs#1", part=0)
    answers = [Answer(outline, status="error:empty", sha256="0" * 64)]
    page.run.slides.inputs = [outline]
    assert page.run.errors_of([outline]) is None
    page.run.add_outlines(answers)
    size = sum(path.stat().st_size for path in page.run._options.output.rglob("*") if path.is_file())
    for _ in range(3):
        page.run.add_outlines(answers)
    assert size == sum(path.stat().st_size for path in page.run._options.output.rglob("*") if path.is_file())
    assert page.run.errors_of([outline]) == 1
    assert page.run.kept == 2, "one crop, one outline"


def test_no_more_outlines_are_read_than_a_server_should(page: Page, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openslide", reason="needs openslide")
    from helpers.drawn_slides import write
    from helpers.slide_runs import outline, squares

    page.run.slides.folder.mkdir()
    outline(write(page.run.slides.place("S-1.svs")), *squares(9))
    monkeypatch.setattr(page_slides, "MOST_OUTLINES_READ", 18)
    assert page.run.read_slides()["outlines"] == 9
    monkeypatch.setattr(page_slides, "MOST_OUTLINES_READ", 16)
    with pytest.raises(StoppedError):
        page.run.read_slides()
    page.run.slides.clear()
    assert page.run.open_outlines == 0
    page.run.publish()
