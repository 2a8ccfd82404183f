"""The crops that somebody gives to the page: classified one by one, published as ``glomedge infer`` publishes a folder.

What is kept until then (a small picture of each crop, its map, its row) lies in a temporary folder of the server's own
and is deleted with the run.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glomedge.cases.names import CaseFinder
from glomedge.errors import OutputError
from glomedge.files.lock import OutputLock
from glomedge.files.names import escape_name
from glomedge.model.file import ModelFile
from glomedge.pipeline.inputs import Found, Keys, Scan
from glomedge.pipeline.prepare import Answer
from glomedge.results.folder import WORK_FOLDER, OutputFolder
from glomedge.results.journal import Identity, read_journal
from glomedge.results.published_rows import PublishedRows
from glomedge.results.resume import plan
from glomedge.runs.options import Options
from glomedge.runs.outcome import OWNED, Outcome
from glomedge.runs.publish import Publication
from glomedge.runs.slides import Inputs
from glomedge.runs.stores import RunStores
from glomedge.serve.options import ServeOptions
from glomedge.serve.page_slides import ANSWERS_FILE, FORMATS, PageSlides, SlidesRoom, pack_answers
from glomedge.serve.served import ServedModel

FILES = {
    ANSWERS_FILE: "application/zip",
    "cases.csv": "text/csv; charset=utf-8",
    "predictions.csv": "text/csv; charset=utf-8",
    "report.html": "text/html; charset=utf-8",
}
"""What a finished run offers; answers as outlines only where it had slides."""
_FOLDER = "crops given to the page"
_PREFIX = "glomedge-page-"
_YOUNG_S = 60.0
"""After this, a folder without a lock is not being made any more."""


def remove_abandoned() -> None:
    """Delete the folders of runs whose server was killed: this user's, held by no process.

    One without a lock is left for a minute: another server may be making it.
    """
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError, OutputError):  # held, or gone in the meantime
            found = folder.lstat()
            mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
            if not stat.S_ISDIR(found.st_mode) or not mine:
                continue
            lock = folder / WORK_FOLDER / "lock"
            if lock.is_file() and lock.stat().st_size > 0:  # written by who held it
                with OutputLock(lock):
                    shutil.rmtree(folder, ignore_errors=True)
            elif time.time() - found.st_mtime >= _YOUNG_S:
                shutil.rmtree(folder, ignore_errors=True)


class PageRun:
    """One run. Thread-safe: ``close`` waits for what is being written.

    Args:
        options: of the server.
        model: held until ``close``; all crops are answered by it.
        room: for slides, of the server.

    Attributes:
        kept: answers that were written, those that were replaced later included.

    Raises:
        OutputError: the temporary folder cannot be written.
    """

    def __init__(self, options: ServeOptions, model: ServedModel, room: SlidesRoom) -> None:
        self.model = model.hold()
        self._begin_s = time.perf_counter()
        self._names: dict[bytes, bool] = {}  # whether there is an error in place of an answer
        self.kept = 0
        self._lock = threading.Lock()
        self._closed = self._closing = False
        self.published = False
        try:
            self._temporary = tempfile.TemporaryDirectory(prefix=_PREFIX)
        except BaseException:
            model.release()
            raise
        self._options = Options(
            Path(_FOLDER),
            model=model.path,
            output=Path(self._temporary.name),
            engine=options.engine,
            case_pattern=options.case_pattern,
            site=options.site,
            formats=FORMATS,
        )
        self.slides = PageSlides(self._options.output / "slides", room)
        self._output = OutputFolder(self._options.output, 0)
        spec = model.spec
        identity = Identity(_FOLDER, model.sha256, spec.recipe.model_dump_json(), spec.threshold, 1, 1)
        fresh = plan(self._output.journal_path, identity, [], resume=False, overwrite=False, results=OWNED)
        self._stores = RunStores(self._options, self._output, fresh, spec.threshold, spec.map_shape)
        self._sink = self._stores.sink()
        self._stores.journal.engine(model.engine.provider)

    def __len__(self) -> int:
        return len(self._names)

    def read_slides(self) -> dict[str, Any]:
        """Find the outlines on the slides that were given (``PageSlides.read``). Raises GlomedgeError."""
        with self._lock:
            self._check_open()
            return self.slides.read(self._options, self.model.spec, lambda: self._closing)

    @property
    def size(self) -> int:
        """How many crops and outlines it has, with and without an answer."""
        return len(self) + self.open_outlines

    @property
    def open_outlines(self) -> int:
        """How many outlines of the slides have no answer yet."""
        return sum(found.relative not in self._names for found in self.slides.inputs)

    def errors_of(self, outlines: Sequence[Found]) -> int | None:
        """How many of these have an error in place of an answer; None while one of them has neither."""
        found = [self._names.get(outline.relative) for outline in outlines]
        return None if None in found else sum(map(bool, found))

    def add_outlines(self, answers: Sequence[Answer]) -> None:
        """Keep the answers of outlines that have none yet. Raises OutputError where the disk is full."""
        with self._lock:
            self._check_open()
            new = [answer for answer in answers if answer.found.relative not in self._names]
            for answer in new:
                answer.message = self.slides.told(answer.message)
            if new:
                self._write(new)

    def add(self, name: str, answer: Answer) -> None:
        """Keep one answer; a later one of the same name replaces it. Raises OutputError where the disk is full."""
        answer.found = Found(name.encode("utf-8"))
        with self._lock:
            self._check_open()
            self._write([answer])

    def _write(self, answers: list[Answer]) -> None:
        self._sink.rows(answers)
        self._names.update((answer.found.relative, answer.status.startswith("error:")) for answer in answers)
        self.kept += len(answers)

    def publish(self) -> None:
        """Make the files of ``FILES``. Raises OutputError where they cannot be written."""
        with self._lock:
            self._check_open()
            self._publish()
            self.published = True

    def _check_open(self) -> None:
        if self._closed:
            raise OutputError("The run is closed: nothing can be added to it or published.")

    def _publish(self) -> None:
        parts = self.slides.parts
        outlines = {found.relative: found for found in self.slides.inputs}
        inputs = [outlines.get(name) or Found(name) for name in sorted(self._names)]
        found = Scan(escape_name(_FOLDER.encode()).encode(), inputs)
        contents = read_journal(self._output.journal_path, inputs)
        engine, spec = self.model.engine, self.model.spec
        finder = CaseFinder(Keys(inputs), self._options.case_pattern)
        rows = PublishedRows(
            answers=contents.answers,
            threshold=spec.threshold,
            class_names=spec.class_names,
            provider=engine.provider,
            review_band=self._options.band(spec.threshold),
            cases=finder,
            outline=None if parts is None else parts.facts,
        )
        outcome = Outcome(
            complete=True,
            inputs=len(inputs),
            answered=len(contents.answers),
            predicted=len(contents.answers),
            provider=engine.provider,
            notes=[*self.slides.notes, *engine.runtime.notes],
            biopsies_found=finder.as_json(),
        )
        file: ModelFile = engine.file
        publication = Publication(
            self._options, file, Inputs(found, parts), rows, self._stores.thumbnails, None, engine, lambda: False
        )
        publication.write(outcome, 1, self._begin_s)
        pack_answers(self._options.output)

    @property
    def files(self) -> list[str]:
        """Those of ``FILES`` that there are."""
        return [name for name in FILES if (self._options.output / name).is_file()]

    def file(self, name: str) -> Path:
        """Where one of ``files`` lies, once published."""
        return self._options.output / name

    def close(self) -> None:
        """Delete everything; a second call does nothing."""
        self._closing = True
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self.slides.clear()
                with self._temporary:
                    self._stores.__exit__(None, None, None)
                    self._output.close()
            finally:
                self.model.release()
