"""Decoding in child processes: the same answers, and a child that dies or hangs costs one crop."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
from runkit import write_crops

from glomedge.engine import Output
from glomedge.evaluate import MemorySink
from glomedge.pipeline import Pipeline, Settings
from glomedge.scan import Found
from glomedge.spec import Recipe

# The real child, but for names with "abort" and "hang": what a decoder's defect does.
_STUB = """
import os, sys, time
from glomedge import decodechild
real = decodechild.prepare
def prepare(answer, how, decoder, out):
    if b"abort" in answer.found.relative: os.abort()
    if b"hang" in answer.found.relative: time.sleep(60)
    return real(answer, how, decoder, out)
decodechild.prepare = prepare
decodechild.main()
"""


class MeanEngine:
    def infer(self, images_nhwc: npt.NDArray[np.uint8], /) -> Output:
        probability = (images_nhwc.mean(axis=(1, 2, 3)) / 255.0).astype(np.float32)
        return Output(probability, np.zeros((len(images_nhwc), 7, 7), np.float32))


def _run(folder: Path, names: list[str], *, processes: bool, timeout_s: float = 30.0, stub: bool = False) -> MemorySink:
    sink = MemorySink()
    settings = Settings(
        Recipe(), decode_workers=3, decode_processes=processes, decode_timeout_s=timeout_s, thumbnail_px=64
    )
    command = [sys.executable, "-c", _STUB] if stub else None
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
    for old, new in ((names[3], "abort-1.png"), (names[9], "hang-1.png"), (names[20], "abort-2.png")):
        (tmp_path / old).rename(tmp_path / new)
        names[names.index(old)] = new
    sink = _run(tmp_path, names, processes=True, timeout_s=6.0, stub=True)
    bad = {found.relative: answer for found, answer in sink.answers.items() if answer.probability is None}
    assert set(bad) == {b"abort-1.png", b"hang-1.png", b"abort-2.png"}
    assert {answer.status for answer in bad.values()} == {"error:decoder"}
    assert "ended the process" in bad[b"abort-1.png"].message
    assert "not decoded within 6 s" in bad[b"hang-1.png"].message
    plain = _run(tmp_path, names, processes=False)
    for found, answer in sink.answers.items():
        if found.relative not in bad:
            assert answer.probability == plain.answers[found].probability
