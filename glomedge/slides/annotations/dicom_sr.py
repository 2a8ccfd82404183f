"""Answers as a DICOM structured report (TID 1500): the biopsy's percentage, and a region for each glomerulus."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from glomedge.cases.summary import CaseSummary
from glomedge.errors import UsageError
from glomedge.slides.annotations.answers import AnsweredOutline, RunNote
from glomedge.slides.annotations.dicom_parts import (
    MANUFACTURER,
    MAX_SHORT_CHARACTERS,
    MODEL_NAME,
    answer_texts,
    class_code,
    code,
    encoded,
    glomerulus,
    probability,
    series_of,
    uid_of,
)
from glomedge.slides.dicom_source import DicomSource, dicom_modules, usable_header

if TYPE_CHECKING:
    from highdicom.sr import (
        AlgorithmIdentification,
        MeasurementsAndQualitativeEvaluations,
        ObservationContext,
        PlanarROIMeasurementsAndQualitativeEvaluations,
    )

MAX_REGIONS = 1000
"""Of one report, which is built in memory. A biopsy has some tens of glomeruli; a nephrectomy has its place in ANN."""


def write_dicom_sr(
    handle: IO[bytes],
    answers: Iterable[AnsweredOutline],
    note: RunNote,
    source: DicomSource,
    biopsy: CaseSummary,
    written_at: datetime,
) -> int:
    """Write one report; an outline that has no shape is left out, a hole in an outline is not drawn.

    The report is unverified and preliminary. Its first group is the biopsy's: percentage of globally sclerotic
    glomeruli, how many were classified, and the 95% interval; the following are the slide's glomeruli.

    Args:
        handle: to write into.
        answers: in the order of the file, outlines in the slide's own level-0 pixels.
        note: of the run.
        source: the slide.
        biopsy: the result of the biopsy that the slide is of, over all its slides.
        written_at: when the run began; the report says so.

    Returns:
        How many outlines were written.

    Raises:
        UsageError: more than 1,000 regions; or the slide's header is unusable.
    """
    dicom_modules()
    from highdicom.sr import Comprehensive3DSR, MeasurementReport
    from pydicom.sr.codedict import codes

    regions: list[PlanarROIMeasurementsAndQualitativeEvaluations] = []
    content, count = hashlib.sha256(repr(biopsy).encode("utf-8", "backslashreplace")), 0
    algorithm = _algorithm(note)
    for answered in answers:
        if answered.outline.error is None:
            regions += _regions(answered, note, source, algorithm)
            content.update(repr(answer_texts(answered)).encode("utf-8", "backslashreplace"))
            count += 1
        if len(regions) > MAX_REGIONS:
            raise UsageError(
                f"The slide has more than {MAX_REGIONS:,} outlines, too many for a DICOM report. Choose --format "
                "dicom-ann."
            )
    groups = [_biopsy(biopsy, source, algorithm), *regions]
    with usable_header(source.name):
        report = MeasurementReport(
            observation_context=_observer(note),
            procedure_reported=codes.SCT.LightMicroscopy,
            imaging_measurements=groups,
            title=codes.DCM.ImagingMeasurementReport,
            referenced_images=[source.header],
        )
        dataset = Comprehensive3DSR(
            evidence=[source.header],
            content=report[0],
            **series_of("sr", source.sop_instance_uid, note, written_at, content.hexdigest()),
        )
        data = encoded(dataset, written_at)
    handle.write(data)
    return count


def _algorithm(note: RunNote) -> AlgorithmIdentification:
    from highdicom.sr import AlgorithmIdentification

    return AlgorithmIdentification(
        name=note.model_name, version=note.model_sha256, parameters=[f"threshold {note.threshold!r}"]
    )


def _observer(note: RunNote) -> ObservationContext:
    from highdicom.sr import DeviceObserverIdentifyingAttributes, ObservationContext, ObserverContext
    from pydicom.sr.codedict import codes

    return ObservationContext(
        observer_device_context=ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=DeviceObserverIdentifyingAttributes(
                uid=uid_of("device", *note.as_texts().values()),
                name=MODEL_NAME,
                manufacturer_name=MANUFACTURER,
                model_name=note.model_name[:MAX_SHORT_CHARACTERS],
            ),
        )
    )


def _biopsy(
    biopsy: CaseSummary, source: DicomSource, algorithm: AlgorithmIdentification
) -> MeasurementsAndQualitativeEvaluations:
    from highdicom.sr import FindingSite, Measurement, MeasurementsAndQualitativeEvaluations, TrackingIdentifier
    from pydicom.sr.codedict import codes
    from pydicom.sr.coding import Code

    glomeruli = Code("{glomeruli}", "UCUM", "glomeruli")
    values = [
        ("PCT-GS", "Globally sclerotic glomeruli, percent", biopsy.percent_gs, codes.UCUM.Percent),
        ("PCT-GS-LOW", "Percent globally sclerotic, 95% interval, lower end", biopsy.interval_low, codes.UCUM.Percent),
        (
            "PCT-GS-HIGH",
            "Percent globally sclerotic, 95% interval, upper end",
            biopsy.interval_high,
            codes.UCUM.Percent,
        ),
        ("N-GS", "Globally sclerotic glomeruli", biopsy.globally_sclerotic, glomeruli),
        ("N", "Classified glomeruli", biopsy.classified, glomeruli),
    ]
    return MeasurementsAndQualitativeEvaluations(
        tracking_identifier=TrackingIdentifier(
            uid=uid_of("biopsy", source.header.StudyInstanceUID, biopsy.case), identifier=biopsy.case
        ),
        finding_type=code("BIOPSY", "Biopsy as a whole"),
        finding_sites=[FindingSite(codes.SCT.Kidney)],
        algorithm_id=algorithm,
        measurements=[
            Measurement(name=code(short, meaning), value=round(value, 4), unit=unit)
            for short, meaning, value, unit in values
            if value is not None
        ],
    )


def _regions(
    answered: AnsweredOutline, note: RunNote, source: DicomSource, algorithm: AlgorithmIdentification
) -> Iterator[PlanarROIMeasurementsAndQualitativeEvaluations]:
    """A region for each part of an outline."""
    from highdicom.sr import (
        FindingSite,
        ImageRegion3D,
        Measurement,
        PlanarROIMeasurementsAndQualitativeEvaluations,
        QualitativeEvaluation,
        TrackingIdentifier,
    )
    from pydicom.sr.codedict import codes

    outline = answered.outline
    measured: list[Any] = []
    if answered.probability is not None:
        measured = [Measurement(name=probability(), value=answered.probability, unit=codes.UCUM.NoUnits)]
    for number, part in enumerate(outline.polygons):
        # A polygon of a report is closed by its first point (PS3.3, C.18.9), unlike one of ANN.
        points = source.on_slide_mm(np.vstack([part.exterior, part.exterior[:1]]))
        yield PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=TrackingIdentifier(
                uid=uid_of("glomerulus", source.sop_instance_uid, outline.source, outline.place, outline.id, number),
                identifier=outline.id or f"outline {outline.place}",
            ),
            referenced_region=ImageRegion3D("POLYGON", points, str(source.header.FrameOfReferenceUID)),
            finding_type=glomerulus(),
            finding_sites=[FindingSite(codes.SCT.Kidney)],
            algorithm_id=algorithm,
            measurements=measured or None,
            qualitative_evaluations=[
                QualitativeEvaluation(code("CLASS", "Class of glomerulus"), class_code(answered.label, note))
            ],
        )
