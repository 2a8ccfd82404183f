"""From the rows of a finished run to the files a person opens: tables, cases, heatmaps, report, run record.

The rows are read once, and each consumer takes what it needs: tables, counts, cases, report.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from glomedge.cases.names import UNKNOWN_CASE
from glomedge.cases.text import counted
from glomedge.errors import OutputError
from glomedge.files.names import guard, neutralise
from glomedge.files.writing import Staged
from glomedge.model import site
from glomedge.model.file import ModelFile
from glomedge.results.folder import WORK_FOLDER
from glomedge.results.published_rows import PublishedRows
from glomedge.results.rows import Row, RowBlock
from glomedge.results.tables import WRITERS, TableWriter, byte_order_mark
from glomedge.results.thumbnails import Thumbnails
from glomedge.runs.options import Options
from glomedge.runs.outcome import OWNED, Outcome, annotations_of
from glomedge.runs.site_scores import NightScores
from glomedge.runs.slides import Inputs, slides_record
from glomedge.system.stopping import unless_stopped

if TYPE_CHECKING:
    from glomedge.cases.summary import CaseSummary, CaseTally
    from glomedge.engine.engine import Engine
    from glomedge.model.spec import OperatingPoint
    from glomedge.reports.run_page_data import RunPageSelection
    from glomedge.results.grey_crops import GreyStore


@dataclass(frozen=True)
class Publication:
    """Everything that is written once a run is complete.

    Attributes:
        options: of the run.
        model: the model used.
        inputs: crops and slides.
        rows: of all inputs.
        thumbnails: None if neither report nor heatmaps are wanted.
        grey_crops: crops of this run that heatmaps are drawn over.
        engine: None if nothing was left to classify.
        stop: polled at every block of rows; once true, StoppedError is raised and no file has changed.
        also: for ``run.json``, in place of what the record would say.
        started: when the run began, in local time; None: now.
    """

    options: Options
    model: ModelFile
    inputs: Inputs
    rows: PublishedRows
    thumbnails: Thumbnails | None
    grey_crops: GreyStore | None
    engine: Engine | None
    stop: Callable[[], bool]
    also: Mapping[str, Any] = field(default_factory=dict)
    started: datetime | None = None

    def write(self, outcome: Outcome, batch_size: int, begin_s: float) -> None:
        """Make every file and publish them together; the run record comes last and holds the SHA-256 of the others.

        Args:
            outcome: filled in by this call.
            batch_size: of the run.
            begin_s: ``perf_counter`` at the run's start.

        Raises:
            OutputError: a file cannot be written, and the files of an earlier run are kept; or a heatmap cannot be
                written, and all other files are.
            MissingExtraError: Parquet without pyarrow.
            StoppedError: ``stop`` returned true.
        """
        undrawn, heatmap_notes = self._heatmaps()
        if self.grey_crops is not None:
            self.grey_crops.drop()  # free its space for the tables
        staged = Staged(self.options.output, self.options.output / WORK_FOLDER, self.owned())
        try:
            collected = self._tables(staged)
            self._fill(outcome, collected)
            outcome.notes += heatmap_notes
            self._cases(staged, outcome)
            self._annotations(staged, outcome)
            outcome.wall_s = time.perf_counter() - begin_s
            self._record(outcome, batch_size)
            self._report(staged, outcome, collected.report)
            self._record_files(staged, outcome)
            outcome.files = staged.commit()
        finally:
            staged.discard()
        if undrawn is not None:
            raise OutputError(
                f"{undrawn} The tables and the report were written; run again with --resume to draw only."
            )

    def owned(self) -> tuple[str, ...]:
        """The files that this program writes into the folder of results; those of an earlier run go."""
        return (*OWNED, *annotations_of(self.options.output))

    def _cases(self, staged: Staged, outcome: Outcome) -> None:
        with staged.open("cases.csv") as handle:
            handle.write(byte_order_mark(self.options.formats))
            handle.writelines(cases_csv(outcome.cases))

    def _tables(self, staged: Staged) -> Collected:
        """Write the tables; on the way, collect what else is made of the rows."""
        options = self.options
        collected = Collected(options, self.rows.answers.copies())
        collected.night = NightScores.of(self.model.spec, options)
        formats = dict.fromkeys(("csv", *(name for name in options.formats if name in WRITERS)))
        names = [f"predictions.{name}" for name in formats]
        with contextlib.ExitStack() as open_:
            writers: list[tuple[str, TableWriter]] = []
            for name in names:
                handle = open_.enter_context(staged.open(name))
                with staged.naming(name):
                    if name == "predictions.csv":
                        handle.write(byte_order_mark(options.formats))
                    writer = WRITERS[name.rpartition(".")[2]](
                        handle, tta=options.tta > 1, slides=self.inputs.parts is not None
                    )
                writers.append((name, writer))
                open_.callback(_closed_quietly, writer)
            for block in unless_stopped(self.rows.blocks(), self.stop):
                collected.add(block)
                for name, writer in writers:
                    with staged.naming(name):
                        writer.write(block)
            for name, writer in writers:
                with staged.naming(name):
                    writer.close()
        return collected

    def _fill(self, outcome: Outcome, collected: Collected) -> None:
        """Counts, cases, and the notes on them."""
        counts = collected.counts
        if collected.copies is not None:
            counts["copies"] = collected.copies
        if collected.copies:
            of = "files" if self.inputs.parts is None else "files, or outlines with the same pixels"
            outcome.notes.append(
                f"Byte-for-byte copies of other {of}: {collected.copies}. Each is counted as a separate crop."
            )
        outcome.counts, outcome.errors = dict(counts), dict(sorted(collected.errors.items()))
        outcome.cases = collected.cases.summaries(self._operating_point(outcome))
        if collected.night is not None:
            outcome.drift, notes = collected.night.compare(self.options.tta)
            outcome.notes += notes
        for pooled in outcome.cases:
            if pooled.case == UNKNOWN_CASE:
                # A percentage pooled over several biopsies must never be mistaken for one biopsy's.
                one = pooled.crops == 1
                outcome.notes.append(
                    ("The name of 1 crop does" if one else f"The names of {pooled.crops} crops do")
                    + f" not identify a biopsy. {'It is' if one else 'They are'} pooled as '{UNKNOWN_CASE}', whose "
                    "percentage is not that of one biopsy. Give --case-pattern with a group 'case' that matches "
                    f"{'its name' if one else 'their names'}."
                )
        if self.options.exclude_flagged and counts["flagged"]:
            outcome.notes.append(
                f"{counted(counts['flagged'], 'flagged crop was', 'flagged crops were')} classified but excluded from "
                "the case counts (--exclude-flagged)."
            )

    def _operating_point(self, outcome: Outcome) -> OperatingPoint | None:
        """The model's, which is valid only at its own site, at its threshold and for one view of each crop."""
        point, threshold = self.model.spec.operating_point, self.model.spec.threshold
        if point is None or self.options.site is None:
            outcome.notes.append(site.why_uncorrected(self.model.spec))
            return None
        if self.rows.threshold != threshold:
            other = f"at its threshold {threshold:g}, not at {self.rows.threshold:g}"
        elif self.options.tta > 1:
            other = f"on single views, not on the mean over {self.options.tta}"
        else:
            return point
        outcome.notes.append(
            f"The corrected percentages are omitted: the model's sensitivity and specificity were measured {other}."
        )
        return None

    def _heatmaps(self) -> tuple[OutputError | None, list[str]]:
        """Draw; an unwritable folder must not prevent the tables from being written, so its error is returned."""
        if self.options.heatmaps is None or self.thumbnails is None:
            return None, []
        from glomedge.reports.cell_grid import CellGrid
        from glomedge.runs.heatmaps import Drawing, chosen, write_heatmaps

        def rows() -> Iterator[Row]:
            wanted = self.rows.where(lambda probability: chosen(probability, self.options, self.rows.threshold))
            return unless_stopped(wanted, self.stop)

        spec = self.model.spec
        turn = spec.logit_at(self.rows.threshold)
        drawing = Drawing(turn, CellGrid.of(spec, self.options.tta))
        try:
            return None, write_heatmaps(self.options, self.inputs, rows, self.thumbnails, self.grey_crops, drawing)
        except OutputError as error:
            return error, [f"The heatmaps are incomplete: {error}"]

    def _annotations(self, staged: Staged, outcome: Outcome) -> None:
        if self.inputs.parts is None or not self.options.annotation_formats:
            return
        from glomedge.runs.answer_files import AnswerFiles

        started = self.started or datetime.now()
        files = AnswerFiles(self.options, self.model, self.inputs.parts, self.rows, outcome.cases, started, self.stop)
        outcome.notes += files.write(staged)

    def _record(self, outcome: Outcome, batch_size: int) -> None:
        from glomedge.runs.record import record

        outcome.record = record(self.options, self.model, self.rows.threshold, outcome, self.engine, batch_size)
        outcome.record |= self.also
        if self.inputs.parts is not None:
            outcome.record["slides"] = slides_record(self.inputs.parts)

    def _report(self, staged: Staged, outcome: Outcome, selection: RunPageSelection | None) -> None:
        if selection is None or self.thumbnails is None:
            return
        from glomedge.reports.cell_grid import CellGrid
        from glomedge.reports.model_card import fragment
        from glomedge.reports.run_page import Report
        from glomedge.runs.overviews import Overviews

        spec = self.model.spec
        card = fragment(spec, self.model.path.name, self.model.sha256)
        grid = None if spec.map_shape is None else CellGrid.of(spec, self.options.tta)
        data = selection.data(self.thumbnails)
        if self.inputs.parts is not None:
            data = replace(data, overview=Overviews(self.inputs.parts))
        with staged.open("report.html") as handle:
            Report(outcome.record, outcome.cases, data, self.rows.review_band, card, grid).write(handle)

    def _record_files(self, staged: Staged, outcome: Outcome) -> None:
        outcome.record["files_sha256"] = staged.sha256s()
        with staged.open("run.json") as handle:
            handle.write(json.dumps(outcome.record, indent=2, ensure_ascii=False).encode("utf-8") + b"\n")


class Collected:
    """What is derived from the rows in addition to the tables.

    Attributes:
        counts: rows by kind (``Outcome.counts``).
        errors: rows by error code.
        copies: rows whose file is byte for byte that of another row; None if no file could be read.
        cases: the biopsies.
        report: the rows that the report shows; None without a report.
        night: the probabilities, to be compared with those of the site; None without a comparison.
    """

    def __init__(self, options: Options, copies: int | None) -> None:
        from glomedge.cases.summary import CaseTally

        self.copies = copies

        self.counts: Counter[str] = Counter(ok=0, flagged=0, error=0, positive=0, negative=0, uncertain=0)
        self.errors: Counter[str] = Counter()
        self.cases: CaseTally = CaseTally(exclude_flagged=options.exclude_flagged)
        self.report: RunPageSelection | None = None
        self.night: NightScores | None = None
        if options.report:
            from glomedge.reports.run_page_data import RunPageSelection

            self.report = RunPageSelection()

    def add(self, block: RowBlock) -> None:
        """Take rows, in order."""
        counts = self.counts
        for verdict, number in Counter(block.verdicts).items():
            kind, _, code = verdict.status.partition(":")
            counts[kind] += number
            if kind == "error":
                self.errors[code] += number
            counts["positive"] += number * (verdict.label == 1)
            counts["negative"] += number * (verdict.label == 0)
            counts["uncertain"] += number * (verdict.review == 1)
        self.cases.add_many(block.cases, block.verdicts, block.probabilities)
        if self.report is not None:
            self.report.add(block)
        if self.night is not None:
            self.night.add(block)


def _closed_quietly(writer: TableWriter) -> None:
    """Of no effect where all went well; else the file will be discarded, and a second error would hide the first."""
    with contextlib.suppress(Exception):
        writer.close()


def cases_csv(cases: list[CaseSummary]) -> Iterator[bytes]:
    """The lines of ``cases.csv``, one at a time: there may be as many cases as crops."""
    from glomedge.cases.summary import CASE_COLUMNS, to_row

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CASE_COLUMNS)
    yield text.getvalue().encode("utf-8")
    for summary in cases:
        text.seek(0)
        text.truncate()
        row = to_row(summary)
        writer.writerow([guard(row[name]) if name == "case" else neutralise(row[name]) for name in CASE_COLUMNS])
        yield text.getvalue().encode("utf-8")
