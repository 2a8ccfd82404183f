from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.engine.engine import Output
from glomedge.engine.predict import called
from glomedge.engine.views import Infer
from glomedge.errors import EngineError, GlomedgeError, ImageError, OutputError
from glomedge.imaging.images import Decoded
from glomedge.model.file import read_model_file
from glomedge.model.spec import Recipe
from glomedge.pipeline.batching import PlacedBatch
from glomedge.pipeline.inputs import Found
from glomedge.pipeline.pipeline import MAX_HUNG_DECODERS, Pipeline
from glomedge.pipeline.prepare import Answer, Decoder, default_decoder, fill
from glomedge.pipeline.settings import Settings
from glomedge.runs.scores import MemorySink

Pixels = npt.NDArray[np.uint8]


class MeanEngine:
    """Answers with the mean of the red channel, so that a mixed-up slot is detected."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def infer(self, images_nhwc: Pixels, /) -> Output:
        self.batches.append(len(images_nhwc))
        probability = (images_nhwc[..., 0].mean(axis=(1, 2), dtype=np.float64) / 255.0).astype(np.float32)
        return Output(probability, np.broadcast_to(probability[:, None, None], (len(probability), 7, 7)).copy())


def _number(data: bytes) -> int:
    return int(data)


def _decoder(decode: Callable[[int], Any] | None = None, read: Callable[[bytes], bytes] | None = None) -> Decoder:
    """A decoder whose file names are numbers 0 to 255 and whose pixels all have that value."""

    def plain_read(path: bytes) -> bytes:
        return path.rpartition(b"/")[2]

    def plain_decode(data: bytes) -> Decoded:
        if decode is not None:
            decode(_number(data))
        return Decoded(np.full((40, 40, 3), _number(data), np.uint8), "png")

    def enhance(pixels: Pixels, recipe: Recipe, out: Pixels) -> Pixels:
        out[:] = pixels[0, 0]
        return out

    return Decoder(read or plain_read, plain_decode, lambda pixels: (), enhance)


def _run(
    count: int,
    *,
    decoder: Decoder | None = None,
    engine: Callable[[], Infer] = MeanEngine,
    batch: int = 4,
    workers: int = 2,
    sink: Any = None,
    timeout_s: float = 30.0,
    **others: Any,
) -> tuple[MemorySink, bool]:
    sink = sink or MemorySink()
    settings = Settings(Recipe(), batch_size=batch, decode_workers=workers, run_threads=2, decode_timeout_s=timeout_s)
    pipeline = Pipeline(b"/nowhere", settings, engine, sink, decoder=decoder or _decoder(), **others)
    inputs = [Found(str(number % 256).encode()) for number in range(count)]
    finished = pipeline.run(inputs[begin : begin + batch] for begin in range(0, count, batch))
    return sink, finished


def _statuses(sink: MemorySink) -> dict[int, str]:
    return {int(found.relative): answer.status for found, answer in sink.answers.items()}


@pytest.mark.parametrize("batch", [1, 7, 32])
@pytest.mark.parametrize("workers", [1, 4])
def test_every_answer_belongs_to_its_file(batch: int, workers: int) -> None:
    sink, finished = _run(200, batch=batch, workers=workers)
    assert finished
    assert len(sink.answers) == 200
    for found, answer in sink.answers.items():
        assert answer.probability is not None
        assert abs(answer.probability - int(found.relative) / 255.0) < 1e-6
        assert answer.status == "ok"


def test_a_failing_file_touches_no_other_row() -> None:
    def decode(number: int) -> None:
        if number % 5 == 0:
            raise RuntimeError(f"broken {number} \udcff")
        if number % 7 == 0:
            raise MemoryError

    sink, finished = _run(100, decoder=_decoder(decode))
    assert finished
    for number, status in _statuses(sink).items():
        assert status == ("error:decoder" if number % 5 == 0 else "error:too_large" if number % 7 == 0 else "ok")
    assert sink.answers[Found(b"5")].message == "RuntimeError: broken 5 \\udcff"
    good = [answer for answer in sink.answers.values() if answer.status == "ok"]
    assert all(abs((a.probability or 0) - int(a.found.relative) / 255.0) < 1e-6 for a in good)


def test_a_hanging_decoder_loses_only_its_file() -> None:
    release = threading.Event()

    def decode(number: int) -> None:
        if number in (3, 17):
            release.wait(20.0)

    sink, finished = _run(60, decoder=_decoder(decode), timeout_s=0.4, workers=2)
    assert finished
    assert {number for number, status in _statuses(sink).items() if status != "ok"} == {3, 17}
    assert sink.answers[Found(b"3")].status == "error:decoder"
    assert "0.4 s" in sink.answers[Found(b"3")].message
    # The decoders left behind come back: nothing that was answered may change.
    release.set()
    time.sleep(0.3)
    assert _statuses(sink)[3] == "error:decoder"
    for number in range(60):
        if number not in (3, 17):
            assert abs((sink.answers[Found(str(number).encode())].probability or 0) - number / 255.0) < 1e-6


def test_storage_that_hangs_for_every_file_ends_the_run() -> None:
    release = threading.Event()

    def decode(number: int) -> None:
        release.wait(60.0)

    try:
        with pytest.raises(GlomedgeError, match=r"seems to hang.*--decode-timeout.*--resume"):
            _run(4 * MAX_HUNG_DECODERS, decoder=_decoder(decode), timeout_s=0.05, workers=8)
    finally:
        release.set()


def test_decoders_that_come_back_late_are_not_storage_that_hangs() -> None:
    count = MAX_HUNG_DECODERS + 8
    sink, finished = _run(count, decoder=_decoder(lambda number: time.sleep(0.25)), timeout_s=0.05, workers=4)
    assert finished
    assert set(_statuses(sink).values()) == {"error:decoder"}


def test_nonfinite_answers_are_errors_of_their_own_crops() -> None:
    class Poisoned(MeanEngine):
        def infer(self, images_nhwc: Pixels, /) -> Output:
            output = super().infer(images_nhwc)
            values = images_nhwc[:, 0, 0, 0]
            output.probability[values == 9] = np.nan
            output.probability[values == 10] = np.inf
            assert output.activation is not None
            output.activation[values == 11, 3, 3] = np.nan
            output.probability[values == 12] = 1.0000001
            output.probability[values == 13] = 2e38
            output.probability[values == 14] = -1e-9
            output.probability[values == 15] = 1.0
            output.probability[values == 16] = 0.0
            return output

    sink, _ = _run(20, engine=Poisoned)
    bad = {number for number, status in _statuses(sink).items() if status == "error:nonfinite"}
    assert bad == {9, 10, 11, 12, 13, 14}
    answers = {number: sink.answers[Found(str(number).encode())] for number in range(20)}
    assert all(answers[number].probability is None for number in bad)
    assert (answers[15].probability, answers[16].probability) == (1.0, 0.0)
    assert "returned 1.0000001, which is not a probability" in answers[12].message
    assert "returned 2e+38" in answers[13].message


def test_views_that_lie_too_far_apart_are_an_error() -> None:
    answer = Answer(Found(b"a.png"))
    maps = np.zeros((1, 7, 7), np.float32)
    fill(answer, np.float32(0.5), np.array([1.5], np.float32), maps, 0)
    assert (answer.status, answer.probability, answer.disagreement) == ("error:nonfinite", None, None)


@pytest.mark.parametrize("value", [1.0000001, 2e38, -1e-9, float("nan"), float("inf")])
def test_programs_that_embed_an_engine_get_no_such_number_either(tiny_model: Path, value: float) -> None:
    spec = read_model_file(tiny_model).spec
    assert called(spec, value, np.zeros((7, 7), np.float32), ()).status == "error:nonfinite"
    assert called(spec, 1.0, np.zeros((7, 7), np.float32), ()).status == "ok"


def test_what_the_engine_raises_comes_out() -> None:
    class Lost(MeanEngine):
        def infer(self, images_nhwc: Pixels, /) -> Output:
            raise EngineError("The device is gone.")

    with pytest.raises(EngineError, match="gone"):
        _run(50, engine=Lost)


def test_a_model_that_does_not_load_comes_out() -> None:
    def load() -> Infer:
        raise EngineError("no such thing")

    with pytest.raises(EngineError, match="no such thing"):
        _run(50, engine=load)


def test_a_full_disk_comes_out() -> None:
    class Full(MemorySink):
        def rows(self, answers: Sequence[Answer]) -> None:
            raise OutputError("full")

    with pytest.raises(OutputError, match="full"):
        _run(50, sink=Full())


def test_stopping_keeps_whole_batches_only() -> None:
    class Slow(MeanEngine):
        def infer(self, images_nhwc: Pixels, /) -> Output:
            time.sleep(0.05)
            return super().infer(images_nhwc)

    begin_s = time.monotonic()
    sink, finished = _run(250, engine=Slow, stop=lambda: time.monotonic() - begin_s > 0.4)
    assert not finished
    assert 0 < len(sink.answers) < 250
    numbers = sorted(_statuses(sink))
    batches = {number // 4 for number in numbers}
    assert numbers == sorted(number for batch in batches for number in range(4 * batch, min(4 * batch + 4, 250)))


def test_memory_is_bounded_by_the_buffers() -> None:
    ahead = 0
    most = 0
    lock = threading.Lock()

    def decode(number: int) -> None:
        nonlocal ahead, most
        with lock:
            ahead += 1
            most = max(most, ahead)

    class Counting(MeanEngine):
        def infer(self, images_nhwc: Pixels, /) -> Output:
            nonlocal ahead
            time.sleep(0.002)
            with lock:
                ahead -= len(images_nhwc)
            return super().infer(images_nhwc)

    _run(240, decoder=_decoder(decode), engine=Counting, batch=4)
    # What is decoded while an engine loads, and no more of a longer folder.
    assert most <= 64


def test_the_engine_is_loaded_while_decoding_goes_on() -> None:
    decoded = threading.Event()

    def load() -> Infer:
        assert decoded.wait(20.0)
        return MeanEngine()

    _, finished = _run(10, decoder=_decoder(lambda number: decoded.set()), engine=load)
    assert finished


def test_scan_errors_are_rows_without_being_opened() -> None:
    def read(path: bytes) -> bytes:
        raise AssertionError("opened")

    sink = MemorySink()
    pipeline = Pipeline(b"/x", Settings(Recipe()), MeanEngine, sink, decoder=_decoder(read=read))
    assert pipeline.run([[Found(b"pipe.png", "not_regular"), Found(b"closed/", "permission")]])
    assert {found.relative: answer.status for found, answer in sink.answers.items()} == {
        b"pipe.png": "error:not_regular",
        b"closed/": "error:permission",
    }


def test_files_that_vanish_or_change_while_running(tmp_path: Path) -> None:
    import hashlib

    import cv2

    for number in range(60):
        pixels = np.full((48, 48, 3), number * 4, np.uint8)
        (tmp_path / f"{number}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())
    inner = default_decoder()
    seen: dict[bytes, str] = {}

    def read(path: bytes) -> bytes:
        # The deleter: each crop that is read takes the one after the next with it, or overwrites it.
        number = int(path.rpartition(b"/")[2][:-4])
        data = inner.read(path)
        seen[path.rpartition(b"/")[2]] = hashlib.sha256(data).hexdigest()
        if number == 10:
            (tmp_path / "40.png").unlink()
        if number == 11:
            other = cv2.imencode(".png", np.full((50, 50, 3), 7, np.uint8))[1].tobytes()
            (tmp_path / "41.png").write_bytes(other)
        return data

    sink = MemorySink()
    inputs = [Found(f"{number}.png".encode()) for number in range(60)]
    pipeline = Pipeline(os.fsencode(tmp_path), Settings(Recipe()), MeanEngine, sink, decoder=inner._replace(read=read))
    assert pipeline.run(inputs[begin : begin + 4] for begin in range(0, 60, 4))
    assert {f.relative for f, a in sink.answers.items() if a.status == "error:vanished"} == {b"40.png"}
    for found, answer in sink.answers.items():
        if not answer.status.startswith("error:"):
            assert answer.sha256 == seen[found.relative]
    assert sink.answers[Found(b"41.png")].size_bytes == (tmp_path / "41.png").stat().st_size


class PlaceEngine:
    """Answers with the place of each picture and how many there are: what the last bits of a real one depend on."""

    def infer(self, images_nhwc: Pixels, /) -> Output:
        count = len(images_nhwc)
        probability = (np.arange(count) / 100 + count / 10).astype(np.float32)
        return Output(probability, np.zeros((count, 7, 7), np.float32))


def test_a_file_that_cannot_be_read_moves_no_other_crop() -> None:
    def broken(number: int) -> None:
        if number % 4 == 1:
            raise ImageError("truncated", "cut short")

    sink, finished = _run(10, engine=PlaceEngine, decoder=_decoder(broken))
    assert finished
    by_number = {int(found.relative): answer.probability for found, answer in sink.answers.items()}
    # Batches of 4, 4 and 2; the second of each is broken.
    expected = {number: 0.4 + number % 4 / 100 for number in range(8)} | {8: 0.2, 9: 0.21}
    assert by_number == {
        number: None if number % 4 == 1 else pytest.approx(value, abs=1e-6) for number, value in expected.items()
    }


def test_crops_lie_at_the_places_that_they_are_given() -> None:
    sink = MemorySink()
    settings = Settings(Recipe(), batch_size=4, decode_workers=2, run_threads=2)
    pipeline = Pipeline(b"/nowhere", settings, PlaceEngine, sink, decoder=_decoder())
    first, second = Found(b"7"), Found(b"9")
    assert pipeline.run([PlacedBatch([first, second], [1, 3], 4), PlacedBatch([Found(b"8")], [0], 3)])
    found = {each.relative: answer.probability for each, answer in sink.answers.items()}
    assert found == {b"7": pytest.approx(0.41), b"9": pytest.approx(0.43), b"8": pytest.approx(0.3)}
