"""Decoding in child processes: the same answers, and a child that dies or hangs costs one crop."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from glomedge.engine.engine import Output
from glomedge.errors import GlomedgeError
from glomedge.model.spec import Recipe
from glomedge.pipeline.inputs import Found
from glomedge.pipeline.pipeline import MAX_HUNG_DECODERS, Pipeline
from glomedge.pipeline.prepare import Stamp
from glomedge.pipeline.settings import Settings
from glomedge.runs.scores import MemorySink
from helpers.run_kit import write_crops

# The real child, but for names with "abort" and "hang": what a decoder's defect does, the bytes read.
_STUB = """
import os, resource, sys, time
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from glomedge.pipeline import decode_process
real = decode_process.prepare
def prepare(answer, how, decoder, out):
    name = answer.found.relative
    def read(path):
        if b"unread" in name: time.sleep(60)
        return decoder.read(path)
    def decode(data):
        decoded = decoder.decode(data)
        if b"abort" in name: os.abort()
        if b"hang" in name: time.sleep(60)
        return decoded
    return real(answer, how, decoder._replace(read=read, decode=decode), out)
decode_process.prepare = prepare
decode_process.main()
"""

# Speaks a child's part without decoding anything, and starts as fast as Python does.
_HANGING = """
import os, sys, time
from glomedge.pipeline.decode_process import _receive, _send
answers = os.fdopen(int(sys.argv[3]), "wb")
how = _receive(sys.stdin.buffer)
_send(answers, "ready")
while True:
    answer, offset = _receive(sys.stdin.buffer)
    if b"told" in answer.found.relative: os.symlink(str(os.getpid()), os.path.join(how.root, b"pid"))
    if b"hang" in answer.found.relative: time.sleep(60)
    _send(answers, (answer, None, 0.0, 0.0))
"""


class MeanEngine:
    def infer(self, images_nhwc: npt.NDArray[np.uint8], /) -> Output:
        probability = (images_nhwc.mean(axis=(1, 2, 3)) / 255.0).astype(np.float32)
        return Output(probability, np.zeros((len(images_nhwc), 7, 7), np.float32))


def _python(code: str) -> list[str]:
    return [sys.executable, "-c", f"import sys; sys.path += {sys.path!r}\n{code}"]


def _run(
    folder: Path, names: list[str], *, processes: bool, timeout_s: float = 30.0, child: str | None = None
) -> MemorySink:
    sink = MemorySink()
    settings = Settings(
        Recipe(), decode_workers=3, decode_processes=processes, decode_timeout_s=timeout_s, thumbnail_px=64
    )
    command = _python(child) if child is not None else None
    pipeline = Pipeline(os.fsencode(folder), settings, MeanEngine, sink, child_command=command)
    inputs = [Found(name.encode()) for name in names]
    assert pipeline.run(inputs[begin : begin + 4] for begin in range(0, len(inputs), 4))
    assert pipeline.hung == 0
    return sink


def test_processes_answer_as_threads_do(tmp_path: Path) -> None:
    names = [*write_crops(tmp_path, 30, broken=3), "missing.png"]
    threads = _run(tmp_path, names, processes=False)
    processes = _run(tmp_path, names, processes=True)
    assert len(threads.answers) == 31
    for found, one in threads.answers.items():
        other = processes.answers[found]
        for name in ("status", "probability", "sha256", "size_bytes", "mtime_ns", "message", "thumbnail"):
            assert getattr(one, name) == getattr(other, name), (found, name)


def test_a_child_that_crashes_or_hangs_costs_its_own_crop(tmp_path: Path) -> None:
    names = write_crops(tmp_path, 24, broken=0)
    bad_names = ("abort-1.png", "hang-1.png", "hang-unread.png", "abort-2.png")
    for position, new in zip((3, 9, 14, 20), bad_names, strict=True):
        (tmp_path / names[position]).rename(tmp_path / new)
        names[position] = new
    # Short: a child's start is not part of it.
    sink = _run(tmp_path, names, processes=True, timeout_s=3.0, child=_STUB)
    bad = {os.fsdecode(found.relative): answer for found, answer in sink.answers.items() if answer.probability is None}
    assert set(bad) == set(bad_names)
    assert {answer.status for answer in bad.values()} == {"error:decoder"}
    assert "ended the process" in bad["abort-1.png"].message
    assert "not decoded within 3 s" in bad["hang-1.png"].message
    # Of which bytes: a resumed run must see when they are replaced.
    for name, answer in bad.items():
        path = tmp_path / name
        whole = Stamp(hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_size, path.stat().st_mtime_ns)
        assert answer.stamp == (Stamp() if "unread" in name else whole)
    plain = _run(tmp_path, names, processes=False)
    for found, answer in sink.answers.items():
        if os.fsdecode(found.relative) not in bad:
            assert answer.probability == plain.answers[found].probability


def test_a_night_may_meet_more_hanging_files_than_decoders_may_hang_at_once(tmp_path: Path) -> None:
    names = [f"hang-{number}.png" for number in range(MAX_HUNG_DECODERS + 6)]
    sink = _run(tmp_path, [*names, "good.png"], processes=True, timeout_s=0.4, child=_HANGING)
    assert len(sink.answers) == len(names) + 1
    assert {found.relative for found, answer in sink.answers.items() if answer.status == "ok"} == {b"good.png"}


def test_a_child_that_does_not_start_ends_the_run_and_blames_no_file(tmp_path: Path) -> None:
    with pytest.raises(GlomedgeError, match=r"could not be started \(it ended at once\).*--resume"):
        _run(tmp_path, ["a.png"], processes=True, child="raise SystemExit(3)")


def test_stopping_ends_a_child_that_hangs(tmp_path: Path) -> None:
    sink = MemorySink()
    settings = Settings(Recipe(), decode_workers=1, decode_processes=True)
    begin_s = time.monotonic()
    note = tmp_path / "pid"
    command = _python(_HANGING)
    pipeline = Pipeline(os.fsencode(tmp_path), settings, MeanEngine, sink, stop=note.is_symlink, child_command=command)
    assert not pipeline.run([[Found(b"hang-told.png")]])
    assert time.monotonic() - begin_s < 8.0
    assert pipeline.hung == 0
    assert not sink.answers
    with pytest.raises(ProcessLookupError):
        os.kill(int(note.readlink().name), 0)


_TALKING = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
from glomedge.pipeline import decode_process
real = decode_process.prepare
def prepare(answer, how, decoder, out):
    name = answer.found.relative
    if b"talks" in name: os.write(2, b"Corrupt data: 5 bytes\\nand more\\n")
    if b"python" in name: print("of Python itself", file=sys.stderr)
    if b"dies" in name:
        os.write(2, b"free(): invalid pointer\\n")
        os.abort()
    return real(answer, how, decoder, out)
decode_process.prepare = prepare
decode_process.main()
"""


def test_lines_of_a_decoder_reach_the_log_with_the_name_of_their_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = write_crops(tmp_path, 6, broken=0)
    for position, new in zip((0, 2, 4), ("talks\n1.png", "python.png", "dies.png"), strict=True):
        (tmp_path / names[position]).rename(tmp_path / new)
        names[position] = new
    _run(tmp_path, names, processes=True, child=_TALKING)
    lines = capfd.readouterr().err.splitlines()
    assert sorted(lines) == [
        "dies.png: free(): invalid pointer",
        "of Python itself",
        r"talks\x0a1.png: Corrupt data: 5 bytes",
        r"talks\x0a1.png: and more",
    ]
