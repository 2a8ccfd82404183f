"""Answers as DICOM Microscopy Bulk Simple Annotations (PS3.3, A.87): one group of polygons for each class."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import IO, TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from glomedge.errors import UsageError
from glomedge.slides.annotations.answers import AnsweredOutline, RunNote
from glomedge.slides.annotations.dicom_parts import (
    MAX_SHORT_CHARACTERS,
    answer_texts,
    class_code,
    encoded,
    glomerulus,
    probability,
    series_of,
    uid_of,
)
from glomedge.slides.dicom_source import DicomSource, dicom_modules, usable_header

if TYPE_CHECKING:
    from highdicom.ann import AnnotationGroup

_ORDER = (1, 0, None)


class _Group:
    """The polygons of one class."""

    def __init__(self) -> None:
        self.polygons: list[npt.NDArray[np.float32]] = []
        self.probabilities: list[float] = []

    def add(self, answered: AnsweredOutline) -> bool:
        """Take its polygons; whether there are any that have three different points in 32-bit numbers."""
        before = len(self.polygons)
        for part in answered.outline.polygons:
            ring = part.exterior.astype(np.float32)
            # The first point must not come again (PS3.3, C.37.1.2), and two points may be one when rounded.
            while len(ring) > 1 and (ring[0] == ring[-1]).all():
                ring = ring[:-1]
            if len(np.unique(ring, axis=0)) < 3:
                continue
            self.polygons.append(ring)
            if answered.probability is not None:
                self.probabilities.append(answered.probability)
        return len(self.polygons) > before


def write_dicom_ann(
    handle: IO[bytes], answers: Iterable[AnsweredOutline], note: RunNote, source: DicomSource, written_at: datetime
) -> int:
    """Write one instance; an outline that has no shape is left out, a hole in an outline is not drawn.

    An outline of several parts is several polygons. All polygons are held, as 32-bit numbers; one of fewer than three
    different points in these is left out.

    Args:
        handle: to write into.
        answers: in the order of the file, outlines in the slide's own level-0 pixels.
        note: of the run.
        source: the slide.
        written_at: when the run began; the instance says so.

    Returns:
        How many outlines were written.

    Raises:
        UsageError: no outline has a shape, so that there is nothing to annotate; or the slide's header is unusable.
    """
    dicom_modules()
    from highdicom.ann import MicroscopyBulkSimpleAnnotations

    groups = {label: _Group() for label in _ORDER}
    content, count = hashlib.sha256(), 0
    for answered in answers:
        if answered.outline.error is None and groups[answered.label].add(answered):
            content.update(repr(answer_texts(answered)).encode("utf-8", "backslashreplace"))
            count += 1
    if not count:
        raise UsageError("No outline has a shape, so that there is nothing to write as DICOM annotations.")
    series = series_of("ann", source.sop_instance_uid, note, written_at, content.hexdigest())
    filled = [label for label in _ORDER if groups[label].polygons]
    written = [
        _as_dicom(groups[label], label, number, note, series["sop_instance_uid"])
        for number, label in enumerate(filled, 1)
    ]
    with usable_header(source.name):
        dataset = MicroscopyBulkSimpleAnnotations(
            source_images=[source.header],
            annotation_coordinate_type="2D",
            annotation_groups=written,
            content_label="GLOMERULI",
            content_description=f"Glomeruli, {note.model_name}"[:MAX_SHORT_CHARACTERS],
            **series,
        )
        data = encoded(dataset, written_at)
    handle.write(data)
    return count


def _as_dicom(group: _Group, label: int | None, number: int, note: RunNote, instance_uid: str) -> AnnotationGroup:
    from highdicom import AlgorithmIdentificationSequence
    from highdicom.ann import AnnotationGroup, Measurements
    from pydicom.sr.codedict import codes

    measured: list[Any] = []
    if label is not None:
        values = np.array(group.probabilities, np.float32)
        measured.append(Measurements(probability(), values, codes.UCUM.NoUnits))
    named = class_code(label, note)
    return AnnotationGroup(
        number=number,
        uid=uid_of("group", instance_uid, number),
        label=named.meaning,
        annotated_property_category=codes.SCT.AnatomicalStructure,
        annotated_property_type=named,
        graphic_type="POLYGON",
        graphic_data=group.polygons,
        algorithm_type="AUTOMATIC",
        algorithm_identification=AlgorithmIdentificationSequence(
            name=note.model_name[:MAX_SHORT_CHARACTERS],
            family=codes.DCM.ArtificialIntelligence,
            version=note.model_sha256[:MAX_SHORT_CHARACTERS],
            parameters={"threshold": repr(note.threshold)},
        ),
        measurements=measured or None,
        anatomic_regions=[codes.SCT.Kidney],
        primary_anatomic_structures=[glomerulus()],
    )
