"""Crops kept in grey for their heatmaps: the same pictures as without, and never a reason to fail."""

from __future__ import annotations

import contextlib
import errno
import gc
import os
import resource
import threading
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from glomedge.engine.engine import Output
from glomedge.engine.options import EngineOptions
from glomedge.errors import GlomedgeError, OutputError
from glomedge.files import writing as room
from glomedge.imaging import images
from glomedge.imaging.images import grey
from glomedge.model.spec import Recipe
from glomedge.pipeline.inputs import scan
from glomedge.pipeline.pipeline import Pipeline
from glomedge.pipeline.settings import Settings
from glomedge.reports.overlay import overlay
from glomedge.results import grey_crops
from glomedge.results.grey_crops import Grey, GreyStore
from glomedge.results.journal import Identity, Journal, read_journal
from glomedge.results.thumbnails import ThumbnailFile
from glomedge.runs import folder, heatmaps
from glomedge.runs.folder import Options, infer_folder
from helpers.builders import build_tiny_model
from helpers.run_kit import outputs, write_crops


def _grey(seed: int, height_px: int = 300, width_px: int = 200) -> Grey:
    return np.random.default_rng(seed).integers(0, 256, (height_px, width_px), np.uint8)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GreyStore]:
    with contextlib.closing(GreyStore(tmp_path, lambda _: True)) as made:
        yield made


def test_what_was_kept_comes_back(store: GreyStore, tmp_path: Path) -> None:
    for seed, size in enumerate(((32, 32), (300, 200), (1, 65_000))):
        store.put(f"crop {seed}", _grey(seed, *size))
    for seed, size in enumerate(((32, 32), (300, 200), (1, 65_000))):
        np.testing.assert_array_equal(store.get(f"crop {seed}"), _grey(seed, *size))
    assert store.get("another") is None
    assert not list(tmp_path.iterdir())  # nothing that a crash could leave


def test_room_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grey_crops, "_MOST_BYTES", 3 * 60_000)
    with contextlib.closing(GreyStore(tmp_path, lambda _: True)) as store:
        for seed in range(5):
            store.put(str(seed), _grey(seed))
        assert [store.get(str(seed)) is not None for seed in range(5)] == [True, True, True, False, False]


def test_small_crops_fill_the_index_no_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grey_crops, "_MOST_BYTES", 10 << 15)
    with contextlib.closing(GreyStore(tmp_path, lambda _: True)) as store:
        for seed in range(12):
            store.put(str(seed), _grey(seed, 32, 32))
        assert sum(store.get(str(seed)) is not None for seed in range(12)) == 10


@contextlib.contextmanager
def _files_end_at(size_bytes: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_gets_back_what_was_taken(store: GreyStore) -> None:
    with _files_end_at(100_000):
        store.put("first", _grey(1))
        assert store.get("first") is not None
        store.put("torn", _grey(2))
    store.put("later", _grey(3))
    assert [store.get(key) for key in ("first", "torn", "later")] == [None, None, None]
    assert store._file is not None
    assert os.fstat(store._file.fileno()).st_size == 0


def test_bytes_that_a_disk_lost_are_not_shown(store: GreyStore) -> None:
    store.put("crop", _grey(1))
    assert store._file is not None
    os.ftruncate(store._file.fileno(), 0)
    assert store.get("crop") is None
    os.ftruncate(store._file.fileno(), _grey(1).nbytes)
    assert store.get("crop") is None


def test_dropped_or_closed_it_keeps_nothing(store: GreyStore) -> None:
    store.put("crop", _grey(1))
    store.drop()
    store.put("crop", _grey(1))
    assert store.get("crop") is None
    assert store._file is not None
    assert os.fstat(store._file.fileno()).st_size == 0
    store.close()
    store.put("crop", _grey(1))
    assert store.get("crop") is None
    store.close()


class _Disk:
    """A disk of so many bytes: what does not fit is cut off, then refused, as a file system does."""

    def __init__(self, size_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.free_bytes = size_bytes
        self._write, self._pwrite = os.write, os.pwrite
        monkeypatch.setattr(os, "write", lambda where, data: self._write(where, self._fitting(data)))
        monkeypatch.setattr(os, "pwrite", lambda where, data, at: self._pwrite(where, self._fitting(data), at))

    def _fitting(self, data: bytes | memoryview) -> memoryview:
        part = memoryview(data).cast("B")[: self.free_bytes]
        if not part:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.free_bytes -= len(part)
        return part


def test_what_runs_out_of_room_gets_that_of_the_crops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with contextlib.closing(GreyStore(tmp_path, lambda _: True)) as store:
        disk = _Disk(60_000 + 700, monkeypatch)
        store.put("crop", _grey(1))
        assert disk.free_bytes == 700

        def make_room() -> None:
            disk.free_bytes += 60_000
            store.drop()

        with contextlib.closing(ThumbnailFile(tmp_path / "thumbnails", fresh=True)) as thumbnails:
            thumbnails.make_room = make_room
            activation = np.arange(49, dtype=np.float32).reshape(7, 7)
            kept = thumbnails.read(thumbnails.append(activation, b"thumbnail" * 100))
            assert kept is not None
            np.testing.assert_array_equal(kept[0], activation)
            assert kept[1] == b"thumbnail" * 100
            disk.free_bytes = 0
            with pytest.raises(OutputError, match="No space left"):  # there was nothing more to give
                ThumbnailFile(tmp_path / "other", fresh=True).append(activation, b"")


def test_a_journal_that_was_given_room_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identity = Identity("folder", "0" * 64, "{}", 0.5, 1, 4)
    disk = _Disk(500, monkeypatch)
    asked = []

    def make_room() -> None:
        asked.append(disk.free_bytes)
        disk.free_bytes += 700

    with contextlib.closing(Journal(tmp_path / "journal")) as journal:
        journal.make_room = make_room
        journal.head(identity)
        journal.start([f"crop {number}" for number in range(50)])
        with pytest.raises(OutputError, match="No space left"):  # what was given is not enough
            journal.start([f"crop {number}" for number in range(200)])
    assert asked == [0, 0]
    contents = read_journal(tmp_path / "journal")
    assert contents.identity == identity
    assert len(contents.suspects) == 50
    assert contents.bad_bytes > 0  # the last line, which was told to be torn


def test_room_that_another_thread_made_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = _Disk(0, monkeypatch)
    with contextlib.closing(ThumbnailFile(tmp_path / "thumbnails", fresh=True)) as thumbnails:
        # There is nothing left to give when it asks, but by then there is room.
        thumbnails.make_room = lambda: setattr(disk, "free_bytes", 1000)
        assert thumbnails.read(thumbnails.append(np.zeros((7, 7), np.float32), b"thumbnail")) is not None


def test_a_heatmap_takes_the_room_of_the_crops(options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    run = replace(options, heatmaps_for="all", workers=1)
    infer_folder(run)
    expected = _drawn(run)
    dropped: list[GreyStore] = []
    drop, write_all = GreyStore.drop, room.write_all

    def full_once(write: Callable[[memoryview], int], data: bytes, make_room: Callable[[], object]) -> None:
        def writing(part: memoryview) -> int:
            if not dropped:
                raise OSError(errno.ENOSPC, "No space left on device")
            return write(part)

        write_all(writing, data, make_room)

    def noted(store: GreyStore) -> None:
        dropped.append(store)
        drop(store)

    monkeypatch.setattr(GreyStore, "drop", noted)
    monkeypatch.setattr(heatmaps, "write_all", full_once)
    again = replace(run, output=options.output / "again", heatmaps=options.output / "again heat")
    assert infer_folder(again).exit_code == 2  # two of the crops are broken
    assert dropped
    assert _drawn(again) == expected


@pytest.mark.parametrize("error", [MemoryError(), cv2.error("Insufficient memory")])
def test_a_crop_that_cannot_be_made_grey_is_answered(
    options: Options, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(pixels: Grey) -> Grey:
        if threading.current_thread().name == "glomedge-decode":
            raise error
        return grey(pixels)

    infer_folder(replace(options, heatmaps=None))
    expected = outputs(options.output)
    with monkeypatch.context() as patch:
        patch.setattr(images, "grey", fail)
        run = replace(options, output=options.output / "again", heatmaps_for="all")
        infer_folder(run)
    assert outputs(run.output) == expected
    assert len(_drawn(run)) == 28


def test_processes_that_cannot_share_so_much_say_so(options: Options) -> None:
    run = replace(options, decode_in="processes")
    with _files_end_at(3_000_000), pytest.raises(GlomedgeError, match=r"\d+ MB .*--decode-in threads"):
        infer_folder(run)
    assert infer_folder(run).exit_code == 2  # two of the crops are broken


@pytest.mark.parametrize("processes", [False, True])
def test_the_pipelines_memory_goes_with_it(options: Options, processes: bool) -> None:
    class Sink:
        def start(self, batch: object) -> None: ...
        def rows(self, answers: object) -> None: ...
        def sync(self) -> None: ...

    class Engine:
        def infer(self, images_nhwc: Grey) -> Output:
            count = len(images_nhwc)
            return Output(np.zeros(count, np.float32), np.zeros((count, 7, 7), np.float32))

    inputs = scan(options.folder, frozenset({".png"})).inputs
    settings = Settings(Recipe(), decode_processes=processes, grey_px=2000)
    pipeline = Pipeline(bytes(options.folder), settings, Engine, Sink())
    assert pipeline.run([inputs[:4], inputs[4:8]])
    gone = weakref.ref(pipeline)
    gc.disable()
    try:
        del pipeline
        assert gone() is None
    finally:
        gc.enable()


def test_without_a_file_nothing_is_kept(tmp_path: Path) -> None:
    with contextlib.closing(GreyStore(tmp_path / "not there", lambda _: True)) as store:
        store.put("crop", _grey(1))
        assert store.get("crop") is None


@pytest.mark.parametrize("threshold_logit", [None, 0.5])
def test_an_overlay_on_grey_is_the_overlay_on_the_crop(threshold_logit: float | None) -> None:
    generator = np.random.default_rng(5)
    crop = generator.integers(0, 256, (333, 250, 3), np.uint8)
    activation = generator.normal(0.0, 2.0, (7, 7)).astype(np.float32)
    kept = grey(crop)
    kept.setflags(write=False)
    np.testing.assert_array_equal(
        overlay(kept, activation, threshold_logit=threshold_logit),
        overlay(crop, activation, threshold_logit=threshold_logit),
    )


@pytest.fixture
def options(tmp_path: Path) -> Options:
    write_crops(tmp_path / "crops", 30, broken=2)
    build_tiny_model(tmp_path / "model.onnx")
    out = tmp_path / "out"
    return Options(tmp_path / "crops", tmp_path / "model.onnx", out, heatmaps=out / "heat", engine=EngineOptions("cpu"))


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of all files whose bytes were read, in order."""
    names: list[str] = []
    original = images.read

    def noted(path: bytes, *, follow_symlinks: bool = False) -> bytes:
        names.append(os.fsdecode(os.path.basename(path)))  # noqa: PTH119 (bytes)
        return original(path, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(images, "read", noted)
    return names


def _drawn(options: Options) -> dict[str, bytes]:
    assert options.heatmaps is not None
    return {str(path.relative_to(options.heatmaps)): path.read_bytes() for path in options.heatmaps.rglob("*.jpg")}


@pytest.mark.parametrize(("wanted", "tta"), [("positives", 1), ("uncertain", 1), ("all", 8)])
def test_heatmaps_are_the_same_kept_or_read_again(
    options: Options, read: list[str], monkeypatch: pytest.MonkeyPatch, wanted: str, tta: int
) -> None:
    run = replace(options, heatmaps_for=wanted, tta=tta)
    infer_folder(run)
    assert len(read) == 30  # each file once
    kept = _drawn(run)
    assert kept
    assert wanted == "all" or len(kept) < 28

    monkeypatch.setattr(folder, "MAX_GREY_PX", 0)
    again = replace(run, output=options.output / "again", heatmaps=options.output / "again heat")
    infer_folder(again)
    assert len(read) == 60 + len(kept)
    assert _drawn(again) == kept


def test_decode_processes_hand_on_the_same(options: Options, read: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    write_crops(options.folder / "odd", 1, side_px=53, broken=0)
    write_crops(options.folder / "large", 3, side_px=91, broken=0)
    threads = replace(options, heatmaps_for="all", decode_in="threads")
    infer_folder(threads)
    assert len(_drawn(threads)) == 32
    del read[:]
    monkeypatch.setattr(folder, "MAX_GREY_PX", 53 * 53)
    processes = replace(
        threads, decode_in="processes", output=options.output / "again", heatmaps=options.output / "again heat"
    )
    infer_folder(processes)
    assert len(read) == 3  # of this process: those too large to be handed on
    assert _drawn(processes) == _drawn(threads)


def test_a_resumed_run_reads_what_it_did_not_keep(options: Options, read: list[str]) -> None:
    run = replace(options, heatmaps_for="all")
    infer_folder(replace(run, heatmaps=None))
    (options.folder / "case9-1.png").write_bytes((options.folder / "b" / "case2-5.png").read_bytes())
    del read[:]
    outcome = infer_folder(replace(run, resume=True))
    assert outcome.predicted == 1
    assert len(_drawn(run)) == 29
    assert read.count("case9-1.png") == 1
    assert len(read) == 29


def test_no_heatmap_of_a_crop_that_is_another_one_now(options: Options) -> None:
    run = replace(options, heatmaps_for="all")
    infer_folder(replace(run, heatmaps=None))
    changed = options.folder / "b" / "case2-5.png"
    before, stamp = changed.read_bytes(), changed.stat().st_mtime_ns
    changed.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))  # as long, and of the same time
    os.utime(changed, ns=(stamp, stamp))
    outcome = infer_folder(replace(run, resume=True))
    assert outcome.predicted == 0
    assert "No heatmap for b/case2-5.png: the file has changed since it was classified." in outcome.notes
    assert len(_drawn(run)) == 27
