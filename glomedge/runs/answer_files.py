"""``--format geojson``, ``dsa``, ``dicom-sr``, ``dicom-ann``: the answers of each slide as outlines for its viewer.

They stand as ``annotations/<slide>.geojson``, ``.json``, ``.sr.dcm`` and ``.ann.dcm`` in the output folder. The file of
outlines is read once more for their shapes, one by one, so that memory stays flat however many there are.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import PurePosixPath
from typing import IO

from glomedge.cases.summary import CaseSummary
from glomedge.cases.text import counted, some
from glomedge.errors import OutputError, UsageError
from glomedge.files.names import escape_name
from glomedge.files.writing import Staged, sha256_of
from glomedge.model.file import ModelFile
from glomedge.results.published_rows import PublishedRows
from glomedge.runs.options import DICOM_FORMATS, Options
from glomedge.runs.outcome import ANNOTATIONS
from glomedge.runs.slide_parts import OutlinedSlide, SlideParts, on_level_0
from glomedge.slides.annotations.answers import AnsweredOutline, RunNote
from glomedge.slides.annotations.dicom_ann import write_dicom_ann
from glomedge.slides.annotations.dicom_sr import write_dicom_sr
from glomedge.slides.annotations.dsa_writer import write_dsa
from glomedge.slides.annotations.outline import Outline
from glomedge.slides.annotations.qupath_writer import SCRIPT_NAME, script_bytes, write_qupath
from glomedge.slides.annotations.reading import read_outlines
from glomedge.slides.dicom_source import dicom_source
from glomedge.system.stopping import unless_stopped

_ENDINGS = {"geojson": ".geojson", "dsa": ".json", "dicom-sr": ".sr.dcm", "dicom-ann": ".ann.dcm"}


def _names(slides: list[OutlinedSlide]) -> list[str]:
    """The path of each slide without its suffix, or with it where two slides would get one name; escaped."""
    bare = [str(PurePosixPath(escape_name(slide.relative)).with_suffix("")) for slide in slides]
    used = Counter(name.casefold() for name in bare)
    return [
        name if used[name.casefold()] == 1 else escape_name(slide.relative)
        for name, slide in zip(bare, slides, strict=True)
    ]


def planned(options: Options, parts: SlideParts | None) -> list[tuple[OutlinedSlide, str, str]]:
    """The files of a run: the slide, the format, and the name relative to the output folder."""
    if parts is None:
        return []
    slides = [slide for slide in parts.slides if slide.annotations is not None]
    return [
        (slide, format_, f"{ANNOTATIONS}/{name}{_ENDINGS[format_]}")
        for slide, name in zip(slides, _names(slides), strict=True)
        for format_ in options.annotation_formats
        if format_ not in DICOM_FORMATS or slide.relative not in parts.no_dicom
    ]


def find_dicom(options: Options, parts: SlideParts) -> list[str]:
    """Find out to which slides DICOM answers can refer (``SlideParts.no_dicom``), before anything is classified.

    Returns:
        A note on the others, if there are any.

    Raises:
        UsageError: none of them is a DICOM slide.
        MissingExtraError: highdicom is not installed.
    """
    if not set(options.annotation_formats) & set(DICOM_FORMATS):
        return []
    slides = [slide for slide in parts.slides if slide.annotations is not None]
    refusals = {}
    for slide in slides:
        try:
            dicom_source(slide.path)
        except UsageError as error:
            refusals[slide.relative] = error
    if refusals and len(refusals) == len(slides):
        raise next(iter(refusals.values()))
    parts.no_dicom = frozenset(refusals)
    if not refusals:
        return []
    return [f"No answers in DICOM for {some(map(escape_name, refusals))}: {next(iter(refusals.values()))}"]


def _changed(slide: OutlinedSlide) -> bool:
    """Whether a slide's file of outlines is another one than the run read, or gone."""
    assert slide.annotations is not None
    try:
        return sha256_of(slide.annotations) != slide.annotations_sha256
    except OSError:
        return True


@dataclass(frozen=True)
class AnswerFiles:
    """Writes the answers of a finished run as outlines.

    Attributes:
        options: of the run.
        model: the model used.
        parts: the slides.
        rows: of all inputs.
        cases: the biopsies' results.
        started: when the run began.
        stop: polled at every outline; once true, StoppedError is raised.
    """

    options: Options
    model: ModelFile
    parts: SlideParts
    rows: PublishedRows
    cases: Sequence[CaseSummary]
    started: datetime
    stop: Callable[[], bool]

    def write(self, staged: Staged) -> list[str]:
        """Stage every file, but for those of a slide whose file of outlines is no longer what the run read.

        Returns:
            Notes on those slides, and on DICOM files that cannot be: too many regions for a report, nothing to
            annotate.

        Raises:
            OutputError: a file cannot be written, or a file of outlines changes while it is read.
        """
        note = RunNote(
            model_name=escape_name(bytes(self.model.path)).rpartition("/")[2],
            model_sha256=self.model.sha256,
            threshold=self.rows.threshold,
            class_names=self.rows.class_names,
        )
        files, notes = self._unchanged(planned(self.options, self.parts))
        for slide, format_, name in files:
            if format_ in DICOM_FORMATS:
                try:
                    data = self._dicom(slide, format_, note)
                except UsageError as error:
                    notes.append(f"{name} was not written: {error}")
                    continue
                with staged.open(name) as handle:
                    handle.write(data)
            else:
                with staged.open(name) as handle:
                    self._file(handle, slide, format_, note)
        if any(format_ == "geojson" for _, format_, _ in files):
            with staged.open(f"{ANNOTATIONS}/{SCRIPT_NAME}") as handle:
                handle.write(script_bytes())
        return notes

    def _unchanged(
        self, files: list[tuple[OutlinedSlide, str, str]]
    ) -> tuple[list[tuple[OutlinedSlide, str, str]], list[str]]:
        """The files whose outlines are what the run read, and a note on the others.

        The answers in the tables are of the pixels, and stay right whatever becomes of the outlines.
        """
        slides = {slide.first: slide for slide, _, _ in files}
        changed = {first: slide for first, slide in slides.items() if _changed(slide)}
        if not changed:
            return files, []
        kept = [file for file in files if file[0].first not in changed]
        names = some([escape_name(slide.relative) for slide in changed.values()], 3)
        number = len(files) - len(kept)
        return kept, [
            f"{counted(number, 'file')} for viewers {'was' if number == 1 else 'were'} not written, because the file "
            f"of outlines has changed since the run read it: {names}. The tables are of the outlines as they were. Put "
            "the file back and run again with --resume, or classify the new outlines into another --output."
        ]

    def _dicom(self, slide: OutlinedSlide, format_: str, note: RunNote) -> bytes:
        """One DICOM file, which is small or built in memory anyway. Raises UsageError where it cannot be."""
        handle = io.BytesIO()
        answers = unless_stopped(self._answered(slide), self.stop)
        source = dicom_source(slide.path)
        if format_ == "dicom-ann":
            write_dicom_ann(handle, answers, note, source, self.started)
        else:
            case = self.rows.cases.case_of(escape_name(self.parts.name(slide.first))).case
            biopsy = next(summary for summary in self.cases if summary.case == case)
            write_dicom_sr(handle, answers, note, source, biopsy, self.started)
        return handle.getvalue()

    def _file(self, handle: IO[bytes], slide: OutlinedSlide, format_: str, note: RunNote) -> None:
        answers = unless_stopped(self._answered(slide), self.stop)
        if format_ == "geojson":
            write_qupath(handle, answers, note, slide.origin_px)
        else:
            write_dsa(handle, answers, note)

    def _answered(self, slide: OutlinedSlide) -> Iterator[AnsweredOutline]:
        """The outlines of a slide in its own pixels, with their answers, in the order of the file."""
        assert slide.annotations is not None
        assert slide.choice is not None
        number = slide.first
        for outline in read_outlines(slide.annotations):
            if not slide.choice.takes(outline):
                continue
            if number >= slide.first + slide.parts:
                raise OutputError(
                    f"{escape_name(bytes(slide.annotations))} changed while its answers were written. Put it back, "
                    "then run again with --resume."
                )
            yield self._answer(on_level_0(outline, slide.origin_px), number)
            number += 1

    def _answer(self, outline: Outline, number: int) -> AnsweredOutline:
        answers = self.rows.answers
        row = answers.find(self.parts.name(number))
        assert row is not None
        stored = answers.stored(row)
        label = None if stored.probability is None else int(stored.probability >= self.rows.threshold)
        return AnsweredOutline(outline, stored.status, stored.probability, label)
