"""What many outlines take of memory, measured in a process of its own."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from datetime import datetime
from pathlib import Path

from glomedge.cases.names import CaseFinder
from glomedge.files.writing import Staged
from glomedge.model.file import read_model_file
from glomedge.pipeline.inputs import Keys
from glomedge.results.answer_table import AnswerTable
from glomedge.results.published_rows import PublishedRows
from glomedge.runs.answer_files import AnswerFiles
from glomedge.runs.options import Options, SlideOptions
from glomedge.runs.slides import find_inputs


def answered(options: Options, count: int) -> None:
    """Find that many outlines on the slide ``options.folder``, and write answers of them into both formats."""
    marks = options.output / "boxes.csv"
    boxes = (f"{place % 800},{place % 600},50,40,{place:032x}\n" for place in range(count))
    marks.write_text("x,y,width,height,id\n" + "".join(boxes))
    run = replace(options, slides=SlideOptions(marks))
    inputs = find_inputs(run)
    assert inputs.parts is not None
    answers = AnswerTable(inputs.found.inputs)
    for begin in range(0, count, 1000):
        part = inputs.found.inputs[begin : begin + 1000]
        answers.put([[found.key, "ok", 0.25, "0" * 64, 1, 1, "", None, None] for found in part])
    cases = CaseFinder(Keys(inputs.found.inputs))
    rows = PublishedRows(answers, 0.5, ("no", "yes"), "cpu", (0.4, 0.6), cases, inputs.parts.facts)
    staged = Staged(options.output, options.output)
    AnswerFiles(
        run, read_model_file(options.model), inputs.parts, rows, [], datetime(2026, 11, 26), lambda: False
    ).write(staged)
    assert sum(len(block.outlines) for block in rows.blocks()) == count
    staged.commit()


def _peaks(options: Options, counts: list[int]) -> list[int]:
    peaks = []
    for count in counts:
        answered(options, count)
        # Not ru_maxrss, which a process takes over from the one that started it.
        lines = Path("/proc/self/status").read_text("ascii").splitlines()
        peaks.append(next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM")))
    return peaks


def peak_bytes(options: Options, counts: list[int]) -> list[int]:
    """Peak of the memory of a fresh process after so many outlines, and so many more."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_peaks, options, counts).result()
