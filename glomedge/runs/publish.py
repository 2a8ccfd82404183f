"""From the rows of a finished run to the files a person opens: tables, cases, heatmaps, report, run record."""

from __future__ import annotations

import csv
import io
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from glomedge.errors import OutputError
from glomedge.files.names import guard, neutralise
from glomedge.files.writing import Staged
from glomedge.model.file import ModelFile
from glomedge.pipeline.inputs import Scan
from glomedge.results.folder import WORK_FOLDER
from glomedge.results.rows import Row
from glomedge.results.tables import WRITERS, byte_order_mark
from glomedge.results.thumbnails import Spool
from glomedge.runs.options import Options
from glomedge.runs.outcome import OWNED, Outcome

if TYPE_CHECKING:
    from glomedge.cases.names import CaseFinder
    from glomedge.cases.summary import CaseSummary, CropCall
    from glomedge.engine.engine import Engine
    from glomedge.model.spec import OperatingPoint
    from glomedge.results.grey_crops import GreyStore

Rows = Callable[[], Iterator[Row]]


class Publication:
    """Everything that is written once a run is complete; ``write`` fills the outcome."""

    def __init__(
        self,
        options: Options,
        model: ModelFile,
        threshold: float,
        outcome: Outcome,
        found: Scan,
        engine: Engine | None,
        spool: Spool | None,
        kept: GreyStore | None,
        finder: CaseFinder,
    ) -> None:
        self._options = options
        self._model = model
        self._threshold = threshold
        self._outcome = outcome
        self._found = found
        self._engine = engine
        self._spool = spool
        self._kept = kept
        self._finder = finder

    def write(self, rows: Rows, batch_size: int, begin_s: float) -> None:
        """Make every file and let them appear together; the run record comes last and names the others' SHA-256.

        Args:
            rows: gives all rows, in order, each time it is called; they are never all in memory.
            begin_s: ``perf_counter`` at the run's start.

        Raises:
            OutputError: a file cannot be written; those of an earlier run are then still there. Or a heatmap could not:
                then everything else is written.
            MissingExtraError: Parquet without pyarrow.
        """
        from glomedge.cases.names import UNKNOWN_CASE
        from glomedge.cases.summary import summarise

        options, outcome = self._options, self._outcome
        self._count(rows())
        outcome.cases = summarise(_calls(rows()), self._operating_point(), options.exclude_flagged, finder=self._finder)
        for pooled in outcome.cases:
            if pooled.case == UNKNOWN_CASE:
                # Pooling several biopsies into one percentage must never pass for an answer.
                outcome.notes.append(
                    f"{pooled.crops} crops have names that tell no biopsy. They stand together as '{UNKNOWN_CASE}', "
                    "and their percentage is not one biopsy's. Give --case-pattern with a group 'case' that fits "
                    "their names."
                )
        if options.exclude_flagged and outcome.counts["flagged"]:
            outcome.notes.append(
                f"{outcome.counts['flagged']} flagged crops were predicted on and left out of the case counts "
                "(--exclude-flagged)."
            )
        undrawn = self._heatmaps(rows)
        if self._kept is not None:
            self._kept.drop()  # its room is the report's now
        staged = Staged(options.output, options.output / WORK_FOLDER, OWNED)
        try:
            mark = byte_order_mark(options.formats)
            for name in dict.fromkeys(("csv", *(name for name in options.formats if name in WRITERS))):
                with staged.open(f"predictions.{name}") as handle:
                    if name == "csv":
                        handle.write(mark)
                    WRITERS[name](handle, rows(), tta=options.tta > 1)
            with staged.open("cases.csv") as handle:
                handle.write(mark + cases_csv(outcome.cases))
            outcome.wall_s = time.perf_counter() - begin_s
            self._record(staged, batch_size)
            if options.report and self._spool is not None:
                from glomedge.reports.model_card import fragment
                from glomedge.reports.run_page import Report

                card = fragment(self._model.spec, self._model.path.name, self._model.sha256)
                with staged.open("report.html") as handle:
                    Report(outcome.record, outcome.cases, rows, self._spool, options.review_band, card=card).write(
                        handle
                    )
            self._record_files(staged)
            outcome.files = staged.commit()
        finally:
            staged.discard()
        if undrawn is not None:
            raise OutputError(
                f"{undrawn} The tables and the report are written; --resume draws without predicting again."
            )

    def _operating_point(self) -> OperatingPoint | None:
        """The model's, which holds at the model's threshold, and for one view of each crop, only."""
        point, threshold = self._model.spec.operating_point, self._model.spec.threshold
        if point is None:
            return None
        if self._threshold != threshold:
            other = f"at its threshold {threshold:g}, not at {self._threshold:g}"
        elif self._options.tta > 1:
            other = f"on single views, not on the mean over {self._options.tta}"
        else:
            return point
        self._outcome.notes.append(
            f"The corrected percentages are left out: the model's sensitivity and specificity were measured {other}."
        )
        return None

    def _heatmaps(self, rows: Rows) -> OutputError | None:
        """Draw; a folder that cannot be written must not cost the tables, so what it raised is handed back."""
        if self._options.heatmaps is None or self._spool is None:
            return None
        from glomedge.reports.overlay import logit_threshold
        from glomedge.runs.heatmaps import write_heatmaps

        turn = logit_threshold(self._threshold, self._model.spec.temperature)
        try:
            self._outcome.notes += write_heatmaps(self._options, self._found, rows, self._spool, self._kept, turn)
        except OutputError as error:
            self._outcome.notes.append(f"The heatmaps are not complete: {error}")
            return error
        return None

    def _count(self, rows: Iterator[Row]) -> None:
        counts: Counter[str] = Counter(ok=0, flagged=0, error=0, positive=0, negative=0, uncertain=0)
        errors: Counter[str] = Counter()
        seen: set[str] = set()
        for row in rows:
            kind, _, code = row.status.partition(":")
            counts[kind] += 1
            if kind == "error":
                errors[code] += 1
            else:
                counts["positive" if row.label else "negative"] += 1
                counts["uncertain"] += row.review or 0
            if row.sha256 is not None:
                counts["copies"] += row.sha256 in seen
                seen.add(row.sha256)
        self._outcome.counts, self._outcome.errors = dict(counts), dict(sorted(errors.items()))
        if counts["copies"]:
            self._outcome.notes.append(
                f"Byte for byte copies of other files: {counts['copies']}. Each counts as a crop of its own."
            )

    def _record(self, staged: Staged, batch_size: int) -> None:
        from glomedge.runs.record import record

        self._outcome.record = record(
            self._options, self._model, self._threshold, self._outcome, self._engine, batch_size
        )

    def _record_files(self, staged: Staged) -> None:
        import json

        self._outcome.record["files_sha256"] = staged.sha256s()
        with staged.open("run.json") as handle:
            handle.write(json.dumps(self._outcome.record, indent=2, ensure_ascii=False).encode("utf-8") + b"\n")


def _calls(rows: Iterator[Row]) -> Iterator[CropCall]:
    from glomedge.cases.summary import CropCall

    for row in rows:
        yield CropCall(row.path, row.probability, row.label, row.status)


def cases_csv(cases: list[CaseSummary]) -> bytes:
    """The bytes of ``cases.csv``."""
    from glomedge.cases.summary import CASE_COLUMNS, to_row

    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(CASE_COLUMNS)
    for summary in cases:
        row = to_row(summary)
        writer.writerow([guard(row[name]) if name == "case" else neutralise(row[name]) for name in CASE_COLUMNS])
    return text.getvalue().encode("utf-8")
